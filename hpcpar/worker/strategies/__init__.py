"""How work is spread: one file a strategy. Light at import; torch is imported inside `build`."""
