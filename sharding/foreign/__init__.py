"""Tar shards that other tools wrote."""
