"""LTR (vllm-ltr): its headline numbers on simulated engines."""
