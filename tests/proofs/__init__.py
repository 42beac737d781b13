"""Proofs: checks that take too long for `bin/test`. Each is a command: `python -m tests.proofs.check`."""
