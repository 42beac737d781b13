"""Figures as a table, as JSON, and as a bar chart."""

from __future__ import annotations

import json
from xml.sax.saxutils import escape

from tests.bench.figures import OURS, Figure, median

_VERDICTS = {True: "holds", False: "falls short", None: "not measured"}

_WIDTH, _LABELS, _BAR = 760, 190, 18
_COLORS = {OURS: "#2f6f9f"}
_OTHERS = "#b8bec6"


def table(figures: list[Figure]) -> str:
    lines: list[str] = []
    for figure in figures:
        lines.append(f"{figure.name}{': ' + figure.note if figure.note else ''}")
        for name, samples in figure.samples.items():
            spread = f"{_short(min(samples))} to {_short(max(samples))}"
            lines.append(f"    {name:<32} {_short(median(samples)):>10} {figure.unit:<12} ({spread})")
        for goal in figure.goals:
            value = "-" if goal.value is None else f"{goal.value:.2f}"
            bound = "at most" if goal.at_most else "at least"
            lines.append(f"  {goal.text}: {value}, {bound} {goal.limit:g}: {_VERDICTS[goal.holds]}")
    return "\n".join(lines)


def as_json(figures: list[Figure], about: dict[str, str]) -> str:
    listed = [
        {
            "name": figure.name,
            "unit": figure.unit,
            "note": figure.note,
            "samples": figure.samples,
            "goals": [{**goal._asdict(), "holds": goal.holds} for goal in figure.goals],
        }
        for figure in figures
    ]
    return json.dumps({**about, "figures": listed}, indent=2)


def plot(figures: list[Figure], about: str) -> str:
    """Return an SVG. The lengths of a figure's bars are proportional to its medians."""
    drawn: list[str] = []
    top = 34
    for figure in figures:
        if not figure.plotted:
            continue
        drawn.append(_text(8, top + 14, f"{figure.name}, {figure.unit}", "bold"))
        top += 22
        longest = max(median(samples) for samples in figure.samples.values())
        for name, samples in figure.samples.items():
            length = max(1.0, median(samples) / longest * (_WIDTH - _LABELS - 90))
            drawn.append(_text(20, top + 13, name))
            color = _COLORS.get(name.partition(",")[0], _OTHERS)
            drawn.append(f'<rect x="{_LABELS}" y="{top}" width="{length:.1f}" height="{_BAR - 4}" fill="{color}"/>')
            drawn.append(_text(_LABELS + length + 6, top + 12, _short(median(samples))))
            top += _BAR
        top += 10
    style = "font-family:sans-serif;font-size:12px"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}" style="{style}">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', _text(8, 20, about), *drawn, "</svg>\n"])


def _text(x: float, y: float, text: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-weight="{weight}">{escape(text)}</text>'


def _short(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
