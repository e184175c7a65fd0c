"""Turn a checked request into a job, or refuse it with a reason."""
