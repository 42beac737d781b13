"""The workflow that makes a release. `tests.test_packaging` sees that its actions are pinned."""

from __future__ import annotations

import re
import unittest
from typing import Any

import yaml

from tests.daemon.process import ROOT

_TEXT = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")


class ReleaseWorkflowTest(unittest.TestCase):
    def setUp(self) -> None:
        # YAML 1.1 reads `on` as true.
        self.workflow: dict[Any, Any] = yaml.safe_load(_TEXT)
        self.jobs = self.workflow["jobs"]

    def test_every_workflow_is_yaml_with_jobs(self) -> None:
        for path in (ROOT / ".github" / "workflows").iterdir():
            with self.subTest(path.name):
                self.assertTrue(yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"])

    def test_release_is_made_from_tags_alone(self) -> None:
        self.assertEqual({"push": {"tags": ["v*"]}}, self.workflow[True])

    def test_only_the_job_that_publishes_has_rights_and_it_runs_nothing_of_the_source(self) -> None:
        self.assertEqual({"contents": "read"}, self.workflow["permissions"])
        self.assertNotIn("permissions", self.jobs["build"])
        rights = {"contents": "write", "id-token": "write", "attestations": "write"}
        self.assertEqual(rights, self.jobs["publish"]["permissions"])
        self.assertFalse([step for step in self.jobs["publish"]["steps"] if "checkout" in step.get("uses", "")])

    def test_tag_is_compared_with_the_version_before_anything_is_built(self) -> None:
        commands = [step["run"] for step in self.jobs["build"]["steps"] if "run" in step]

        checked = next(number for number, command in enumerate(commands) if "bin.release.changelog" in command)
        built = next(number for number, command in enumerate(commands) if "bin/package" in command)

        self.assertLess(checked, built)

    def test_every_package_is_built(self) -> None:
        options = re.findall(r"^#   (--\w+)", (ROOT / "bin" / "package").read_text(encoding="utf-8"), re.MULTILINE)

        self.assertEqual(sorted(options), sorted(re.findall(r"--(?:archive|deb|oci|pyz|wheel)\b", _TEXT)))

    def test_files_are_attested_by_their_checksums_and_published_with_the_text_of_the_changelog(self) -> None:
        steps = self.jobs["publish"]["steps"]
        attested = next(step for step in steps if "attest-build-provenance" in step.get("uses", ""))

        self.assertEqual({"subject-checksums": "dist/SHA256SUMS"}, attested["with"])
        self.assertIn("--notes-file notes.md dist/*", steps[-1]["run"])
