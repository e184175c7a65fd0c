"""The compiled event loop: queue, slots, time."""
