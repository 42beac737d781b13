"""Proofs: checks that take too long for `bin/test`. Each is a command: `python3 -m tests.proofs.big_file`."""
