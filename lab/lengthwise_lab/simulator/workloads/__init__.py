"""Requests for the simulator: arrivals, lengths, predictions."""
