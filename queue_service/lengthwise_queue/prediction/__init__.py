"""Predicted lengths: request them, correct them, and judge whether they are good enough."""
