"""The compiled event loop: the waiting queue, the engine's slots and the simulated time."""
