"""The user's own program: started on every rank, watched, timed."""
