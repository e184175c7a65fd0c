"""The system under test: real queue services and workers on a Valkey pair, and a model that is ours."""
