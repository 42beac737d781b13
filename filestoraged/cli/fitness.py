"""`filestoraged memcached-check` and `filestoraged s3-check`: whether a store is fit to keep objects."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import closing

from filestoraged.check.throttle import CheckStopped, Throttle
from filestoraged.cli.options import CommandParser
from filestoraged.cli.stopping import STOPPED, run_with_output, stopped_by_signals
from filestoraged.command_errors import StartError
from filestoraged.daemon.memcached_backend import parse_servers
from filestoraged.daemon.s3_backend import S3Options, make_client, parse_region, parse_s3_url
from filestoraged.daemon.values import parse_path, parse_size
from filestoraged.store.diagnosis import BAD, Diagnosis
from filestoraged.store.memcached.diagnose import examine as examine_servers
from filestoraged.store.memcached.manifest import MAX_SIZE
from filestoraged.store.s3.client import S3Client
from filestoraged.store.s3.diagnose import examine as examine_store

# Idle connections. Requests at the same time are those of the test of conditional writes.
_CONNECTIONS = 8

# Exit statuses.
_FIT, _UNFIT = range(2)


def memcached_check(arguments: Sequence[str]) -> int:
    """Print a line for each finding. Returns 0 where none is bad, else 1. Raises UsageError and StartError."""
    given = make_memcached_check_parser().parse_args(arguments)
    servers = parse_servers(given.servers)
    size = MAX_SIZE if given.size is None else parse_size(given.size)
    try:
        findings = examine_servers(servers, size)
    except ImportError as error:
        raise StartError(str(error)) from error
    return _report(findings)


def make_memcached_check_parser() -> CommandParser:
    parser = CommandParser(
        prog="filestoraged memcached-check",
        description="Check whether memcached servers are fit to keep objects.",
        epilog="Exit status: 0: all are; 1: at least one is not; 2: usage error.",
    )
    parser.add_argument("servers", metavar="HOST:PORT[,...]", help="the servers, as for --memcached")
    parser.add_argument("--size", metavar="BYTES", help="size of all objects together, such as 2G (50M)")
    return parser


def s3_check(arguments: Sequence[str]) -> int:
    """Print a line for each finding. Returns 0 where none is bad, 1 where one is, 2 where a signal has stopped it.

    Raises UsageError and CheckError. Whatever happens, what it has made in the store is removed.
    """
    client = _client(arguments)
    throttle = Throttle()

    def run() -> int:
        try:
            with stopped_by_signals(throttle), closing(examine_store(client, throttle.raise_if_stopped)) as findings:
                return _report(findings)
        except CheckStopped:
            sys.stdout.write("stopped: what this check had made is removed\n")
            return STOPPED

    return run_with_output(run)


def _report(findings: Iterable[Diagnosis]) -> int:
    status = _FIT
    for finding in findings:
        sys.stdout.write(f"{finding.verdict:5}{finding.text}\n")
        sys.stdout.flush()
        if finding.verdict == BAD:
            status = _UNFIT
    return status


def _client(arguments: Sequence[str]) -> S3Client:
    given = make_s3_check_parser().parse_args(arguments)
    path = None if given.s3_credentials is None else parse_path(given.s3_credentials)
    options = S3Options(s3=parse_s3_url(given.url), s3_region=parse_region(given.s3_region), s3_credentials=path)
    return make_client(options, connections=_CONNECTIONS)


def make_s3_check_parser() -> CommandParser:
    parser = CommandParser(
        prog="filestoraged s3-check",
        description="Check whether an S3 store is fit to keep objects. It makes objects there, and removes them.",
        epilog="Exit status: 0: it is; 1: it is not; 2: stopped, or usage error.",
    )
    parser.add_argument("url", metavar="URL", help="the store, https://HOST[:PORT]/BUCKET[/PREFIX], as for --s3")
    parser.add_argument(
        "--s3-region", metavar="NAME", default="us-east-1", help="region that requests are signed for (us-east-1)"
    )
    parser.add_argument(
        "--s3-credentials", metavar="FILE", help="credentials in AWS' INI format, section default (AWS_* variables)"
    )
    return parser
