"""Reports of bin/bench."""

from __future__ import annotations

import json
import unittest
from xml.dom import minidom

from tests.bench.figures import OURS, Figure, Goal, ratio
from tests.bench.report import as_json, plot, table

SAMPLES = {OURS: [50.0, 60.0, 40.0], "nginx": [100.0, 100.0, 200.0]}


def figure(*goals: Goal) -> Figure:
    return Figure("GET <1 KiB>", "requests/s", SAMPLES, list(goals), plotted=True)


class ReportTest(unittest.TestCase):
    def test_ratio_is_the_median_of_the_ratios_of_each_round(self) -> None:
        self.assertEqual(0.5, ratio(SAMPLES, OURS, "nginx"))
        self.assertIsNone(ratio(SAMPLES, OURS, "copyparty"))

    def test_goal_holds_falls_short_or_is_not_measured(self) -> None:
        goals = [
            Goal("of nginx", 0.5, 0.5),
            Goal("of nginx", 0.49, 0.5),
            Goal("ms", 5.1, 5.0, at_most=True),
            Goal("ms", 5.0, 5.0, at_most=True),
            Goal("of copyparty", None, 1.0),
        ]

        self.assertEqual([True, False, False, True, None], [goal.holds for goal in goals])
        verdicts = [line.rpartition(": ")[2] for line in table([figure(*goals)]).splitlines()[3:]]
        self.assertEqual(["holds", "falls short", "falls short", "holds", "not measured"], verdicts)

    def test_table_has_medians_and_their_spread(self) -> None:
        lines = table([figure()]).splitlines()

        self.assertRegex(lines[1], r"filestoraged +50 requests/s +\(40 to 60\)")

    def test_json_has_all_samples(self) -> None:
        told = json.loads(as_json([figure(Goal("of nginx", 0.5, 0.5))], {"date": "2026-11-21"}))

        self.assertEqual(SAMPLES, told["figures"][0]["samples"])
        self.assertEqual((True, "2026-11-21"), (told["figures"][0]["goals"][0]["holds"], told["date"]))

    def test_plot_has_bars_proportional_to_the_medians(self) -> None:
        document = minidom.parseString(plot([figure()], "today & here"))

        bars = [each for each in document.getElementsByTagName("rect") if each.getAttribute("x")]
        widths = [float(bar.getAttribute("width")) for bar in bars]
        self.assertEqual(2, len(widths))
        self.assertAlmostEqual(0.5, widths[0] / widths[1], places=2)
