"""Breaks a whole system on purpose, writes down what everybody saw, and checks the account.

`run.py` is the whole of it: `system.py` starts real processes, `clients.py` use them, `nemesis.py`
breaks them, all of it into one history (`history.py`), which `checker.py` reads afterwards and
knows nothing else. Called by `lengthwise bench chaos`.
"""
