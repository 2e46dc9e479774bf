"""A workload: what arrives and when."""
