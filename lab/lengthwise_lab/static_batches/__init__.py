"""Static batches of a real model: arrival order against length order."""
