"""bin/install and bin/uninstall, into a directory as packagers do. bin/test-systemd runs them as root."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tests.runner.marks import long
from tests.support import TempCase

ROOT = Path(__file__).resolve().parent.parent
UNITS = {
    "filestoraged.service",
    "filestoraged.socket",
    "filestoraged-check.service",
    "filestoraged-check.timer",
}

# What pip fetches to build the package, as little of it as there can be: tests have no network.
_WHEELS = {
    "setuptools": {
        "setuptools/build_meta.py": """
import pathlib, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    info = "filestoraged-1.dist-info"
    with zipfile.ZipFile(directory + "/filestoraged-1-py3-none-any.whl", "w") as wheel:
        for path in sorted(pathlib.Path("filestoraged").rglob("*.py")):
            wheel.write(path)
        named = "Metadata-Version: 2.1\\nName: filestoraged\\nVersion: 1\\n"
        wheel.writestr(info + "/METADATA", named + "Requires-Dist: pymemcache\\n")
        wheel.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "/RECORD", "")
    return "filestoraged-1-py3-none-any.whl"
"""
    },
    "pymemcache": {"pymemcache/__init__.py": ""},
}


class InstallTest(TempCase):
    """One installation for all tests, which do not change it."""

    place: Path

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.place = Path(tempfile.mkdtemp(prefix="filestoraged-"))
        cls.addClassCleanup(shutil.rmtree, cls.place, ignore_errors=True)
        done = install(cls.place, cls.place / "root")
        assert not done.returncode, done.stderr

    def setUp(self) -> None:
        super().setUp()
        self.root = self.place / "root"

    def test_installation_has_command_environment_manual_pages_units_and_configuration(self) -> None:
        inside = "usr/local/lib/filestoraged/"
        paths = {path if not path.startswith(inside) else inside for path in below(self.root)}

        self.assertEqual(
            {
                "etc/filestoraged.conf",
                "usr/local/bin/filestoraged",
                inside,
                "usr/local/share/man/man1/filestoraged.1",
                "usr/local/share/man/man5/filestoraged.conf.5",
                "usr/local/share/bash-completion/completions/filestoraged",
                "usr/local/share/zsh/site-functions/_filestoraged",
                "usr/local/share/fish/vendor_completions.d/filestoraged.fish",
                *(f"usr/local/lib/systemd/system/{unit}" for unit in UNITS),
            },
            paths,
        )

    def test_command_runs_by_the_interpreter_of_its_environment_which_has_neither_pip_nor_setuptools(self) -> None:
        environment = self.root / "usr/local/lib/filestoraged"
        command = environment / "bin/filestoraged"

        done = subprocess.run([environment / "bin/python", "-I", command, "--version"], capture_output=True, check=True)

        self.assertTrue(done.stdout.startswith(b"filestoraged "))
        self.assertTrue(command.read_text().startswith("#!/usr/local/lib/filestoraged/bin/python -I\n"))
        self.assertEqual(
            "/usr/local/lib/filestoraged/bin/filestoraged", os.readlink(self.root / "usr/local/bin/filestoraged")
        )
        names = {path.name for path in environment.glob("lib/python*/site-packages/*") if "dist-info" not in path.name}
        self.assertEqual({"filestoraged", "pymemcache"}, names)

    def test_no_installed_file_has_the_path_of_the_build(self) -> None:
        files = [path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink()]

        naming = [path for path in files if os.fsencode(self.place) in path.read_bytes()]

        self.assertEqual([], naming)
        self.assertTrue([path for path in files if path.suffix == ".pyc"])

    def test_installed_files_are_readable_by_all_and_writable_by_their_owner(self) -> None:
        modes = {path.stat().st_mode & 0o777 for path in self.root.rglob("*") if not path.is_symlink()}

        self.assertEqual({0o644, 0o755}, modes)

    def test_invalid_setting_exits_1_with_one_sentence(self) -> None:
        hidden = self.directory / "copy"
        shutil.copy(interpreter(), hidden)
        for name, value, expected in (
            ("PREFIX", "/home/me/filestoraged", "PREFIX=/home/me/filestoraged is hidden from the service"),
            ("PREFIX", "here", "invalid PREFIX 'here'"),
            ("PREFIX", "/opt/a b", "invalid PREFIX '/opt/a b'"),
            ("DESTDIR", "here", "invalid DESTDIR 'here'"),
            ("PYTHON", "/nowhere/python3", "cannot find /nowhere/python3"),
            ("PYTHON", str(hidden), f"the interpreter {hidden} is hidden from the service"),
        ):
            with self.subTest(value):
                done = install(self.place, self.directory / "refused", **{name: value})

                self.assertEqual((1, 1), (done.returncode, len(done.stderr.splitlines())), done.stderr)
                self.assertIn(expected, done.stderr)
                self.assertFalse((self.directory / "refused").exists())


@long("packages")
class HashesTest(TempCase):
    def test_wheel_with_another_hash_is_refused_before_it_runs(self) -> None:
        make_checkout(self.directory / "checkout", self.directory / "wheels")
        ran = self.directory / "ran"
        for name, good in _WHEELS.items():
            with self.subTest(name):
                evil = {**_WHEELS, name: {**good, f"{name}/__init__.py": f"open({str(ran)!r}, 'w')"}}
                for each, files in evil.items():
                    make_wheel(self.directory / "wheels", each, files)

                done = install(self.directory, self.directory / "root")

                self.assertNotEqual(0, done.returncode)
                self.assertIn("DO NOT MATCH THE HASHES", done.stderr)
                self.assertFalse(ran.exists())
                self.assertEqual(set(), below(self.directory / "root"))


@long("packages")
class PrefixTest(TempCase):
    def test_installation_keeps_a_configuration_replaces_another_and_is_removed_but_for_the_configuration(self) -> None:
        root = self.directory / "root"
        configuration, old = root / "etc/filestoraged.conf", root / "opt/stored/lib/filestoraged/old"
        for path in (configuration, old):
            path.parent.mkdir(parents=True)
            path.write_text("mine")

        done = install(self.directory, root, PREFIX="/opt/stored")
        unit = (root / "etc/systemd/system/filestoraged.service").read_text()
        self.assertEqual((0, False), (done.returncode, old.exists()), done.stderr)
        self.assertIn("\nExecStart=/opt/stored/bin/filestoraged serve ", unit)

        gone = run("uninstall", root, PREFIX="/opt/stored")
        self.assertEqual((0, 1), (gone.returncode, len(gone.stdout.splitlines())), gone.stderr)
        self.assertEqual(({"etc/filestoraged.conf"}, "mine"), (below(root), configuration.read_text()))


def below(root: Path) -> set[str]:
    """The files below `root`, relative to it, and links to folders as well."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir() or path.is_symlink()}


