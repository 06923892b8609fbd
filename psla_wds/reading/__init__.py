"""Byte ranges of shards, read ahead of time by threads."""
