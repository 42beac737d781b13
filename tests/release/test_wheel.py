"""The wheel and the sdist: what they have, that they install, and that the same source makes the same bytes."""

from __future__ import annotations

import email
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from bin.release.source import PARTS
from filestoraged import __version__
from filestoraged.api.pages import FILES
from filestoraged.cli.manual import PAGES
from tests.daemon.process import PATIENCE, ROOT, clean_environment
from tests.release.packages import class_directory, package
from tests.runner.marks import long
from tests.support import TempCase

_UNITS = ("filestoraged.service", "filestoraged.socket", "filestoraged-check.service", "filestoraged-check.timer")

# What the sdist has besides the files of the repository.
_MADE = ("PKG-INFO", "filestoraged.egg-info/")


class WheelTest(TempCase):
    """One build for all tests, which do not change it."""

    wheel: Path
    sdist: Path
    before: set[str]
    after: set[str]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        place = class_directory(cls)
        cls.before = tree(ROOT)
        cls.wheel, cls.sdist = package(place / "made", "--wheel", SOURCE_DATE_EPOCH="1700000000")
        cls.after = tree(ROOT)

    def test_build_leaves_nothing_in_the_work_tree(self) -> None:
        self.assertEqual(set(), self.after - self.before)

    def test_wheel_has_modules_pages_manual_and_units(self) -> None:
        with zipfile.ZipFile(self.wheel) as archive:
            names = set(archive.namelist())
        shared = f"filestoraged-{__version__}.data/data/share"
        modules = {str(path.relative_to(ROOT)) for path in (ROOT / "filestoraged").rglob("*.py")}

        expected = {
            *modules,
            "filestoraged/py.typed",
            *(f"filestoraged/pages/{name}" for name in FILES),
            *(f"filestoraged/manual/{name}" for name in PAGES),
            f"{shared}/man/man1/filestoraged.1",
            f"{shared}/man/man5/filestoraged.conf.5",
            *(f"{shared}/filestoraged/{unit}" for unit in _UNITS),
            f"{shared}/filestoraged/filestoraged.conf",
        }
        self.assertEqual(set(), expected - names)
        rest = {name for name in names - expected if not name.startswith(shared) and ".dist-info/" not in name}
        self.assertEqual(set(), rest)

    def test_wheel_has_the_version_of_the_package_and_its_requirements(self) -> None:
        with zipfile.ZipFile(self.wheel) as archive:
            metadata = email.message_from_bytes(archive.read(f"filestoraged-{__version__}.dist-info/METADATA"))

        self.assertEqual(("filestoraged", __version__), (metadata["Name"], metadata["Version"]))
        self.assertEqual(">=3.11", metadata["Requires-Python"])
        self.assertIn("pymemcache", metadata.get_all("Requires-Dist", []))

    def test_sdist_has_every_file_of_the_repository(self) -> None:
        with tarfile.open(self.sdist) as archive:
            members = archive.getmembers()
        names = {member.name.partition("/")[2] for member in members if not member.isdir()}

        self.assertEqual(repository(), {name for name in names if not name.startswith(_MADE)})
        self.assertEqual({(0, 0, "", "", 1700000000)}, {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members})

    @long("packages")
    def test_same_source_makes_the_same_bytes_whatever_the_umask(self) -> None:
        again = package(
            self.directory / "again", "--wheel", mask=0o077, SOURCE_DATE_EPOCH="1700000000", TZ="Asia/Tokyo"
        )

        self.assertEqual([self.wheel.read_bytes(), self.sdist.read_bytes()], [path.read_bytes() for path in again])

    @long("packages")
    def test_wheel_and_sdist_install_and_say_their_version(self) -> None:
        for made in (self.wheel, self.sdist):
            with self.subTest(made.suffix):
                place = self.directory / made.suffix
                options = ["--no-index", "--no-deps", "--no-build-isolation", "--no-compile", "--target", str(place)]
                self.run_program(sys.executable, "-m", "pip", "install", "--quiet", *options, str(made))

                code = f"import runpy, sys; sys.path.insert(0, {str(place)!r}); runpy.run_module('filestoraged')"
                shown = self.run_program(sys.executable, "-I", "-c", code, "--version")
                self.assertEqual(f"filestoraged {__version__}\n", shown)
                self.assertTrue((place / "share/man/man1/filestoraged.1").is_file())
                self.assertTrue((place / "bin/filestoraged").is_file())

    def run_program(self, *command: str) -> str:
        ended = subprocess.run(
            command,
            cwd=self.directory,
            env={**clean_environment(), "PIP_CONFIG_FILE": "/dev/null", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            capture_output=True,
            text=True,
            timeout=PATIENCE * 5,
            check=False,
        )
        self.assertEqual(0, ended.returncode, ended.stderr)
        return ended.stdout


def tree(root: Path) -> set[str]:
    """What a build could leave at the top of the checkout, and all but bytecode in the directories that it reads.

    Other tests run at the same time, and make hidden directories.
    """
    at_top = [path for pattern in ("build", "dist", "*.egg-info", "MANIFEST", "*.whl") for path in root.glob(pattern)]
    below = [path for part in ("bin", "docs", "filestoraged") for path in (root / part).rglob("*")]
    return {str(path) for path in (*at_top, *below) if "__pycache__" not in path.parts}


def repository() -> set[str]:
    """The files of the repository, whether or not it has a history here."""
    below = [path for part in PARTS for path in ((ROOT / part).rglob("*") if (ROOT / part).is_dir() else [ROOT / part])]
    files = {path for path in below if path.is_file() and "__pycache__" not in path.parts}
    return {str(path.relative_to(ROOT)) for path in files}
