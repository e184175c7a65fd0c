"""Load tests of a running service: workloads, arrivals, a driver, measures and reports."""
