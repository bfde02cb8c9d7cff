"""Rows to scaling tables, and what follows from them: laws, crossovers, size-up."""
