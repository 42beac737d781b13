"""bin/test and bin/bench: their help, and the selection of tests by name."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.daemon.process import ROOT, clean_environment
from tests.runner.units import load
from tests.support import TempCase


class HelpTest(TempCase):
    def test_help_is_printed_without_an_installation(self) -> None:
        for part in ("bin", "filestoraged", "tests"):
            shutil.copytree(ROOT / part, self.directory / part)
        for command, expected in (("test", "NAME"), ("bench", "MEASURE")):
            for option in ("--help", "-h"):
                with self.subTest(command=command, option=option):
                    done = self.run_command(self.directory / "bin" / command, option)

                    self.assertEqual((0, ""), (done.returncode, done.stderr))
                    self.assertIn(f"usage: bin/{command}", done.stdout)
                    self.assertIn(expected, done.stdout)
        self.assertEqual([], list(self.directory.glob(".*")))

    def run_command(self, command: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        # Programs that install are not found.
        environment = {**clean_environment(), "PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
        return subprocess.run([command, *arguments], env=environment, capture_output=True, text=True, check=False)


class NamesTest(TempCase):
    def test_package_selects_all_of_its_modules(self) -> None:
        modules = [f"tests.wire.{path.stem}" for path in (ROOT / "tests" / "wire").glob("test_*.py")]

        counts = [load(module).countTestCases() for module in modules]

        self.assertGreater(len(counts), 5)
        self.assertEqual(sum(counts), load("tests.wire").countTestCases())

    def test_path_selects_a_module_a_class_or_a_test(self) -> None:
        module, name, test = __name__, type(self).__name__, self.id().rpartition(".")[2]

        counts = [load(each).countTestCases() for each in (module, f"{module}.{name}", f"{module}.{name}.{test}")]

        self.assertEqual([3, 2, 1], counts)
