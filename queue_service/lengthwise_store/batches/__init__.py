"""Batches in Redis."""
