"""What may be compared with what, how sure it is, and what to be wary of."""
