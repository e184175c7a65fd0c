"""Access to Redis: connections, failover, settings, durability, errors."""
