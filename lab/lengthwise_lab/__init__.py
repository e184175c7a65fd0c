"""The lab: simulator, reproductions, load tests, and tests of the whole system."""
