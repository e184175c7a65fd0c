"""Rows of measured lengths: collect them, read them, describe them, lay them out."""
