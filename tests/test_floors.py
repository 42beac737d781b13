"""The floors of the package: a module imports only from floors beneath it, the standard library and requirements.

Imports are read from the source, so those that never run count too, as do those within functions, which LATE lists.
Without circles, each module can be imported first.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import sys
from collections.abc import Container, Iterator
from pathlib import Path
from typing import NamedTuple

import filestoraged
from tests.support import TempCase

PACKAGE = "filestoraged"

# The floors beneath each floor. `store` and `web` stand side by side, on the same floors.
FLOORS: dict[str, set[str]] = {}
FLOORS["errors"] = set()
FLOORS["command_errors"] = {"errors"}
FLOORS["digest"] = {"errors"}
FLOORS["bounded_cache"] = set()
FLOORS["clock"] = set()
FLOORS["file_lock"] = {"clock"}
FLOORS["future"] = set()
FLOORS["shared_table"] = set()
FLOORS["resources"] = set()
FLOORS["wire"] = {"errors", "digest"}
FLOORS["net"] = {"errors", "digest", "clock", "wire"}
FLOORS["store"] = {
    "errors",
    "command_errors",
    "digest",
    "clock",
    "bounded_cache",
    "file_lock",
    "future",
    "shared_table",
    "wire",
    "net",
}
FLOORS["check"] = {"errors", "command_errors", "digest", "clock", "wire", "net", "store"}
FLOORS["migration"] = {"errors", "command_errors", "digest", "clock", "wire", "net", "store", "check"}
FLOORS["client"] = {"errors", "command_errors", "digest", "clock", "file_lock", "wire", "net"}
FLOORS["web"] = {"errors", "command_errors", "digest", "clock", "bounded_cache", "future", "shared_table", "wire"}
FLOORS["api"] = {"errors", "digest", "clock", "bounded_cache", "future", "resources", "wire", "net", "store", "web"}
FLOORS["daemon"] = {
    *("errors", "command_errors", "digest", "clock", "future", "resources", "wire", "net", "store", "check"),
    *("migration", "client", "web", "api"),
}
FLOORS["cli"] = FLOORS["daemon"] | {"daemon"}

# What modules import within functions: a command or a configuration needs it, and no other process gives it memory.
LATE: dict[str, set[str]] = {}
LATE["api.drops"] = {"api.openapi_terms"}
LATE["api.files"] = {"api.openapi_terms"}
LATE["api.kv"] = {"api.openapi_terms", "store.postgresql.kv"}
LATE["api.lfs"] = {"api.openapi_terms"}
LATE["api.names"] = {"api.openapi_terms"}
LATE["api.repositories"] = {"api.openapi_terms"}
LATE["api.restic"] = {"api.openapi_terms"}
LATE["api.uploads"] = {"api.openapi_terms", "store.uploads.remote_storage"}
LATE["cli.main"] = {
    *("cli.check", "cli.completion", "cli.fitness", "cli.get", "cli.manage", "cli.migrate", "cli.prune", "cli.put"),
    *("cli.serve", "cli.token", "cli.usage"),
}
LATE["cli.check"] = {"check.tables"}
LATE["cli.migrate_sides"] = {"store.postgresql.rows"}
LATE["cli.serve"] = {"cli.manual"}
LATE["daemon.backend"] = {"check.rows", "check.tables"}
LATE["daemon.config"] = {"configparser"}
LATE["daemon.disk_backend"] = {"check.disk", "check.rows"}
LATE["daemon.interfaces"] = {
    f"api.{name}" for name in ("drops", "files", "kv", "names", "repositories", "restic", "uploads")
}
LATE["daemon.memcached_backend"] = {
    *("check.memcached", "store.memcached.manifest", "store.memcached.pool", "store.memcached.store"),
}
LATE["daemon.s3_backend"] = {
    *("check.databases", "check.rows", "check.s3", "store.s3.client"),
    *("store.s3.credentials", "store.s3.segment_objects", "store.s3.store", "store.s3.url"),
}
LATE["daemon.services"] = {"api.openapi"}
LATE["daemon.values"] = {"store.postgresql.url"}
LATE["net.connection"] = {"ssl"}
LATE["store.databases"] = {"store.postgresql.databases"}

# Modules on no floor: all import the first, and the second imports the top floor.
OUTSIDE = (PACKAGE, f"{PACKAGE}.__main__")

REQUIREMENTS = ("psycopg", "pymemcache")

# Packages: a name, the modules with their source, and the faults that must be found.
FAULTS = r"""
import from a floor above
wire/body.py| from filestoraged.web.server import Server
web/server.py|
  wire.body:1: imports web.server, which is not beneath it

module imported as a name of its package
wire/body.py| import os\nfrom filestoraged.web import server
web/server.py|
  wire.body:2: imports web.server, which is not beneath it

imports between store and web
store/disk.py| import filestoraged.web.server
web/server.py| from ..store.disk import DiskStore
  store.disk:1: imports web.server, which is not beneath it
  web.server:1: imports store.disk, which is not beneath it
  store.disk, web.server: import each other in a circle

import from errors upwards
errors.py| import filestoraged.digest
digest.py|
  errors:1: imports digest, which is not beneath it

import for types from a floor above
wire/body.py| if TYPE_CHECKING:\n    from filestoraged.api.files import routes
api/files.py|
  wire.body:2: imports api.files, which is not beneath it

module without a floor
utilities.py|
  utilities: is on no floor

