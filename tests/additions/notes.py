"""An interface that keeps rows: `PUT /{name}` notes a text, `GET /{name}` returns it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

from filestoraged.api.interface import Data, Description, Interface, Resources
from filestoraged.errors import NotFound
from filestoraged.store.sqlite.database import Schema
from filestoraged.web.request import Request, RunsOn
from filestoraged.web.response import Response
from filestoraged.web.router import READ, WRITE, Route, Router
from filestoraged.wire.exposition import Family

_SCHEMA = Schema(
    application=0x6E6F7465,
    version=1,
    tables=("CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, text TEXT NOT NULL)",),
)


class _Notes:
    def __init__(self, path: str) -> None:
        self._path = path

    async def put(self, request: Request, name: str) -> Response:
        text = b"".join([bytes(piece) async for piece in request.body]).decode()
        with contextlib.closing(sqlite3.connect(self._path)) as connection, connection:
            connection.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, text))
        return Response(204)

    def get(self, request: Request, name: str) -> Response:
        with contextlib.closing(sqlite3.connect(self._path)) as connection:
            row = connection.execute("SELECT text FROM notes WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise NotFound("There is no such note.")
        return Response(200, "Content-Type: text/plain\r\n", row[0].encode())

    def probe(self) -> None:
        with contextlib.closing(sqlite3.connect(self._path)) as connection:
            connection.execute("SELECT 1 FROM notes")

    def gauge(self) -> Iterator[Family]:
        with contextlib.closing(sqlite3.connect(self._path)) as connection:
            (number,) = connection.execute("SELECT count(*) FROM notes").fetchone()
        yield Family("filestoraged_notes", "gauge", "Notes.", [({}, number)])


def _build(resources: Resources) -> Router:
    assert not resources.databases.is_remote
    notes = _Notes(resources.databases.identity("notes.sqlite").path)
    resources.test("Notes", notes.probe)
    resources.gauges["notes"] = notes.gauge
    return Router(
        "notes",
        [
            Route("PUT", "/{name}", notes.put, WRITE, RunsOn.THREAD),
            Route("GET", "/{name}", notes.get, READ, RunsOn.THREAD),
        ],
    )


def _describe() -> Description:
    return Description(
        {
            ("PUT", "/{name}"): {
                "summary": "Note a text.",
                "requestBody": {"content": {"text/plain": {"schema": {"$ref": "#/components/schemas/Note"}}}},
                "responses": {"204": {"description": "Noted."}},
            },
            ("GET", "/{name}"): {
                "summary": "Return a note.",
                "responses": {"200": {"description": "It.", "content": {"text/plain": {}}}},
            },
        },
        {"Note": {"type": "string"}},
    )


NOTES = Interface("notes", _build, _describe, data=Data("notes.sqlite", _SCHEMA, "notes"))
