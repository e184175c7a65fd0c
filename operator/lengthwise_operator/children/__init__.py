"""The objects that the operator makes for an LLMService, as manifests. Pure."""
