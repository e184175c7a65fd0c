"""The workloads: lengths, arrivals, tenants and predictions of a chosen quality."""
