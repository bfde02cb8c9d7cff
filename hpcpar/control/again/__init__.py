"""Runs that are sent once more: on request, by policy, or to see whether the same bytes give the same."""
