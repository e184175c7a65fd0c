"""Trains one task on one file of rows: assembly, fit, measurement."""
