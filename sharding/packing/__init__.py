"""Clips to shards: plan, tasks, engines and reports."""
