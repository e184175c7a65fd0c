"""What every HTTP route shares: bodies, events, listings, and the OpenAPI document."""
