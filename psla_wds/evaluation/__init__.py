"""Scores, metrics and what is derived from scores."""
