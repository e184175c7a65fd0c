"""The probabilistic length model: batches from predicted distributions of lengths."""