circle within a floor
web/server.py| from . import handler
web/handler.py| from filestoraged.web.sender import Sender
web/sender.py| from filestoraged.web.server import Server
  web.handler, web.sender, web.server: import each other in a circle

circle for types alone
web/server.py| from filestoraged.web.handler import Handler
web/handler.py| if typing.TYPE_CHECKING:\n    from filestoraged.web.server import Server
  web.handler, web.server: import each other in a circle

main and the package itself, which are on no floor
__main__.py| from filestoraged.cli.main import main
cli/main.py| from filestoraged import __version__

import within a function
wire/body.py| class Body:\n    def read(self):\n        import re
  wire.body:3: imports re within a function

imports of other packages
store/memcached.py| import pymemcache.client\ntry:\n    import requests\nfinally: pass
wire/body.py| import email.utils, tests
  store.memcached:3: imports requests, which is neither in the standard library nor required
  wire.body:1: imports tests, which is neither in the standard library nor required

import of a missing module
wire/body.py| from filestoraged.wire.gone import name
  wire.body:1: imports filestoraged.wire.gone.name, which does not exist
"""


class Import(NamedTuple):
    """`late` is one within a function. One under `if TYPE_CHECKING` counts as any other."""

    line: int
    target: str
    late: bool


class FloorsTest(TempCase):
    def test_package_has_no_fault(self) -> None:
        root = Path(filestoraged.__file__).parent

        self.assertEqual([], faults(root))
        self.assertGreater(len(modules(root)), 20)

    def test_each_import_that_is_listed_is_within_a_function(self) -> None:
        named = modules(Path(filestoraged.__file__).parent)
        late: dict[str, set[str]] = {}
        for name, path in named.items():
            for each in imports(path, name):
                if each.late:
                    late.setdefault(short(name), set()).add(short(known(each.target, named) or each.target))

        self.assertEqual(LATE, late)

    def test_each_fault_is_reported(self) -> None:
        for number, case in enumerate(FAULTS.strip("\n").split("\n\n")):
            name, *lines = case.splitlines()
            root = self.directory / str(number) / PACKAGE
            for line in ["__init__.py| __version__ = '1'", *(line for line in lines if "|" in line)]:
                path, _, source = line.partition("|")
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                ((root / path).parent / "__init__.py").touch()
                (root / path).write_text(source.strip().replace("\\n", "\n"), encoding="utf-8")
            with self.subTest(name):
                self.assertEqual([line.strip() for line in lines if "|" not in line], faults(root))


def faults(root: Path) -> list[str]:
    """The faults of the package in the directory `root`, a sentence each."""
    found = {name: imports(path, name) for name, path in modules(root).items()}
    found_faults = [fault for name in found for fault in module_faults(name, found)]
    graph = {name: {known(each.target, found) or name for each in found[name]} for name in found}
    return found_faults + [
        f"{', '.join(map(short, circle))}: import each other in a circle" for circle in circles(graph)
    ]


def module_faults(name: str, found: dict[str, list[Import]]) -> Iterator[str]:
    if name in OUTSIDE:
        return
    if floor(name) not in FLOORS:
        yield f"{short(name)}: is on no floor"
        return
    for each in found[name]:
        where = f"{short(name)}:{each.line}: imports"
        target = known(each.target, found)
        if each.late and short(target or each.target) not in LATE.get(short(name), ()):
            yield f"{where} {each.target} within a function"
        if target is not None:
            if target != PACKAGE and floor(target) not in FLOORS[floor(name)] | {floor(name)}:
                yield f"{where} {short(target)}, which is not beneath it"
        elif top(each.target) == PACKAGE:
            yield f"{where} {each.target}, which does not exist"
        elif top(each.target) not in REQUIREMENTS and top(each.target) not in sys.stdlib_module_names:
            yield f"{where} {top(each.target)}, which is neither in the standard library nor required"


def modules(root: Path) -> dict[str, Path]:
    """The path of each module below `root`, by its name."""
    named = {}
    for path in sorted(root.rglob("*.py")):
        parts = [PACKAGE, *path.relative_to(root).with_suffix("").parts]
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


@functools.cache
def imports(path: Path, name: str) -> list[Import]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return list(_imports(tree, package, late=False))


def _imports(node: ast.AST, package: str, *, late: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            for target in _targets(child, package):
                yield Import(child.lineno, target, late)
        else:
            within = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
            yield from _imports(child, package, late=late or within)


def _targets(node: ast.stmt, package: str) -> list[str]:
    """The dotted names in an import statement. The last part is a module or a name in one."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert isinstance(node, ast.ImportFrom)
    base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
    if top(base) != PACKAGE:
        return [base]
    return [f"{base}.{alias.name}" for alias in node.names]


def known(target: str, found: Container[str]) -> str | None:
    """The module of a dotted name: `filestoraged.digest` for `filestoraged.digest.Hasher`."""
    return next((name for name in (target, target.rpartition(".")[0]) if name in found), None)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that reach each other."""
    reached = {name: reachable(name, graph) for name in graph}
    groups = {tuple(sorted(other for other in reached[name] if name in reached[other])) for name in graph}
    return sorted(list(group) for group in groups if len(group) > 1)


def reachable(name: str, graph: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = [name]
    while todo:
        for target in graph[todo.pop()] - seen:
            seen.add(target)
            todo.append(target)
    return seen


def floor(name: str) -> str:
    return f"{name}.".split(".")[1]


def top(target: str) -> str:
    return target.partition(".")[0]


def short(name: str) -> str:
    return name.partition(".")[2] or name
