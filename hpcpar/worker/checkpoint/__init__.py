"""Checkpoints of a run: written so that a kill costs none that was there, read so that a damaged one is never used.

manifest  what is in a checkpoint, sealed by a digest       shelf   the folders on the disk
tensors   torch.distributed.checkpoint without pickles      keeper  when to save, what to go on from
"""
