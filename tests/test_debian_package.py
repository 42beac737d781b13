"""The Debian package as `bin/package --deb` makes it. bin/test-packages installs it on booted machines."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from bin.release.source import copy_source
from filestoraged import __version__
from tests.release.packages import package
from tests.runner.marks import long
from tests.support import find_program

ROOT = Path(__file__).resolve().parent.parent
DEBIAN = ROOT / "systemd" / "debian"
SCRIPTS = ("postinst", "prerm", "postrm", "rtupdate")
UNITS = {"filestoraged.service", "filestoraged.socket", "filestoraged-check.service", "filestoraged-check.timer"}

MODULES = "usr/share/filestoraged/filestoraged/"
DOCUMENTS = "usr/share/doc/filestoraged/"


class DebianPackageTest(unittest.TestCase):
    """One package for all tests, which do not change it, and what it installs."""

    place: Path
    package: Path
    root: Path

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.place = Path(tempfile.mkdtemp(prefix="filestoraged-"))
        cls.addClassCleanup(shutil.rmtree, cls.place, ignore_errors=True)
        (cls.package,) = package(cls.place / "made", "--deb")
        cls.root = cls.place / "root"
        run("dpkg-deb", "--raw-extract", str(cls.package), str(cls.root))

    def test_name_and_fields_have_the_version_of_the_program(self) -> None:
        self.assertEqual(f"filestoraged_{__version__}_all.deb", self.package.name)
        self.assertEqual(__version__, self.field("Version"))
        self.assertEqual("python3 (>= 3.11)", self.field("Depends"))

    def test_package_has_command_modules_manual_pages_completions_units_and_configuration(self) -> None:
        paths = {path for path in self.files() if not path.startswith((MODULES, DOCUMENTS, "DEBIAN/"))}

        self.assertEqual(
            {
                "etc/filestoraged.conf",
                "usr/bin/filestoraged",
                "usr/share/man/man1/filestoraged.1.gz",
                "usr/share/man/man5/filestoraged.conf.5.gz",
                "usr/share/bash-completion/completions/filestoraged",
                "usr/share/zsh/vendor-completions/_filestoraged",
                "usr/share/fish/vendor_completions.d/filestoraged.fish",
                "usr/share/lintian/overrides/filestoraged",
                "usr/share/python3/runtime.d/filestoraged.rtupdate",
                *(f"usr/lib/systemd/system/{unit}" for unit in UNITS),
            },
            paths,
        )

    def test_modules_and_pages_are_those_of_the_checkout(self) -> None:
        package = ROOT / "filestoraged"
        files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]

        shipped = {path.removeprefix(MODULES) for path in self.files() if path.startswith(MODULES)}

        self.assertEqual({str(path.relative_to(package)) for path in files}, shipped)

    def test_configuration_is_a_conffile(self) -> None:
        self.assertEqual("/etc/filestoraged.conf\n", (self.root / "DEBIAN" / "conffiles").read_text())
        self.assertEqual(
            (ROOT / "systemd" / "filestoraged.conf").read_bytes(),
            (self.root / "etc" / "filestoraged.conf").read_bytes(),
        )

    def test_command_runs_from_the_units_and_by_the_interpreter_of_the_system(self) -> None:
        command = (self.root / "usr/bin/filestoraged").read_text()
        service = (self.root / "usr/lib/systemd/system/filestoraged.service").read_text()

        self.assertTrue(command.startswith("#!/usr/bin/python3 -I\n"))
        self.assertIn('"/usr/share/filestoraged"', command)
        self.assertIn("\nExecStart=/usr/bin/filestoraged serve --config /etc/filestoraged.conf\n", service)
        self.assertNotIn("/usr/local", service)

    def test_sums_are_those_of_the_files(self) -> None:
        lines = (self.root / "DEBIAN/md5sums").read_text().splitlines()

        sums = {path: digest for digest, path in (line.split("  ") for line in lines)}

        self.assertEqual({path for path in self.files() if not path.startswith(("DEBIAN/", "etc/"))}, set(sums))
        for path, expected in sums.items():
            self.assertEqual(expected, hashlib.md5((self.root / path).read_bytes()).hexdigest(), path)

    def test_files_belong_to_root_and_only_their_owner_writes(self) -> None:
        lines = run("dpkg-deb", "--contents", str(self.package)).splitlines()

        others = [line for line in lines if not re.match(r"(drwxr-xr-x|-rw-r--r--|-rwxr-xr-x) root/root ", line)]

        self.assertEqual([], others)

    @long("packages")
    def test_lintian_reports_no_error_and_no_warning(self) -> None:
        printed = run("lintian", "--allow-root", "--fail-on=none", str(self.package))

        self.assertEqual([], [line for line in printed.splitlines() if re.match("[EW]: ", line)])

    @long("packages")
    def test_copy_of_the_checkout_without_a_repository_makes_the_same_bytes(self) -> None:
        copy = self.place / "copy"
        copy_source(copy)
        for path in (copy / "filestoraged").rglob("*.py"):
            path.chmod(0o600)
        settings = {"SOURCE_DATE_EPOCH": str(int((self.root / "usr/bin/filestoraged").stat().st_mtime))}

        (again,) = package(self.place / "again", "--deb", root=copy, mask=0o077, TZ="Asia/Tokyo", **settings)

        self.assertEqual(digest(self.package), digest(again))

    def files(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}

    def field(self, name: str) -> str:
        return run("dpkg-deb", "--field", str(self.package), name).strip()


class MaintainerScriptsTest(unittest.TestCase):
    """bin/test-packages runs them."""

    def test_scripts_have_no_fault_for_a_posix_shell(self) -> None:
        for script in SCRIPTS:
            with self.subTest(script):
                run("sh", "-n", str(DEBIAN / script))
                run("shellcheck", "--shell=sh", str(DEBIAN / script))

    def test_build_has_no_fault(self) -> None:
        run("shellcheck", "--external-sources", "--source-path=SCRIPTDIR", "--exclude=SC1091", str(DEBIAN / "build"))

    def test_script_with_a_fault_is_noticed(self) -> None:
        with self.assertRaises(subprocess.CalledProcessError):
            subprocess.run(
                [find_program("shellcheck"), "--shell=sh", "-"],
                input="#!/bin/sh\nrm $1\n",
                text=True,
                check=True,
                capture_output=True,
            )

    def test_removal_and_purge_name_all_units(self) -> None:
        for script in ("prerm", "postrm"):
            text = (DEBIAN / script).read_text(encoding="utf-8")

            self.assertEqual(UNITS, set(re.findall(r"filestoraged[a-z-]*\.(?:service|socket|timer)", text)), script)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(name: str, *arguments: str) -> str:
    """Run a program, and return what it printed. Raises AssertionError where it fails."""
    done = subprocess.run([find_program(name), *arguments], capture_output=True, encoding="utf-8", check=False)
    assert not done.returncode, done.stderr + done.stdout
    return done.stdout
