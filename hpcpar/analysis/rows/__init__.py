"""Run folders to rows: read, cut, count, keep."""
