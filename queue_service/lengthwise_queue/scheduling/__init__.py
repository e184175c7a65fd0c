"""The order of service: policy, pricing, and the snapshot of a queue that both read."""
