"""What the queue does when its predictor turns bad: streams, a run, a report, a chart."""
