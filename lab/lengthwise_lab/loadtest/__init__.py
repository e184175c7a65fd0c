"""Load tests of a running service: workloads, driver, measures, reports."""
