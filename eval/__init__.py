"""Programs that score, average and report."""
