"""This queue beside other task queues for Python, on one server, in one run.

`lengthwise bench queue` calls rounds.py. Each library is one module in `libraries`; it runs in
processes of its own (child.py), never in the one that measures.
"""
