"""Log-mel features: their definition in torch, and the same as a DALI graph."""
