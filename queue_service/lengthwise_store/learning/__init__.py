"""Stores what queues learn from, and what they learned. Called by the queue service."""
