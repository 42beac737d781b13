"""`filestoraged put`: uploads files to a daemon."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Sequence

from filestoraged.cli.client_options import (
    add_password_options,
    client_parser,
    make_client,
    password_of,
    run_client,
)
from filestoraged.cli.client_output import ClientOutput, named_line
from filestoraged.cli.options import CommandParser
from filestoraged.client.client import Client, Content
from filestoraged.client.names import parse_name
from filestoraged.command_errors import UsageError
from filestoraged.daemon.values import parse_duration
from filestoraged.errors import BadRequest


def put(arguments: Sequence[str]) -> int:
    """Print a line for each file: digest and name, or the link of a drop. Raises UsageError and StartError."""
    given = make_parser().parse_args(arguments)
    _check(given)
    output = ClientOutput(json=given.json, quiet=given.quiet)
    client = make_client(given, output)
    uploads = _Uploads(client, output, given)
    if given.drop:
        return run_client(client, given.files, uploads.put_drop, output)
    if given.name is not None:
        return run_client(client, given.files, uploads.put_named, output)
    return run_client(client, given.files, uploads.put_object, output)


class _Uploads:
    def __init__(self, client: Client, output: ClientOutput, given: argparse.Namespace) -> None:
        """Raises UsageError and StartError."""
        self._client = client
        self._output = output
        self._given = given
        self._password = password_of(given)
        self._ttl = None if given.ttl is None else parse_duration(given.ttl)

    def put_object(self, file: str) -> None:
        repository = self._given.repository
        stored = self._client.put(_content(file), repository, progress=self._output.progress(file))
        key = "hash" if repository is None else "oid"
        fields = {"file": file, key: stored.digest, "size": stored.size, "url": stored.url}
        if repository is not None:
            fields["repository"] = repository
        self._output.add(stored.digest if self._output.is_quiet else named_line(stored.digest, file), fields)

    def put_named(self, file: str) -> None:
        given, reference = self._given, parse_name(self._given.name)
        stored = self._client.put_name(
            *reference,
            _content(file),
            ttl=self._ttl,
            if_new=given.if_new,
            if_oid=given.if_oid,
            progress=self._output.progress(file),
        )
        fields = {"file": file, "space": reference.space, **stored._asdict()}
        self._output.add(stored.oid if self._output.is_quiet else named_line(stored.oid, given.name), fields)

    def put_drop(self, file: str) -> None:
        link = self._client.create_drop(
            _content(file), name=self._given.name, password=self._password, progress=self._output.progress(file)
        )
        self._output.add(link, {"file": file, "url": link})


def _content(name: str) -> Content:
    """Return what to upload. Raises OSError and BadRequest."""
    if name != "-":
        if stat.S_ISDIR(os.stat(name).st_mode):
            raise BadRequest("it is a directory: upload its files, or an archive of it")
        return name
    if sys.stdin is None:
        raise BadRequest("standard input is closed")
    return sys.stdin.buffer


def _check(given: argparse.Namespace) -> None:
    if given.files.count("-") > 1:
        raise UsageError("standard input, -, can be uploaded once")
    if given.drop and given.repository is not None:
        raise UsageError("--drop and --repository exclude each other: a drop is in no repository")
    if not given.drop and (given.password or given.password_file is not None):
        raise UsageError("--password and --password-file need --drop")
    if given.name is not None and len(given.files) > 1:
        raise UsageError("--name is for one file")
    if given.drop or given.name is None:
        if given.if_new or given.if_oid is not None or given.ttl is not None:
            raise UsageError("--if-new, --if-oid and --ttl need --name SPACE/NAME")
        return
    parse_name(given.name)
    if given.repository is not None:
        raise UsageError("--name and --repository exclude each other: a name is in a space")
    if given.if_new and given.if_oid is not None:
        raise UsageError("--if-new and --if-oid exclude each other")


def make_parser() -> CommandParser:
    parser = client_parser(
        "put",
        "Upload files, and print their digests as sha256sum does, or the links of drops. Large uploads go on where they"
        " broke off, also when the same command is run again.",
        "--to",
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="a file; - is standard input")
    parser.add_argument("--repository", metavar="NAME", help="store the files in this repository")
    parser.add_argument("--drop", action="store_true", help="make drops: files that can be downloaded once")
    parser.add_argument(
        "--name", metavar="NAME", help="SPACE/NAME that is to lead to the file; with --drop, its name when it is saved"
    )
    parser.add_argument("--if-new", action="store_true", help="only if the name does not exist")
    parser.add_argument("--if-oid", metavar="OID", help="only if the name leads to the object with this oid")
    parser.add_argument("--ttl", metavar="TIME", help="time until the name expires, in seconds or such as 12h or 7d")
    add_password_options(parser)
    parser.add_argument(
        "--quiet", action="store_true", help="show no progress and no retries; print digests without names"
    )
    return parser
