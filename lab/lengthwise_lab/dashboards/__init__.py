"""The Grafana dashboards: their queries, and pictures of them."""
