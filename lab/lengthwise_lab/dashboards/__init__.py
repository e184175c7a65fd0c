"""The Grafana dashboards of the chart: their queries, and pictures of them."""
