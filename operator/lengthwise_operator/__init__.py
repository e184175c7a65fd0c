"""The operator: turns an LLMService into a queue-fronted, scaled and repaired vLLM."""
