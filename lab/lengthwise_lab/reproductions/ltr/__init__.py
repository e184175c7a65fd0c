"""vllm-ltr: its runs on simulated engines."""
