"""Draws of an epoch and their augmentation, as functions of (seed, epoch, position)."""
