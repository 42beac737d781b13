"""What errors of PostgreSQL and of the connection to it mean."""

from __future__ import annotations

import psycopg
from psycopg import errors

from filestoraged.errors import Error, StorageFull, StoreFailed, StoreUnavailable

# The transaction was rolled back for the sake of another one, and can be repeated.
CONFLICTS = (errors.SerializationFailure, errors.DeadlockDetected)

# Classes of SQLSTATE (PostgreSQL, appendix A) in which another attempt can succeed without a change of this program:
# connection exceptions, invalid authorization, a missing database, no resources, an operator's intervention, and a
# server that is starting or read-only.
_UNAVAILABLE = ("08", "28", "3D", "53", "55", "57", "25006", "40")

_MESSAGE = "The database cannot be reached; retry later."


def failure(error: Exception) -> Error:
    """The Error for a client that stands for an error of the database."""
    known: Error
    if isinstance(error, Error):
        return error
    if isinstance(error, errors.DiskFull):
        known = StorageFull("There is no room left to store this.")
    elif is_unavailable(error):
        known = StoreUnavailable(_MESSAGE)
    else:
        known = StoreFailed("The database failed; the log of the server says why.")
    known.__cause__ = DatabaseFailure(error)
    return known


def is_unavailable(error: Exception) -> bool:
    """Whether another attempt can succeed later. An error without a state is one of the connection."""
    if isinstance(error, (OSError, TimeoutError)):
        return True
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate.startswith(_UNAVAILABLE)


class DatabaseFailure(Exception):
    """An error of libpq in one line, as logs and `/-/ready` show it. libpq never has a password in it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(" ".join(str(error).split()) or type(error).__name__)
        self.__cause__ = error
