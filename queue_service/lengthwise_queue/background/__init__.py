"""Work beside the requests: periodic jobs, background tasks, and metrics read from the store."""
