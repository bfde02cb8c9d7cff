"""What a plan computes with: batches, lengths, limits, checkpoints. Pure."""
