"""Compare this queue with other task queues for Python, on one server, in one run.

`lengthwise bench queue` calls rounds.py. Each library is one module in `libraries`. It runs in
processes of its own (benchmark_process.py), never in the process that measures.
"""
