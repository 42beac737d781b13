"""The databases in PostgreSQL."""
