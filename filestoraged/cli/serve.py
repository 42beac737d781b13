"""`filestoraged serve`: its options, and the start of the daemon."""

from __future__ import annotations

import argparse
import logging
import signal
from collections.abc import Sequence

from filestoraged import __version__
from filestoraged.cli.options import CommandParser
from filestoraged.daemon.backends import validate
from filestoraged.daemon.config import CONFIG_FILE, FIELDS, Config, read_file
from filestoraged.daemon.endpoints import Endpoints
from filestoraged.daemon.fields import parse_values
from filestoraged.daemon.limits import validate_limits
from filestoraged.daemon.logs import start_logging
from filestoraged.daemon.master import Master
from filestoraged.daemon.processes import BLOCKED_SIGNALS, SystemProcesses
from filestoraged.daemon.supervisor import StopRequested
from filestoraged.daemon.systemd import ServiceManager

log = logging.getLogger(__name__)

_USAGE = """filestoraged [serve] [OPTION ...]
       filestoraged check [OPTION ...]
       filestoraged prune REPOSITORY --keep FILE [OPTION ...]
       filestoraged usage [AREA ...] [OPTION ...]
       filestoraged migrate --from FILE --to FILE [OPTION ...]
       filestoraged token NAME SCOPE [--tokens FILE] [--config FILE | --mount NAME=PREFIX ...]
       filestoraged memcached-check HOST:PORT[,...] [--size BYTES]
       filestoraged s3-check URL [--s3-region NAME] [--s3-credentials FILE]
       filestoraged put FILE ... [--to URL] [--repository NAME | --name SPACE/NAME | --drop] [OPTION ...]
       filestoraged get NAME ... [--from URL] [--repository NAME] [--output FILE] [OPTION ...]
       filestoraged rm NAME ... [--from URL] [--repository NAME] [OPTION ...]
       filestoraged list [REPOSITORY | SPACE/] [--from URL] [OPTION ...]
       filestoraged completion bash|zsh|fish"""


def serve(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT. Raises UsageError or StartError."""
    # The files that the arguments name may give a warning.
    start_logging("warning")
    config = parse_arguments(arguments)
    start_logging(config.log_level)
    # Before any thread or process is started: signals wait until the master asks for them.
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_SIGNALS)
    endpoints = Endpoints()
    try:
        return Master(lambda: parse_arguments(arguments), config, endpoints, SystemProcesses(), ServiceManager()).run()
    except StopRequested:
        log.info("stopped before the start was complete")
        return 0
    finally:
        endpoints.close()


def parse_arguments(arguments: Sequence[str]) -> Config:
    """Read the flags, and the file that they name. Raises UsageError or StartError.

    `--help`, `--version` and `--manual` print, and end the program.
    """
    flags = {name: text for name, text in vars(make_parser().parse_args(arguments)).items() if text is not None}
    path = flags.pop(CONFIG_FILE.name, None)
    texts = {**({} if path is None else read_file(path)), **flags}
    config = Config(**parse_values(texts, FIELDS))
    validate(config)
    validate_limits(config.limits, config)
    return config


class _ShowManual(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from filestoraged.cli.manual import show_manual

        parser.exit(show_manual())


def make_parser() -> CommandParser:
    parser = CommandParser(
        prog="filestoraged",
        usage=_USAGE,
        description="Store files under their digests, and serve them over HTTP.",
        epilog="The default of each option is in parentheses. Exit status: 0: stopped by a signal; 1: cannot start;"
        " 2: usage or configuration error.",
    )
    parser.add_argument("--version", action="version", version=f"filestoraged {__version__}")
    parser.add_argument("--manual", action=_ShowManual, nargs=0, help="show the manual, and exit")
    for field in (*FIELDS, CONFIG_FILE):
        parser.add_field(field)
    return parser
