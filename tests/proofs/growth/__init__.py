"""The proof of growth. See `__main__`."""
