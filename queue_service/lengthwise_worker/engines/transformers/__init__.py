"""A Hugging Face model in this process, in static batches."""
