"""What people set for a queue, and what its workers publish: kept apart, changed field by field."""
