"""The compute-node wing: one entry, strategies, workloads, measurement. Never imports jinja2 or pandas."""
