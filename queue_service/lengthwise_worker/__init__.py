"""The worker: claims jobs, drives an engine, reports back."""
