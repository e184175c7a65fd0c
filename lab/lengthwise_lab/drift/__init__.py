"""How the queue reacts when its predictor becomes bad: streams, a run, a report, a chart."""
