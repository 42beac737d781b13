"""A client of the daemon: upload, download, listing and removal, as a library.

from filestoraged.client import Client
"""

from filestoraged.client.client import Client, Entry
from filestoraged.client.download import Download
from filestoraged.client.names import NamedObject
from filestoraged.client.retries import Retries
from filestoraged.client.saving import Saved
from filestoraged.client.uploader import Stored

__all__ = ["Client", "Download", "Entry", "NamedObject", "Retries", "Saved", "Stored"]
