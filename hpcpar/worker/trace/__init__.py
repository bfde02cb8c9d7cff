"""Reads sizes and work off a model's own code, without its memory and without its time; for a forecast."""
