"""The REST API: jobs, queues, health."""
