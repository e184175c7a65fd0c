"""Stored responses in Redis."""
