"""filestoraged keeps files under their digests and gives them back over HTTP."""

__version__ = "0.3.0"
