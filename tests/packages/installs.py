"""From nothing to a stored file, by each way to install, in an empty directory with an empty home.

Each test prints its seconds, most of which the package manager takes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from filestoraged import __version__
from tests.release.packages import class_directory, package
from tests.support import TempCase, find_program, free_port

_PATIENCE = 300


class InstallsTest(TempCase):
    """The packages are made once."""

    pyz: Path
    wheel: Path
    sdist: Path

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        place = class_directory(cls)
        cls.pyz, cls.wheel, cls.sdist = package(place / "made", "--pyz", "--wheel")

    def setUp(self) -> None:
        super().setUp()
        self.home = self.directory / "home"
        self.place = self.directory / "empty"
        for each in (self.home, self.place):
            each.mkdir()
        self.began = time.monotonic()

    def test_twine_accepts_the_wheel_and_the_sdist(self) -> None:
        self.run_program(sys.executable, "-m", "twine", "check", "--strict", str(self.wheel), str(self.sdist))

    def test_one_file_serves(self) -> None:
        shutil.copy(self.pyz, self.place)

        self.assert_stores_a_file("filestoraged.pyz", "python3", "filestoraged.pyz")

    def test_wheel_is_installed_by_pip_and_serves(self) -> None:
        self.assert_installed_by_pip(self.wheel)

    def test_sdist_is_installed_by_pip_and_serves(self) -> None:
        self.assert_installed_by_pip(self.sdist)

    def test_wheel_is_installed_by_pipx_and_serves_with_manual_pages(self) -> None:
        self.run_program(sys.executable, "-m", "pipx", "install", "--python", sys.executable, str(self.wheel))

        self.assert_stores_a_file("pipx", str(self.home / ".local/bin/filestoraged"))
        pages = sorted(path.name for path in (self.home / ".local/share/man").rglob("filestoraged*"))
        self.assertEqual(["filestoraged.1", "filestoraged.conf.5"], pages)

    def test_installed_extra_brings_the_driver_of_postgresql(self) -> None:
        python = self.make_environment()
        self.run_program(python, "-m", "pip", "install", "--quiet", f"{self.wheel}[postgresql]")

        self.run_program(python, "-c", "import psycopg, pymemcache")

    def assert_installed_by_pip(self, package_: Path) -> None:
        python = self.make_environment()
        self.run_program(python, "-m", "pip", "install", "--quiet", str(package_))

        command = str(Path(python).with_name("filestoraged"))
        self.assert_stores_a_file(f"pip, {package_.suffix}", command)
        self.assertEqual(f"filestoraged {__version__}\n", self.run_program(command, "--version"))
        self.assertIn("filestoraged - store files", self.run_program(command, "--manual"))

    def make_environment(self) -> str:
        self.run_program("python3", "-m", "venv", "environment")
        return str(self.place / "environment" / "bin" / "python")

    def assert_stores_a_file(self, way: str, *command: str) -> None:
        url = f"http://127.0.0.1:{free_port()}/"
        arguments = [*command, "--listen", url.removeprefix("http://").rstrip("/")]
        with subprocess.Popen(arguments, cwd=self.place, env=self.environment(), stderr=subprocess.DEVNULL) as daemon:
            try:
                options = ["--silent", "--show-error", "--fail", "--retry", "100", "--retry-connrefused"]
                curl = [find_program("curl"), *options, "--retry-delay", "0", "--noproxy", "*"]
                stored = self.run_program(*curl, "--data-binary", "tea", url)
            finally:
                daemon.terminate()
        self.assertIn('"size": 3', stored)
        self.assertTrue((self.place / "store").is_dir())
        sys.stderr.write(f"{way}: {time.monotonic() - self.began:.1f} s to a stored file\n")

    def environment(self) -> dict[str, str]:
        # The settings of pip are those of this machine; nothing else is of its user.
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "PIP_CONFIG_FILE", "TMPDIR")}
        return {**kept, "HOME": str(self.home), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "LANG": "C.UTF-8"}

    def run_program(self, *command: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.place,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
        return done.stdout


CASES = (InstallsTest,)
