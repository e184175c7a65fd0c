"""Sequence scheduling: its static batches, replayed and corrected."""
