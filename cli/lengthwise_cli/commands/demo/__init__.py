"""`lengthwise demo`: a race of two orders on a small real LLM."""
