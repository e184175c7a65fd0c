"""A simulated engine with vLLM's API."""
