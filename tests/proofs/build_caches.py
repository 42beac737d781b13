"""A second build of C files by ccache, from the daemon and a local directory: `python -m tests.proofs.build_caches`.

What HTTP costs ccache, whichever the server, nginx tells, which stores what it gets as files and syncs nothing. Needs
ccache and gcc, which bin/test installs, and nginx.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.bench.command import run
from tests.bench.contest import QUIET, Bench, timed
from tests.bench.figures import Figure, Goal, ratio
from tests.bench.servers import nginx, ours
from tests.daemon.process import clean_environment

FILES = 500

# With headers, as in a project: ccache compares their digests, too.
_SOURCE = """
#include <stdio.h>
#include <stdlib.h>
int value_{number}(int argument) {{ return printf("%d", argument) + abs({number}); }}
"""

# An object below a directory that a PUT makes.
_WEBDAV = "location / { dav_methods PUT; create_full_put_path on; client_body_temp_path {bodies}; }"

# Two at a time.
_BUILD = "rm -f *.o && ls *.c | xargs -P 2 -I{} ccache gcc -O2 -c {}"


class Builder:
    """A user with a local cache, who builds the project."""

    def __init__(self, project: Path, cache: Path, remote: str = "") -> None:
        self._project = project
        self._cache = cache
        self._remote = remote
        self._environment = {**clean_environment(), "CCACHE_DIR": str(cache), "CCACHE_REMOTE_STORAGE": remote}

    def seconds(self) -> float:
        """Build without a local cache, if there is a remote one. All outputs must come from the cache."""
        if self._remote:
            shutil.rmtree(self._cache)
        self.run("ccache --zero-stats")
        seconds = timed(lambda: self.run(_BUILD))
        counted = dict(line.split("\t") for line in self.run("ccache --print-stats").splitlines())
        hits = counted["remote_storage_hit" if self._remote else "local_storage_hit"]
        assert int(hits) == len(list(self._project.glob("*.c"))), counted
        return seconds

    def run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-euc", command], cwd=self._project, env=self._environment, stdout=subprocess.PIPE, check=True
        )
        return done.stdout.decode()


def ccache(bench: Bench) -> list[Figure]:
    project = bench.directory / "project"
    project.mkdir()
    for number in range(bench.part_of(FILES)):
        (project / f"{number}.c").write_text(_SOURCE.format(number=number))
    remote, served = bench.directory / "remote", bench.directory / "served"
    served.mkdir()
    # Not bound to a core: the compilers use all of them.
    with (
        ours(bench.directory, *QUIET, before=()) as daemon,
        nginx(
            bench.directory, served, location=_WEBDAV.replace("{bodies}", str(bench.directory / "bodies")), before=()
        ) as other,
    ):
        builders = {
            "the daemon": Builder(project, bench.directory / "a", f"{daemon.url}/names/ccache"),
            "a local directory as remote storage": Builder(project, bench.directory / "b", f"file:{remote}"),
            "nginx": Builder(project, bench.directory / "d", f"{other.url}/ccache"),
            "a local cache": Builder(project, bench.directory / "c"),
        }
        for builder in builders.values():
            builder.run(_BUILD)
        samples = bench.take_turns({name: builder.seconds for name, builder in builders.items()})
    first, second, *_ = builders
    goal = Goal(f"of {second}", ratio(samples, first, second), 1.3, at_most=True)
    return [Figure("second build of 500 C files", "s", samples, [goal])]


if __name__ == "__main__":
    sys.exit(run("tests.proofs.build_caches", {"ccache": ccache}))
