"""Compares predictors on the same rows: scores, baselines, reports."""
