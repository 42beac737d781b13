"""Proofs that take too long for every run of the tests. Each is a command: `python3 -m tests.proofs.big_file`."""
