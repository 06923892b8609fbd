"""Batches of an epoch: what the trainer and users iterate over."""
