"""Which job runs next: policy, pricing, and the snapshot of a queue that both read."""
