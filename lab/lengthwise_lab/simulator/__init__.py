"""An event simulator of LLM serving, compiled: arrivals, an engine, a policy, results."""
