"""Training of the length predictor: dataset, train, evaluate, export."""
