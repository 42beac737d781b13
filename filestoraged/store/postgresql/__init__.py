"""Keys, drops and locks in a PostgreSQL database, which any number of daemons share."""
