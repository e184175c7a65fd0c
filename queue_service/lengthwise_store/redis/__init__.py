"""How a process reaches Redis: connections, failover, settings, durability, errors."""
