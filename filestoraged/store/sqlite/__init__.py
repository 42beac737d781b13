"""What the databases share: SQLite files, group commit and the write lock."""
