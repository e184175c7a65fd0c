"""Break a whole system on purpose, record what every client saw, and check the record.

`run.py` does all of it. `system/` starts the processes, `clients/` use them, `nemesis.py` breaks
them by the plan of `faults.py`, `auditor.py` reads what is stored at the end. All of them write one
history (`history.py`). `checks/` reads that history and nothing else. Called by `lengthwise bench
chaos`.
"""
