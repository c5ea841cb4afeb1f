"""What an appraisal found, as pieces of HTML: figures as SVG, each with its numbers in a table that unfolds.

Every name is escaped, nothing is loaded from elsewhere, and lines differ by dash as well as by colour, so that a page
reads the same on paper. What the least count hides is said to be hidden, and is not drawn.

References:
    Van Calster et al. A calibration hierarchy for risk models was defined. J Clin Epidemiol, 2016.
    Vickers, van Calster, Steyerberg. A simple, step-by-step guide to interpreting decision curve analysis. 2019.
    Lewis, Clarke. Forest plots: trying to see the wood and the trees. BMJ, 2001.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["sections"]

_BLUE, _RED, _GREEN, _GREY = "#1b6ca8", "#c8553d", "#3c8d4f", "#666"
_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 640, 60, 16, 12, 24
_HIDDEN = "not shown: too few records"
_NAMES = {"auc": "AUC", "c_index": "C-index", "mae": "MAE", "r2": "R²", "rmse": "RMSE"}

Results = Mapping[str, Any]
Estimate = Mapping[str, float | None]
_Point = tuple[float, float]


def sections(results: Results, per_site: Mapping[str, Mapping[str, Estimate]]) -> list[str]:
    """One piece of HTML for each thing to see, in the order in which a clinician asks for them.

    Args:
        results: What `wardround.clinical.appraisal.results` gave, or the same read from JSON.
        per_site: For each site its metrics by name, with `value`, `low` and `high`; may be empty.
    """
    parts = [_summary(results)]
    if "calibration" in results:
        parts += [_calibration(results), _decision(results), _roc(results)]
    parts += [_forest(name, pooled, per_site) for name, pooled in results["metrics"].items()]
    parts += [_classes(results), _subgroups(results)]
    return [part for part in parts if part]


@dataclass(frozen=True, slots=True)
class _Axes:
    """A plane of data in a plane of pixels; y points up."""

    low: _Point
    high: _Point
    top: int = _TOP
    bottom: int = 300
    left: int = _LEFT

    def x(self, value: float) -> float:
        """Pixels from the left."""
        share = (value - self.low[0]) / (self.high[0] - self.low[0])
        return self.left + share * (_WIDTH - _RIGHT - self.left)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        return self.bottom - (value - self.low[1]) / (self.high[1] - self.low[1]) * (self.bottom - self.top)

    def line(self, points: Iterable[_Point], colour: str, dash: str = "") -> str:
        """A line through the points."""
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        return f'<polyline fill="none" points="{path}" {_stroke(colour, dash)}/>'

    def frame(self, across: str, up: str) -> str:
        """Both axes with five ticks and their names."""
        middle = (self.top + self.bottom) / 2
        parts = [
            f'<path d="M{self.left} {self.top}V{self.bottom}H{_WIDTH - _RIGHT}" fill="none" stroke="#888"/>',
            _text((self.left + _WIDTH) / 2, self.bottom + 34, across, "middle"),
            f'<g transform="rotate(-90 14 {middle})">{_text(14, middle, up, "middle")}</g>',
        ]
        for step in range(5):
            x, y = (low + step / 4 * (high - low) for low, high in zip(self.low, self.high, strict=True))
            parts.append(_text(self.x(x), self.bottom + 16, _short(x), "middle"))
            parts.append(_text(self.left - 6, self.y(y) + 4, _short(y), "end"))
        return "".join(parts)


def _summary(results: Results) -> str:
    rows = [[_words(name), *_cells(one)] for name, one in results["metrics"].items()]
    notes = [f"Held-out records of all sites: {_count(results['records'])}."]
    if results.get("observed") is not None:
        notes.append(
            f"Observed share of positives {_short(results['observed'])}, predicted {_short(results['predicted'])}."
        )
    if "events" in results:
        notes.append(f"Events: {_count(results['events'])}. Pairs are compared within each site only.")
    resolution = results["metrics"].get("auc", {}).get("resolution")
    if resolution is not None:
        notes.append(f"The AUC comes from a histogram of scores and is off by at most {resolution:.4f}.")
    return (
        "<h2>How good the predictions are</h2>"
        + _table(["metric", "value", "95 % interval"], rows)
        + _note(" ".join(notes))
    )


def _calibration(results: Results) -> str:
    bins: Sequence[Mapping[str, Any] | None] = results["calibration"]
    shown = [one for one in bins if one]
    edges = [f"{place / len(bins):.2f} to {(place + 1) / len(bins):.2f}" for place in range(len(bins))]
    rows = [
        [edge, _count(one["n"]), _short(one["predicted"]), _short(one["observed"]), _between(one)]
        if one
        else [edge, "hidden", "", "", ""]
        for edge, one in zip(edges, bins, strict=True)
    ]
    table = _table(["predicted risk", "records", "mean predicted", "observed", "95 % interval"], rows)
    axes = _Axes((0.0, 0.0), (1.0, 1.0))
    below = _Axes((0.0, 0.0), (1.0, max((one["n"] for one in shown), default=1)), top=350, bottom=410)
    parts = [axes.frame("predicted risk", "observed share"), axes.line([(0, 0), (1, 1)], _GREY, "6 3")]
    for cell in shown:
        x = cell["predicted"]
        parts.append(axes.line([(x, cell["low"]), (x, cell["high"])], _BLUE))
        parts.append(f'<circle cx="{axes.x(x):.1f}" cy="{axes.y(cell["observed"]):.1f}" r="4" fill="{_BLUE}"/>')
    parts.append(axes.line([(one["predicted"], one["observed"]) for one in shown], _BLUE, "2 3"))
    for place, one in enumerate(bins):
        if one:
            x, top = below.x(place / len(bins)), below.y(one["n"])
            wide = below.x((place + 1) / len(bins)) - x
            parts.append(
                f'<rect x="{x + 1:.1f}" y="{top:.1f}" width="{wide - 2:.1f}" height="{below.bottom - top:.1f}"'
                f' fill="#b9d3e6" stroke="{_BLUE}"/>'
            )
    parts.append(f'<path d="M{_LEFT} 410H{_WIDTH - _RIGHT}" stroke="#888"/>{_text(_LEFT, 428, "records in each bin")}')
    note = "On the dashed line the predicted risk is the observed share; above it risks are too low, below it too high."
    return _figure("Calibration", 436, parts if shown else [], note, table)


def _decision(results: Results) -> str:
    points: Sequence[Mapping[str, Any]] = results["decision"]
    headings = ["threshold", "model", "treat all", "treat none"]
    rows = [[_short(one["threshold"]), *(_benefit(one[name]) for name in ("model", "all", "none"))] for one in points]
    drawn = {
        name: [(one["threshold"], one[name]) for one in points if one[name] is not None]
        for name in ("model", "all", "none")
    }
    parts: list[str] = []
    if drawn["model"]:
        # Treating all falls without end as the threshold rises: what lies far below zero is cut off.
        highest = max(y for line in drawn.values() for _, y in line)
        lowest = min([-0.25 * highest, *(y for _, y in drawn["model"])]) if highest > 0 else -0.05
        xs = [one["threshold"] for one in points]
        wide = max(xs) if max(xs) > min(xs) else min(xs) + 0.05
        axes = _Axes((min(xs), lowest), (wide, highest if highest > lowest else lowest + 0.05))
        lines = {"model": (_BLUE, ""), "all": (_RED, "6 3"), "none": (_GREY, "2 2")}
        parts = [axes.frame("threshold probability", "net benefit")]
        parts += [axes.line(_above(drawn[name], lowest), *style) for name, style in lines.items()]
        parts += _legend(350, [("model", _BLUE, ""), ("treat all", _RED, "6 3"), ("treat none", _GREY, "2 2")])
    note = "Net benefit: true positives, less false ones weighed by the odds of the threshold, for each record."
    return _figure("Decision curve", 410, parts, note, _table(headings, rows))


def _roc(results: Results) -> str:
    points = [(float(x), float(y)) for x, y in results["roc"]]
    rows = [[_short(x), _short(y)] for x, y in points]
    axes = _Axes((0.0, 0.0), (1.0, 1.0))
    parts = [axes.frame("false positive rate", "true positive rate"), axes.line([(0, 0), (1, 1)], _GREY, "6 3")]
    parts.append(axes.line(points, _BLUE))
    note = "The points are as far apart as the least count asks for; the AUC is taken from finer steps."
    table = _table(["false positive rate", "true positive rate"], rows)
    return _figure("ROC curve", 345, parts if points else [], note, table)


def _forest(name: str, pooled: Estimate, per_site: Mapping[str, Mapping[str, Estimate]]) -> str:
    lines = [(site, found[name]) for site, found in sorted(per_site.items()) if name in found]
    if not lines:
        return ""
    every = [*lines, ("all sites", pooled)]
    numbers = [number for _, one in every for key in ("value", "low", "high") if (number := one[key]) is not None]
    title = f"{_words(name)}, site by site"
    table = _table(["site", "value", "95 % interval"], [[site, *_cells(one)] for site, one in every])
    if not numbers:
        return _figure(title, 0, [], "", table)
    low, high = min(numbers), max(numbers)
    margin = (high - low) * 0.05 or max(abs(low) * 0.05, 0.01)
    bottom = _TOP + _ROW * len(every) + 8
    axes = _Axes((low - margin, 0.0), (high + margin, 1.0), bottom=bottom, left=200)
    parts = [f'<path d="M200 {bottom}H{_WIDTH - _RIGHT}" stroke="#888"/>']
    for step in range(5):
        x = axes.low[0] + step / 4 * (axes.high[0] - axes.low[0])
        parts.append(_text(axes.x(x), bottom + 16, _short(x), "middle"))
    if (middle := pooled["value"]) is not None:
        parts.append(axes.line([(middle, 0), (middle, 1)], _GREY, "2 2"))
    for place, (site, one) in enumerate(every):
        y = _TOP + _ROW * place + _ROW / 2
        words = site if len(site) <= 24 else f"{site[:23]}…"
        parts.append(_text(4, y + 4, words))
        parts.append(_whisker(axes, y, one, pooled=place == len(lines)))
    return _figure(title, bottom + 26, parts, "Dotted: all sites together, the diamond at the bottom.", table)


def _whisker(axes: _Axes, y: float, one: Estimate, *, pooled: bool) -> str:
    value, low, high = one["value"], one["low"], one["high"]
    if value is None:
        return _text(axes.left, y + 4, _HIDDEN)
    x, parts = axes.x(value), []
    if low is not None and high is not None:
        left, right = axes.x(low), axes.x(high)
        if pooled:
            return f'<path d="M{left:.1f} {y}L{x:.1f} {y - 7}L{right:.1f} {y}L{x:.1f} {y + 7}Z" fill="{_RED}"/>'
        parts.append(f'<path d="M{left:.1f} {y}H{right:.1f}" {_stroke(_BLUE)}/>')
    colour = _RED if pooled else _BLUE
    parts.append(f'<rect x="{x - 4:.1f}" y="{y - 4}" width="8" height="8" fill="{colour}"/>')
    return "".join(parts)


def _classes(results: Results) -> str:
    rows = [
        [name, _count(one["records"]), *_cells(one["accuracy"])] if one else [name, "hidden", "", ""]
        for name, one in results.get("classes", {}).items()
    ]
    table = _table(["class", "records", "share recognized", "95 % interval"], rows)
    return f"<h2>Classes</h2>{table}" if rows else ""


def _subgroups(results: Results) -> str:
    names, rates = list(results["metrics"]), ["observed", "predicted"] if "observed" in results else []
    rows: list[list[str]] = []
    for name, halves in results["subgroups"].items():
        if halves is None:
            rows.append([name, "hidden", *([""] * (len(rates) + len(names)))])
            continue
        for side in ("with", "without"):
            half = halves[side]
            own = [_short(half[rate]) for rate in rates]
            own += [
                f"{_short(half['metrics'][metric]['value'])} ({_between(half['metrics'][metric])})" for metric in names
            ]
            rows.append([f"{side} {name}", _count(half["records"]), *own])
    if not rows:
        return ""
    table = _table(["subgroup", "records", *rates, *(_words(name) for name in names)], rows)
    note = "In brackets the 95 % interval. A subgroup is hidden where it, or the records outside it, are too few."
    return f"<h2>Subgroups</h2>{table}{_note(note)}"


def _figure(title: str, height: int, parts: Sequence[str], note: str, table: str) -> str:
    if not parts:
        return f"<h2>{_safe(title)}</h2>{_note(_HIDDEN)}"
    picture = (
        f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img" aria-label="{_safe(title)}">'
        f"{''.join(parts)}</svg>"
    )
    unfolded = f"<details><summary>numbers</summary>{table}</details>"
    return f"<h2>{_safe(title)}</h2>{picture}{_note(note)}{unfolded}"


def _legend(top: int, entries: Iterable[tuple[str, str, str]]) -> list[str]:
    return [
        f'<path d="M{_LEFT} {top + 18 * place}h40" {_stroke(colour, dash)}/>'
        + _text(_LEFT + 48, top + 18 * place + 4, words)
        for place, (words, colour, dash) in enumerate(entries)
    ]


def _above(points: Sequence[_Point], lowest: float) -> list[_Point]:
    # The line up to where it leaves the picture at the bottom.
    found: list[_Point] = []
    for (x, y), (after, then) in zip(points, [*points[1:], points[-1]], strict=True):
        if y < lowest:
            break
        found.append((x, y))
        if then < lowest:
            found.append((x + (after - x) * (y - lowest) / (y - then), lowest))
    return found


def _stroke(colour: str, dash: str = "") -> str:
    return f'stroke="{colour}" stroke-width="2"' + (f' stroke-dasharray="{dash}"' if dash else "")


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" text-anchor="{anchor}">{_safe(words)}</text>'


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{_safe(heading)}</th>' for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{_safe(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _note(words: str) -> str:
    return f'<p class="note">{_safe(words)}</p>' if words else ""


def _cells(one: Estimate) -> list[str]:
    return [_short(one["value"]), _between(one)]


def _between(one: Mapping[str, Any]) -> str:
    return "–" if one["low"] is None or one["high"] is None else f"{_short(one['low'])} to {_short(one['high'])}"


def _short(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"


def _benefit(value: float | None) -> str:
    return "hidden" if value is None else f"{value:.4f}"


def _count(value: int | None) -> str:
    return "hidden" if value is None else f"{value:,}"


def _words(metric: str) -> str:
    return _NAMES.get(metric, metric.replace("_", " "))


def _safe(words: str) -> str:
    return html.escape(str(words))
