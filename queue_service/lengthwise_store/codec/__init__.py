"""Replies and records of Redis to values and back: predictions, jobs, queues, output entries.

One module for each kind of value, because together they pass 300 lines. Called by the store; no
module here has a client or a clock.
"""
