"""Measures the reaction of the queue to a predictor that becomes bad."""
