"""The HTTP interfaces, one module each. `routes` returns the router of an interface over its store."""
