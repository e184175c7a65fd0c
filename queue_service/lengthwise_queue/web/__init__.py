"""Parts that all HTTP routes share: bodies, events, listings, the OpenAPI document."""
