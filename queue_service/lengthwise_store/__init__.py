"""The store: all data of Lengthwise in Redis. Used by the queue service and the worker."""
