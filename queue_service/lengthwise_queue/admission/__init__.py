"""A checked request becomes a job, or is refused with a reason."""
