"""The daemon: it wires the other floors together, and decides nothing else."""
