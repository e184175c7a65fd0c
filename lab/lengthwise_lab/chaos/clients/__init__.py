"""The clients of a chaos run: the jobs that they submit, and how they call the queue service."""
