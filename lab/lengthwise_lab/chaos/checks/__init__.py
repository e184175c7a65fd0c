"""The checks of a chaos run: they read a finished history and report every violated guarantee."""
