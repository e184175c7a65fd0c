"""Everything that Lengthwise keeps in Redis, shared by the queue service and the worker."""
