"""A PostgreSQL primary with a synchronous standby, which takes over when the primary is killed."""

from __future__ import annotations

import subprocess

from tests.postgresql import PostgresServer, as_server_user, server_program
from tests.scale.program import PATIENCE, wait_until

DATABASE = "filestoraged"

# A standby notices the end of its primary within this time, and looks for it again.
_SETTINGS = ("wal_receiver_timeout = 5s", "wal_retrieve_retry_interval = 200ms", "wal_sender_timeout = 10s")


class Standby(PostgresServer):
    """A copy of a primary, which it follows."""

    def __init__(self, primary: PostgresServer, port: int | None = None) -> None:
        self._primary = primary
        super().__init__(*_SETTINGS, *([f"port = {port}"] if port else []), sync=True)
        self.port = port or self.port

    def promote(self) -> None:
        with self.connect() as connection:
            connection.execute("SELECT pg_promote()")

    def _initialize(self) -> None:
        """Copy the primary."""
        options = ["-D", str(self.data), "-d", self._primary.url(), "-X", "stream", "-R", "--checkpoint=fast"]
        command = as_server_user(server_program("pg_basebackup"), *options)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", timeout=PATIENCE)
        with (self.data / "postgresql.conf").open("a") as file:
            file.write("\n".join(self._settings) + "\n")


class Pair:
    """A primary whose commits wait for the standby."""

    def __init__(self) -> None:
        self.primary: PostgresServer = PostgresServer(*_SETTINGS, sync=True).start()
        with self.primary.connect() as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}")
        self._ports = [self.primary.port]
        self.standby = self._add_standby(None)
        self._ports.append(self.standby.port)

    @property
    def url(self) -> str:
        """Names both servers: a client looks for the one that can be written."""
        servers = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        credentials = self.primary.url().partition("@")[0]
        return f"{credentials}@{servers}/{DATABASE}?target_session_attrs=read-write"

    def promote(self) -> None:
        """Make the standby the primary, when the primary is dead. Its commits wait for nothing."""
        dead = self.primary
        self.standby.promote()
        self.primary = self.standby
        dead.remove()

    def restore(self) -> None:
        """Make a new standby at the address of the one that is gone."""
        (port,) = (port for port in self._ports if port != self.primary.port)
        self.standby = self._add_standby(port)

    def remove(self) -> None:
        for server in (self.standby, self.primary):
            server.remove()

    def _add_standby(self, port: int | None) -> Standby:
        standby = Standby(self.primary, port)
        standby.start()
        wait_until("the standby follows", lambda: self._states() == ["async"])
        with self.primary.connect() as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
        wait_until("the standby is synchronous", lambda: self._states() == ["sync"])
        return standby

    def _states(self) -> list[str]:
        with self.primary.connect() as connection:
            return [
                row[0]
                for row in connection.execute("SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'")
            ]
