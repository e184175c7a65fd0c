"""The system under test: real queue services and workers on two Valkeys, and a model server."""
