"""The probabilistic length model: batches from distributions."""
