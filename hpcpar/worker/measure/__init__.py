"""The only owner of clocks: every strategy is timed by the same loop. Light at import."""
