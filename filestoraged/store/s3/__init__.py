"""Objects in an S3 store."""
