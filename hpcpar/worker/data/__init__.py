"""Data sets: where samples come from. Light at import; every one is addressed by sample number."""
