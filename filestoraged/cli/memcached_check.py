"""`filestoraged memcached-check`: whether memcached servers are fit to keep objects."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from filestoraged.cli.options import CommandParser
from filestoraged.daemon.values import parse_servers, parse_size
from filestoraged.errors import StartError
from filestoraged.store.diagnosis import BAD
from filestoraged.store.memcached.diagnose import examine
from filestoraged.store.memcached.manifest import MAX_SIZE


def memcached_check(arguments: Sequence[str]) -> int:
    """Print a line for each finding. Returns 0 where none is bad, else 1. Raises UsageError and StartError."""
    given = make_parser().parse_args(arguments)
    servers = parse_servers(given.servers)
    size = MAX_SIZE if given.size is None else parse_size(given.size)
    try:
        findings = examine(servers, size)
    except ImportError as error:
        raise StartError(str(error)) from error
    for finding in findings:
        sys.stdout.write(f"{finding.verdict:5}{finding.text}\n")
    return 1 if any(finding.verdict == BAD for finding in findings) else 0


def make_parser() -> CommandParser:
    parser = CommandParser(
        prog="filestoraged memcached-check",
        description="Check whether memcached servers are fit to keep objects.",
        epilog="Exit status: 0: all are; 1: at least one is not; 2: usage error.",
    )
    parser.add_argument("servers", metavar="HOST:PORT[,...]", help="the servers, as for --memcached")
    parser.add_argument("--size", metavar="BYTES", help="size of all objects together, such as 2G (50M)")
    return parser
