"""What a training step measures, skips and averages."""
