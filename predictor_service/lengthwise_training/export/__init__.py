"""Writes a trained predictor as the folder that serving loads."""
