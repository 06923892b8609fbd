"""Log-mel features as defined in torch, and the front ends: a DALI graph, and threads of a CPU."""
