"""What is computed: one file a workload. Light at import; torch is imported inside `load`."""
