"""The command `filestoraged`: subcommands, and how it ends when it cannot begin."""

from __future__ import annotations

import sys
from typing import Callable, Dict, List, Optional, Sequence

from filestoraged.daemon.check import check
from filestoraged.daemon.memcached_check import memcached_check
from filestoraged.daemon.serve import serve
from filestoraged.daemon.tokens import token
from filestoraged.errors import CheckError, StartError, UsageError


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command. Returns its exit status: 0, 1 where it could not start, 2 where it was told nonsense.

    The checks have their own: 1 says that something was found.
    """
    given: List[str] = list(sys.argv[1:] if arguments is None else arguments)
    command = given.pop(0) if given and given[0] in _COMMANDS else "serve"
    try:
        return _COMMANDS[command](given)
    except (UsageError, CheckError) as error:
        return _complain(error, 2)
    except StartError as error:
        return _complain(error, 1)


def _complain(error: Exception, status: int) -> int:
    sys.stderr.write(f"filestoraged: {error}\n")
    return status


_COMMANDS: Dict[str, Callable[[Sequence[str]], int]] = {
    "serve": serve,
    "check": check,
    "token": token,
    "memcached-check": memcached_check,
}
