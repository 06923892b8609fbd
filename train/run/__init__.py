"""The folder of a run: configuration, log and state."""
