"""What two components of Lengthwise must agree on, and nothing else."""
