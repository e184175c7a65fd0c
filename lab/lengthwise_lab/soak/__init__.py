"""Constant load of every kind of job, and a check of every key that stays in Redis."""
