"""Objects in memcached."""
