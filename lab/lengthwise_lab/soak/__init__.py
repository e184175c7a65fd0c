"""Constant load of every kind, and what Redis still holds afterwards."""
