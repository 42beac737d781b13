"""README.md, CONTRIBUTING.md and docs/: commands run as pasted, links lead somewhere, lists are complete."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import unittest
from collections.abc import Iterator

from filestoraged.cli.serve import parse_arguments
from filestoraged.daemon.limits import parse_limit
from filestoraged.daemon.s3_backend import parse_s3_url
from filestoraged.errors import ClientGone, Error
from filestoraged.web.states import TABLE, Event
from tests.bench.measures import MEASURES
from tests.daemon.process import ROOT
from tests.documents import DOCUMENTS, Block, Machine, Step, blocks, options_of_commands, prose, read, steps
from tests.support import ServerCase, TempCase, find_program

COLUMNS = 120

_NO_PODMAN = "needs podman: bin/test-packages starts the images without it"

# Blocks that are not run here, and why.
NOT_RUN = {
    "README.md: python3 -m filestoraged": "bin/test runs this test; the daemon's command is run by the block above it",
    "docs/install.md: pipx install ./filestoraged-0.3.0-py3-none-any.whl": "needs an index: bin/test-packages runs it",
    "docs/install.md: podman load --input filestoraged-0.3.0-oci.tar": _NO_PODMAN,
    "docs/install.md: podman run --rm filestoraged:0.3.0 token alice read,write >tokens": _NO_PODMAN,
    "docs/install.md: sudo apt install ./filestoraged_*_all.deb": "bin/test-packages does it",
    "README.md: sudo apt install python3-venv": "needs root and systemd: bin/test-systemd runs it",
}

# Documents whose commands other tests run, which bring the projects that they build: tests.test_build_caches.
_RUN_ELSEWHERE = {"docs/build-caches.md"}

# How a block of each language is tried.
_IN_SESSION = ("sh", "python")
_READ = ("ini", "yaml")
# Drawings.
_SHOWN = ("text",)

_OF_EVERY_RESPONSE = {"connection", "content-length", "date", "server"}

# Options of other programs than the daemon.
_NOT_OURS = {"--data-binary", "--etag-hash", "--fast", "--offline", "--path", "--private-repos"}


def runnable(document: str) -> list[Block]:
    return [block for block in blocks(document) if block.name not in NOT_RUN and block.language not in _SHOWN]


class SessionTest(TempCase):
    def test_commands_of_each_document_do_what_it_shows(self) -> None:
        """Each document is a session on a machine of its own."""
        for document in sorted({*DOCUMENTS} - _RUN_ELSEWHERE):
            place = self.directory / document.replace("/", "-")
            place.mkdir()
            commands = [block for block in runnable(document) if block.language in _IN_SESSION]
            for step, printed in Machine(place, sys.executable).run(document, commands) if commands else ():
                with self.subTest(document=document, commands=step.commands):
                    self.assertTrue(step.matches(printed), f"printed {printed!r}\nexpected {step.output!r}")


class MachineTest(TempCase):
    def test_command_that_fails_is_noticed(self) -> None:
        block = Block("docs/x.md", "sh", "echo good\nfalse\necho good\n")

        with self.assertRaisesRegex(AssertionError, "failed: false"):
            Machine(self.directory, sys.executable).run(block.document, [block])

    def test_output_that_differs_is_noticed(self) -> None:
        self.assertTrue(Step("", ["a …b", "c"]).matches("a [x] b\nc\n"))
        self.assertFalse(Step("", ["a"]).matches("a\nb\n"))
        self.assertFalse(Step("", ["a.c"]).matches("abc\n"))

    def test_block_is_split_after_each_output(self) -> None:
        found = list(steps("a\nb  # comment\n# out\n# more\nc\n"))

        self.assertEqual([Step("a\nb  # comment", ["out", "more"]), Step("c", [])], found)


class BlocksTest(TempCase):
    def test_every_block_has_a_language_that_is_tried(self) -> None:
        for document in DOCUMENTS:
            for block in blocks(document):
                with self.subTest(block.name):
                    self.assertIn(block.language, (*_IN_SESSION, *_READ, *_SHOWN))

    def test_blocks_that_are_not_run_exist(self) -> None:
        names = {block.name for document in DOCUMENTS for block in blocks(document)}

        self.assertLessEqual(set(NOT_RUN), names)

    def test_no_command_is_indented_in_place_of_a_block(self) -> None:
        for document in DOCUMENTS:
            self.assertEqual([], re.findall(r"^    \S.*$", prose(document), re.MULTILINE), document)

    def test_daemon_understands_each_configuration(self) -> None:
        for block in self.having("ini"):
            path = self.directory / "filestoraged.conf"
            path.write_text(block.text, encoding="utf-8")
            with self.subTest(block.name):
                parse_arguments(["--config", str(path)])

    def test_prometheus_understands_each_configuration(self) -> None:
        for block in self.having("yaml"):
            path = self.directory / "prometheus.yml"
            path.write_text(block.text, encoding="utf-8")
            kind = "rules" if block.text.startswith("groups:") else "config"
            with self.subTest(block.name):
                command = [find_program("promtool"), "check", kind, str(path)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                self.assertEqual(0, done.returncode, done.stderr)

    def having(self, language: str) -> list[Block]:
        found = [block for document in DOCUMENTS for block in runnable(document) if block.language == language]
        self.assertTrue(found)
        return found


class LayoutTest(unittest.TestCase):
    def test_readme_has_at_most_120_lines(self) -> None:
        self.assertLessEqual(len(read("README.md").splitlines()), 120)

    def test_lines_wrap_at_120_columns(self) -> None:
        for document in (*DOCUMENTS, "CHANGELOG.md"):
            long = [line for line in read(document).splitlines() if len(line) > COLUMNS]
            self.assertEqual([], long, document)

    def test_links_lead_to_files_and_headings(self) -> None:
        for document in DOCUMENTS:
            for target in re.findall(r"\]\((?!https?:)([^)]+)\)", prose(document)):
                with self.subTest(f"{document}: {target}"):
                    path, _, heading = target.partition("#")
                    file = (ROOT / document).parent / path if path else ROOT / document
                    self.assertTrue(file.is_file())
                    if heading:
                        self.assertIn(heading, set(_anchors(file.read_text(encoding="utf-8"))))

    def test_readme_names_every_document(self) -> None:
        named = set(re.findall(r"\]\(([^)#]+)", read("README.md")))

        self.assertLessEqual({*DOCUMENTS, "CHANGELOG.md", "LICENSE"} - {"README.md"}, named)


class ListsTest(ServerCase):
    """Lists and tables in documents are complete."""

    def test_operations_lists_every_metric(self) -> None:
        config: dict[str, object] = {"memcached": ("127.0.0.1:1",), "store": str(self.store_path), "host": ("*",)}
        on_s3 = {**config, "memcached": (), "s3": parse_s3_url("http://127.0.0.1:1/bucket")}
        limited = {**config, "memcached": (), "limits": (parse_limit("files=quota:1G"),)}
        exposed = self.exposed().union(*map(self.exposed_with, (config, on_s3, limited)))

        self.assertEqual(exposed, set(re.findall(r"^\| `(filestoraged_\w+)`", prose("docs/operations.md"), re.M)))
        for document in DOCUMENTS:
            self.assertLessEqual(set(re.findall(r"\bfilestoraged_\w+", read(document))), exposed, document)

    def test_operations_lists_the_labels_of_each_metric(self) -> None:
        rows = re.findall(r"^\| `(filestoraged_\w+)` \| \w+ \| (.*?) ?\| ", prose("docs/operations.md"), re.M)
        listed = {name: set(filter(None, labels.split(", "))) for name, labels in rows}
        self.get("/nothing")
        self.exposed()
        text = self.get("/-/metrics").body.decode()

        for name, labels in re.findall(r"^(\w+?)(?:_bucket|_sum|_count)?(?:\{(.*)\})? \S+$", text, re.M):
            with self.subTest(name):
                self.assertEqual(listed[name], set(re.findall(r'(\w+)="', labels)) - {"le"})

    def test_http_lists_every_status_of_an_error(self) -> None:
        listed = {int(status) for status in re.findall(r"^\| `(\d{3})` \|", prose("docs/http.md"), re.M)}

        self.assertEqual({each.status for each in _family(Error)} - {ClientGone.status}, listed)

    def test_http_lists_the_methods_of_each_path(self) -> None:
        listed: dict[str, set[str]] = {}
        for row in re.findall(r"^\| .*$", prose("docs/http.md"), re.M):
            for method, path in re.findall(r"`([A-Z]+) (/[^`?\s]*)", row):
                # The interface `kv` answers 404 to other methods.
                if not path.startswith("/kv/"):
                    listed.setdefault(re.sub(r"\{\w+\}|HEX", "0", path), set()).add(method)

        allowed = {path: set(self.request("BREW", path).fields["allow"].split(", ")) for path in listed}

        self.assertEqual(allowed, listed)
        self.assertGreater(len(listed), 7)

    def test_http_lists_the_headers_of_a_download(self) -> None:
        table = prose("docs/http.md").partition("\n### Downloads\n")[2].partition("\n\n| request header")[0]
        listed = {name.lower() for name in re.findall(r"^\| `([\w-]+)` \|", table, re.M)}
        digest = json.loads(self.post("/", b"meow").body)["hash"]

        sent = set(self.get(f"/{digest}?name=cat.jpg").fields)

        self.assertEqual({name for name in sent if not name.startswith(":")} - _OF_EVERY_RESPONSE, listed)

    def test_operations_lists_every_unit(self) -> None:
        units = {path.name for suffix in ("service", "socket", "timer") for path in ROOT.glob(f"systemd/*.{suffix}")}

        self.assertEqual(units, set(re.findall(r"^\| `(filestoraged[\w-]*\.\w+)`", prose("docs/operations.md"), re.M)))

    def test_design_has_the_table_of_a_connection(self) -> None:
        rows = re.findall(r"^\| ([A-Z]+) \| (\w+) \| .*? \| (.*) \| (.*) \|$", prose("docs/design.md"), re.M)
        listed = {name: (owner.upper(), _states(f"{events} {deadline}")) for name, owner, events, deadline in rows}

        expected = {}
        for state, row in TABLE.items():
            following = {to.name for event, to in row.on.items() if event is not Event.ABORTED}
            expected[state.name] = (row.owner.name, following)

        self.assertEqual(expected, listed)

    def test_figures_name_measures_and_proofs_that_exist(self) -> None:
        rows = re.findall(r"^\| .*? \| [\d.,]+ \| `(.*?)` \|$", prose("docs/figures.md"), re.M)

        self.assertGreater(len(rows), 30)
        for measure in {row.removeprefix("bin/bench ") for row in rows if row.startswith("bin/bench ")}:
            self.assertIn(measure, MEASURES)
        for proof in {row.removeprefix("python -m ") for row in rows if not row.startswith("bin/bench ")}:
            self.assertIsNotNone(importlib.util.find_spec(proof), proof)

    def test_contributing_names_every_proof(self) -> None:
        directory = ROOT / "tests" / "proofs"
        modules = {path.stem for path in directory.glob("*.py")} - {"__init__"}
        packages = {path.parent.name for path in directory.glob("*/__main__.py")}

        self.assertEqual(modules | packages, set(re.findall(r"tests\.proofs\.(\w+)", read("CONTRIBUTING.md"))))

    def test_documents_name_no_option_that_does_not_exist(self) -> None:
        known = options_of_commands()

        for document in DOCUMENTS:
            named = set(re.findall(r"`(--[a-z][a-z0-9-]*)", prose(document)))
            self.assertLessEqual(named, known | _NOT_OURS, document)

    def test_modules_of_the_design_exist(self) -> None:
        named = set(re.findall(r"(?<![\w/])(?:api|store|web|wire)/[a-z_/0-9]*[a-z_0-9]\b", read("docs/design.md")))

        self.assertTrue(named)
        for name in named:
            path = ROOT / "filestoraged" / name
            self.assertTrue(path.is_dir() or path.with_suffix(".py").is_file(), name)

    def exposed(self) -> set[str]:
        self.wait_until("counted", lambda: b"filestoraged_objects_age" in self.get("/-/metrics").body)
        return set(re.findall(r"^# TYPE (\w+)", self.get("/-/metrics").body.decode(), re.M))

    def exposed_with(self, config: dict[str, object]) -> set[str]:
        """The metrics of a server with another configuration."""
        case = type("Other", (ServerCase,), {"config": config, "runTest": lambda _: None})()
        case.setUp()
        self.addCleanup(case.doCleanups)
        return set(re.findall(r"^# TYPE (\w+)", case.get("/-/metrics").body.decode(), re.M))


def _states(text: str) -> set[str]:
    return set(re.findall(r"\b[A-Z]{4,}\b", text))


def _anchors(text: str) -> Iterator[str]:
    """The names by which the headings of a document are linked."""
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _family(error: type[Error]) -> Iterator[type[Error]]:
    for each in error.__subclasses__():
        if "status" in vars(each) or error.status != 500:
            yield each
        yield from _family(each)
