"""The routes of jobs, queues and health."""
