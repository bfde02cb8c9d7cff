"""The results wing: records to rows to tables. Never imports torch."""
