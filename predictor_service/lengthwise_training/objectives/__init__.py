"""What a predictor learns: tasks, heads and losses."""
