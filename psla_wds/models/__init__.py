"""Networks, their initial weights, checkpoints and model folders."""
