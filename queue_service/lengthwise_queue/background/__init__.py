"""Periodic work of the queue service: idle queues and metrics of the store."""
