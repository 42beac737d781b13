"""Build tools that share their outputs by the daemon, set up as docs/build-caches.md says."""

from __future__ import annotations

import re
import sys
import unittest
from collections.abc import Mapping

from tests.documents import Block, Machine, blocks, section
from tests.runner.marks import long
from tests.support import TempCase, find_program

DOCUMENT = "docs/build-caches.md"

# The packages of npm that bin/test has installed.
_NODE_MODULES = f"{sys.prefix}/node/node_modules"

# No process that stays, and no request to another host.
_SETTINGS = (
    "export NO_COLOR=1 NX_DAEMON=false NX_NO_CLOUD=true TURBO_TELEMETRY_DISABLED=1 npm_config_update_notifier=false"
)

_AS_READER = "export TOKEN=$(cat people.token)"


class BuildCacheCase(TempCase):
    """A project, and a machine on which it is built: by a writer, then by a reader, and changed, by a reader."""

    def assert_shares(
        self, client: str, project: Mapping[str, str], *, forget: str, change: str, says: str, prepare: str = ":"
    ) -> str:
        """Build three times: the second build comes from the daemon, which refuses the outputs of the third.

        `forget` removes the outputs and the local cache; `change` changes an input; `says` is what the client prints
        of outputs that it has from the daemon, a regular expression. Returns what all builds print.
        """
        machine = Machine(self.directory, sys.executable)
        for name, text in project.items():
            (machine.home / name).parent.mkdir(exist_ok=True)
            (machine.home / name).write_text(f"{text}\n")
        (daemon,) = section(DOCUMENT, "The daemon")
        build, *more = (f"{{\n{block.text}}} 2>&1" for block in section(DOCUMENT, client))
        (space,) = re.findall(r"/names/(\w+)", build)
        as_writer = (daemon.text, _SETTINGS, prepare, build, *more)
        as_reader = (forget, _AS_READER, build, change, build, "kill %1")

        done = machine.run(DOCUMENT, [Block(DOCUMENT, "sh", text) for text in (*as_writer, *as_reader)])

        written, read, refused = (printed for step, printed in done if step.commands == build)
        self.assertNotRegex(written, says)
        self.assertRegex(read, says)
        self.assertNotRegex(refused, says)
        self.assert_served(space, machine.errors)
        return written + read + refused

    def assert_served(self, space: str, log: str) -> None:
        """Judge the access log: outputs were stored and read, and those of the reader were refused."""
        requests = re.findall(rf" (GET|HEAD|PUT) /names/{space}/\S+ (\d+) ", log)

        self.assertLessEqual({("PUT", "201"), ("GET", "200"), ("PUT", "403")}, set(requests), log)
        self.assertLessEqual({status for _, status in requests}, {"200", "201", "403", "404"}, log)


class DocumentTest(unittest.TestCase):
    def test_tests_run_every_block_of_the_document(self) -> None:
        run = [section(DOCUMENT, name) for name in ("The daemon", "Bazel", "ccache", "Gradle", "Nx", "Turborepo")]

        self.assertEqual(blocks(DOCUMENT), [block for each in run for block in each])


class CcacheTest(BuildCacheCase):
    def test_second_build_comes_from_the_daemon_and_a_reader_stores_nothing(self) -> None:
        find_program("ccache")

        self.assert_shares(
            "ccache",
            {"tea.c": "int tea(void) { return 1; }"},
            forget="rm -rf .cache tea.o",
            change="echo 'int cup;' >> tea.c",
            says=r"(?s)Remote storage:.*Hits: +1 / +1 ",
        )


class NodeTest(BuildCacheCase):
    """Clients that are in node_modules of a project."""

    def assert_shares_package(self, client: str, settings: Mapping[str, str], *, says: str, prepare: str = ":") -> str:
        package = '{"name": "tea", "version": "1.0.0", "scripts": {"build": "mkdir -p dist && cp leaf dist/tea"}}'
        return self.assert_shares(
            client,
            {
                "package.json": '{"name": "any", "packageManager": "npm@9.2.0", "workspaces": ["tea"]}',
                ".gitignore": "dist\nnode_modules\n.nx\n.turbo",
                "tea/package.json": package,
                "tea/leaf": "green",
                **settings,
            },
            prepare=f"ln -s {_NODE_MODULES} node_modules; git init --quiet; {prepare}",
            forget="rm -rf .nx .turbo tea/.turbo tea/dist",
            change="echo black > tea/leaf",
            says=says,
        )

    def test_nx_has_the_second_build_from_the_daemon_and_succeeds_as_a_reader(self) -> None:
        targets = '{"targetDefaults": {"build": {"cache": true, "outputs": ["{projectRoot}/dist"]}}}'

        self.assert_shares_package("Nx", {"nx.json": targets}, says=r"\[remote cache\]")

    def test_turborepo_has_the_second_build_from_the_daemon_with_its_signature(self) -> None:
        tasks = '{"tasks": {"build": {"outputs": ["dist/**"]}}, "remoteCache": {"signature": true}}'
        key = "export TURBO_REMOTE_CACHE_SIGNATURE_KEY=0123456789abcdef0123456789abcdef"

        said = self.assert_shares_package("Turborepo", {"turbo.json": tasks}, says="1 cached, 1 total", prepare=key)

        # Once without an answer for the status, twice with it.
        self.assertEqual(1, said.count("Remote caching unavailable"), said)
        self.assertEqual(2, said.count("Remote caching enabled"), said)


@long("starts a JVM, which takes seconds")
class JavaTest(BuildCacheCase):
    def test_bazel_has_the_second_build_from_the_daemon_and_a_reader_stores_nothing(self) -> None:
        find_program("bazel")

        self.assert_shares(
            "Bazel",
            {"WORKSPACE": "", "BUILD": 'genrule(name = "tea", outs = ["tea.txt"], cmd = "echo green > $@")'},
            forget="bazel clean 2>&1",
            change="sed -i s/green/black/ BUILD",
            says="1 remote cache hit",
        )

    def test_gradle_has_the_second_build_from_the_daemon_and_a_reader_stores_nothing(self) -> None:
        find_program("gradle")
        task = """
            task tea {
                inputs.file 'leaf'
                outputs.file 'build/tea'
                outputs.cacheIf { true }
                doLast { file('build/tea').text = file('leaf').text }
            }"""

        self.assert_shares(
            "Gradle",
            {
                "build.gradle": task,
                "leaf": "green",
                # A Gradle daemon on Java 17 would keep the environment of the first build, which has the token.
                "user/gradle.properties": "org.gradle.daemon=false",
                "user/init.gradle": "settingsEvaluated { it.buildCache.local.enabled = false }",
            },
            prepare="export GRADLE_USER_HOME=$PWD/user",
            forget="rm -rf build .gradle",
            change="echo black > leaf",
            says=":tea FROM-CACHE",
        )
