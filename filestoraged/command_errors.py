"""The operator's errors: they end the command with their message, and have no HTTP status."""

from __future__ import annotations

from filestoraged.errors import Error


class UsageError(Error):
    """Invalid option or configuration value. Exit status 2."""


class StartError(Error):
    """The environment, not the configuration, prevents the daemon's start. Exit status 1."""


class CheckError(Error):
    """The environment, not the configuration, prevents a check. Exit status 2: 1 means that findings exist."""
