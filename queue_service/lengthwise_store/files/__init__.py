"""Files in Redis."""
