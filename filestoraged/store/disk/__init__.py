"""Objects as files on a disk."""

from filestoraged.store.disk.store import DiskStore

__all__ = ["DiskStore"]
