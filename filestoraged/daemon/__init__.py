"""The daemon: wires everything, decides nothing else."""
