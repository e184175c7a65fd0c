"""The LLMService resource: typed models of spec and status, rules, and the CRD."""
