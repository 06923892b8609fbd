"""Log-mel features: the definition in torch, and the same as a DALI graph."""
