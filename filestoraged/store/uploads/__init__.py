"""Resumable uploads: stagings that outlive their requests and their processes."""
