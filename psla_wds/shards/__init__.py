"""Tar shards, the index of their clips, and label overlays."""
