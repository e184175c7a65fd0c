"""The LLMService resource: typed models, rules, status, and the CRD made from them."""
