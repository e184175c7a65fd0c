"""Clients of what the operator talks to: the Kubernetes API, the queue service, the predictors."""
