"""Predicted lengths: asking for them, correcting them, and deciding whether to trust them."""
