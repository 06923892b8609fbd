"""Processes: ranks, cluster tasks and the software environment."""
