"""The operator: runs each LLMService as vLLM pods with a queue, scales them and repairs them."""
