"""Objects in memcached."""

from filestoraged.store.memcached.store import MemcachedStore

__all__ = ["MemcachedStore"]