def install(directory: Path, root: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Install below `root`, from a checkout and wheels that are made in `directory`."""
    checkout, wheels = directory / "checkout", directory / "wheels"
    if not checkout.exists():
        make_checkout(checkout, wheels)
    ours = {"PYTHON": interpreter(), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), **environment}
    return run("install", root, checkout=checkout, **ours)


def run(command: str, root: Path, *, checkout: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    settings = {**clean, "DESTDIR": str(root), "PIP_CONFIG_FILE": os.devnull, **environment}
    path = checkout / "bin" / command
    return subprocess.run([path], env=settings, capture_output=True, encoding="utf-8", check=False)


def make_checkout(checkout: Path, wheels: Path) -> None:
    """A copy whose requirements are wheels of ours, by their hashes."""
    for part in ("bin", "docs", "filestoraged", "systemd"):
        shutil.copytree(ROOT / part, checkout / part)
    for part in ("LICENSE", "README.md", "pyproject.toml", "setup.cfg"):
        shutil.copy(ROOT / part, checkout / part)
    wheels.mkdir()
    lines = []
    for name, files in _WHEELS.items():
        make_wheel(wheels, name, files)
        digest = hashlib.sha256((wheels / f"{name}-999-py3-none-any.whl").read_bytes()).hexdigest()
        lines.append(f"{name}==999 --hash=sha256:{digest}\n")
    (checkout / "systemd" / "requirements.txt").write_text("".join(lines))


def make_wheel(directory: Path, name: str, files: dict[str, str]) -> None:
    info = f"{name}-999.dist-info"
    with zipfile.ZipFile(directory / f"{name}-999-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 999\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def interpreter() -> str:
    """One that a service could run: that of the tests may be in a home."""
    hidden = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")
    for path in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        if not os.access(path, os.X_OK):
            continue
        print_it = "import ensurepip, os, sys, venv; print(os.path.realpath(sys._base_executable))"
        done = subprocess.run([path, "-I", "-c", print_it], capture_output=True, encoding="utf-8", check=False)
        if not done.returncode and not done.stdout.startswith(hidden):
            return done.stdout.strip()
    raise AssertionError("no Python with venv is outside of homes; on Debian: apt install python3-venv")
