"""Where a policy is proved: workloads, measurements, charts."""
