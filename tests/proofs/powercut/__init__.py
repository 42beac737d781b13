"""The power-cut proof. See `__main__`."""
