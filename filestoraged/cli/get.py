"""`filestoraged get`: downloads objects and drops from a daemon."""

from __future__ import annotations

import argparse
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
from filestoraged.client.client import Client
from filestoraged.client.download import Download
from filestoraged.client.location import is_drop, parse_object
from filestoraged.client.names import is_name, parse_name
from filestoraged.client.refusals import UnexpectedResponse
from filestoraged.client.saving import Saved, safe_name
from filestoraged.command_errors import UsageError
from filestoraged.errors import quoted

_STANDARD_OUTPUT = "-"


def get(arguments: Sequence[str]) -> int:
    """Print digest and name of each file that was made. Raises UsageError and StartError."""
    given = make_parser().parse_args(arguments)
    _check(given)
    output = ClientOutput(json=given.json, quiet=given.quiet)
    client = make_client(given, output)
    downloads = _Downloads(client, output, given, password_of(given))
    return run_client(client, given.names, downloads.get, output)


class _Downloads:
    def __init__(self, client: Client, output: ClientOutput, given: argparse.Namespace, password: str | None) -> None:
        self._client = client
        self._output = output
        self._given = given
        self._password = password

    def get(self, name: str) -> None:
        if self._given.output == _STANDARD_OUTPUT:
            with self._begin(name) as download:
                self._copy(download, name)
            return
        saved = self._save(name)
        fields = {"name": name, "file": saved.path, "hash": saved.digest, "size": saved.size}
        self._output.add("" if self._output.is_quiet else named_line(saved.digest, saved.path), fields)
        if self._given.output is None and (saved.suggested or "").startswith("-"):
            # It is saved all the same: a drop can be fetched once.
            complaint = f"the drop's name {quoted(saved.suggested or '')} looks like an option; it is saved as"
            raise UnexpectedResponse(f"{complaint} {quoted(saved.path)}")

    def _begin(self, name: str) -> Download:
        if is_drop(name):
            return self._client.fetch_drop(name, password=self._password)
        if is_name(name):
            return self._client.get_name(*parse_name(name))
        return self._client.get(name, self._given.repository)

    def _save(self, name: str) -> Saved:
        path, overwrite = self._given.output, self._given.force
        if is_drop(name):
            progress = self._output.progress(path or "drop")
            return self._client.save_drop(name, path, password=self._password, overwrite=overwrite, progress=progress)
        if is_name(name):
            named = parse_name(name)
            path = path or safe_name(named.name.rpartition("/")[2], "file")
            return self._client.save_name(*named, path, overwrite=overwrite, progress=self._output.progress(path))
        if path is None:
            reference = parse_object(name)
            path = safe_name(reference.name, reference.digest)
        progress = self._output.progress(path)
        return self._client.save(name, path, self._given.repository, overwrite=overwrite, progress=progress)

    def _copy(self, download: Download, name: str) -> None:
        progress = self._output.progress(name)
        for block in download:
            self._output.write(block)
            if progress is not None:
                progress(download.position, download.size)
        self._output.flush()


def _check(given: argparse.Namespace) -> None:
    """Raises UsageError before anything is downloaded."""
    if given.output is not None and len(given.names) > 1:
        raise UsageError("--output is for one download")
    if given.output == _STANDARD_OUTPUT and given.json:
        raise UsageError("--json and --output - exclude each other: both are on standard output")
    for name in given.names:
        if is_name(name):
            parse_name(name)
        elif not is_drop(name):
            parse_object(name)


def make_parser() -> CommandParser:
    parser = client_parser(
        "get",
        "Download objects by their digests, URLs or names, and drops by their links. A file appears when it is complete"
        " and has its digest; a download that broke off is continued.",
        "--from",
    )
    parser.add_argument(
        "names", metavar="NAME", nargs="+", help="a digest, the URL of an object, SPACE/NAME, or a drop's link"
    )
    parser.add_argument("--repository", metavar="NAME", help="the repository that has the objects")
    parser.add_argument("--output", metavar="FILE", help="file to make; - is standard output (named by the digest)")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    add_password_options(parser)
    parser.add_argument("--quiet", action="store_true", help="print errors alone")
    return parser
