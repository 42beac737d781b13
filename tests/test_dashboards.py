"""docs/alerts.yml and docs/grafana.json: Prometheus understands them, and each metric and label in them exists."""

from __future__ import annotations

import json
import re
import subprocess
import unittest
from collections.abc import Iterator
from typing import Any

import yaml

from filestoraged.errors import ERROR_NAMES
from tests.daemon.process import ROOT
from tests.documents import prose
from tests.support import TempCase, find_program

ALERTS = ROOT / "docs" / "alerts.yml"
DASHBOARD = json.loads((ROOT / "docs" / "grafana.json").read_text(encoding="utf-8"))

# Prometheus gives these to each series, or to the buckets of a histogram.
_LABELS_OF_ALL = {"job", "instance", "le"}
_METRIC_OF_ALL = "up"

_SELECTOR = re.compile(r"\b(filestoraged_\w+?|up)(_bucket|_sum|_count)?\b(?:\{([^}]*)\})?(?=[\s)\[{]|$)")
_GROUPED = re.compile(r"\bby \(([^)]*)\)")

# Values that a dashboard inserts, and a window that it computes.
_VARIABLES = {"$__rate_interval": "5m", "$job": "filestoraged", "$instance": ".*"}


class AlertsTest(TempCase):
    def test_prometheus_understands_the_rules(self) -> None:
        self.assertIn("SUCCESS: 9 rules found", promtool("check", "rules", str(ALERTS)))

    def test_each_alert_is_raised_when_it_must_be_and_not_else(self) -> None:
        promtool("test", "rules", str(ROOT / "tests" / "alerts.yml"))

    def test_each_alert_has_a_unit_test(self) -> None:
        alerts = {rule["alert"] for rule in _rules()}
        tests = yaml.safe_load((ROOT / "tests" / "alerts.yml").read_text(encoding="utf-8"))["tests"]

        raised = {each["alertname"] for test in tests for each in test["alert_rule_test"] if "exp_alerts" in each}

        self.assertEqual(alerts, raised)

    def test_each_alert_has_a_severity_and_says_what_to_do(self) -> None:
        for rule in _rules():
            with self.subTest(rule["alert"]):
                self.assertIn(rule["labels"]["severity"], ("page", "ticket"))
                self.assertEqual({"summary", "description"}, set(rule["annotations"]))

    def test_kinds_of_errors_in_the_rules_exist(self) -> None:
        kinds = set(re.findall(r'kind="(\w+)"', ALERTS.read_text(encoding="utf-8")))

        self.assertLessEqual(kinds, set(ERROR_NAMES))
        self.assertTrue(kinds)


class DashboardTest(TempCase):
    def test_prometheus_understands_every_expression(self) -> None:
        expressions = [_inserted(target["expr"]) for panel in _panels() for target in panel.get("targets", ())]
        path = self.directory / "rules.yml"
        rules = [{"record": f"x{number}", "expr": each} for number, each in enumerate(expressions)]
        path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))

        self.assertIn(f"SUCCESS: {len(rules)} rules found", promtool("check", "rules", str(path)))

    def test_panels_have_ids_of_their_own_and_do_not_overlap(self) -> None:
        panels = _panels()
        cells = [cell for panel in panels for cell in _cells(panel["gridPos"])]

        self.assertEqual(len(panels), len({panel["id"] for panel in panels}))
        self.assertEqual(len(cells), len(set(cells)))
        self.assertLessEqual({x for x, _ in cells}, set(range(24)))

    def test_panels_use_the_variables_of_the_dashboard_and_no_others(self) -> None:
        variables = {each["name"] for each in DASHBOARD["templating"]["list"]} | {"__rate_interval", "__all"}

        used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD)))

        self.assertEqual(variables, used)

    def test_every_metric_but_one_of_the_state_of_a_worker_is_shown(self) -> None:
        shown = {name for name, _ in _used(_dashboard_expressions())}

        self.assertEqual({"filestoraged_s3_idle_connections"}, set(_labels_by_metric()) - shown)


class MetricsTest(unittest.TestCase):
    """`tests.test_docs` compares the table of docs/operations.md with what the daemon exposes."""

    def test_every_metric_and_label_in_rules_and_dashboard_exists(self) -> None:
        known = _labels_by_metric()
        expressions = [*(rule["expr"] for rule in _rules()), *_dashboard_expressions()]

        for name, labels in _used(expressions):
            with self.subTest(name):
                self.assertLessEqual(labels, known[name] | _LABELS_OF_ALL)
        self.assertGreater(len(expressions), 30)

    def test_metric_or_label_that_does_not_exist_is_noticed(self) -> None:
        used = dict(_used(['sum by (colour) (rate(filestoraged_cats_total{interface=~"x"}[5m])) > 0']))

        self.assertEqual({"filestoraged_cats_total": {"interface", "colour"}}, used)

    def test_labels_in_texts_of_alerts_exist(self) -> None:
        known = set().union(*_labels_by_metric().values()) | _LABELS_OF_ALL

        self.assertLessEqual(set(re.findall(r"\$labels\.(\w+)", ALERTS.read_text(encoding="utf-8"))), known)


def promtool(*arguments: str) -> str:
    done = subprocess.run([find_program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


def _rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = DASHBOARD["panels"]
    return panels


def _dashboard_expressions() -> list[str]:
    expressions = [target["expr"] for panel in _panels() for target in panel.get("targets", ())]
    variables = [each["definition"] for each in DASHBOARD["templating"]["list"] if "definition" in each]
    return expressions + [re.sub(r"label_values\((.*), (\w+)\)", r"sum by (\2) (\1)", each) for each in variables]


def _used(expressions: list[str]) -> Iterator[tuple[str, set[str]]]:
    """Yield each metric in expressions, with the labels that select or group it."""
    for expression in expressions:
        grouped = {each.strip() for found in _GROUPED.findall(expression) for each in found.split(",")}
        for name, _, selector in _SELECTOR.findall(_GROUPED.sub("", expression)):
            yield name, set(re.findall(r"(\w+)(?:=~|!~|!=|=)", selector)) | grouped


def _labels_by_metric() -> dict[str, set[str]]:
    rows = re.findall(r"^\| `(filestoraged_\w+)` \| \w+ \| (.*?) ?\| ", prose("docs/operations.md"), re.MULTILINE)
    listed = {name: set(filter(None, labels.split(", "))) for name, labels in rows}
    return {**listed, _METRIC_OF_ALL: set()}


def _inserted(expression: str) -> str:
    for name, value in _VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def _cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            yield x, y
