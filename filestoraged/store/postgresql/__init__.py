"""Keys, drops, locks and names in a PostgreSQL database, which any number of daemons share."""
