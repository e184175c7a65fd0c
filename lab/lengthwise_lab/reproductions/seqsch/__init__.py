"""Sequence Scheduling: its batches, replayed and corrected."""
