"""Fits the bundled model to a user's own lengths, in closed form."""
