"""Objects as files on a disk."""
