"""Three daemons as one service, on real parts that are killed in turn. `bin/test-scale` runs the checks as root."""
