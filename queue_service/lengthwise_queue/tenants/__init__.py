"""Tenants: API keys, weights, limits."""
