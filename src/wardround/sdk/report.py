"""Reports as one self-contained HTML page: curves drawn as SVG, each with its numbers as a table."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wardround.sdk import appraisal_page

__all__ = ["demo_page", "run_page"]

_COLOURS = ("#1b6ca8", "#c8553d", "#3c8d4f", "#8a5fb0", "#b58a00", "#4a4a4a")
_DASHES = ("", "6 3", "2 2", "8 3 2 3", "1 3", "10 4")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 260, 50, 34
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c1c1c;background:#fff}
table{border-collapse:collapse;margin:1rem 0}caption{text-align:left;font-weight:600;padding:.3rem 0}
th,td{border-bottom:1px solid #ccc;padding:.3rem .8rem;text-align:right}th:first-child,td:first-child{text-align:left}
svg{max-width:100%;height:auto}.note{color:#555}details{margin:.5rem 0}
"""

Event = Mapping[str, Any]


def run_page(title: str, events: Sequence[Event], found: Mapping[str, Any] | None = None) -> str:
    """A run: what it showed (see `wardround.sdk.evidence`), curves per site, what left each site, how it went."""
    parts = [
        *_evidence(found or {}),
        _curves(events),
        _bytes_table(events),
        _set_aside_table(events),
        _history(events),
    ]
    return _page(title, parts)


def demo_page(
    title: str,
    reference: str,
    events: Sequence[Event],
    comparison: Any,  # noqa: ANN401
    phases: Mapping[str, float],
) -> str:
    """The demo: the comparison first, then the run."""
    own = [
        [name, *(str(models[model]["accuracy"]) for model in ("own", "federated", "pooled"))]
        for name, models in comparison.on_own_patients.items()
    ]
    everyone = [
        [name, str(scores["accuracy"]), str(scores["auc"])] for name, scores in comparison.on_all_patients.items()
    ]
    times = [[name, f"{seconds:.1f} s"] for name, seconds in phases.items()]
    parts = [
        _table(
            "Accuracy on each hospital's held-out patients (95 % bootstrap interval)",
            ["hospital", "own model alone", "federated", "pooled (reference only)"],
            own,
        ),
        _table("The same models on the held-out patients of all hospitals", ["model", "accuracy", "AUC"], everyone),
        f'<p class="note">{html.escape(reference)}</p>' if reference else "",
        '<p class="note">The pooled model is for reference only: it needs all records in one place.</p>',
        _curves(events),
        _bytes_table(events),
        _table("How long each phase took", ["phase", "time"], times),
        _history(events),
    ]
    return _page(title, parts)


def _page(title: str, parts: Iterable[str]) -> str:
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    body = "\n".join(part for part in parts if part)
    page = f"<head>{head}</head><body><h1>{html.escape(title)}</h1>\n{body}\n</body>"
    return f'<!doctype html><html lang="en">{page}</html>\n'


def _evidence(found: Mapping[str, Any]) -> list[str]:
    if not found:
        return []
    sites = found["sites"]
    advice = "".join(f"<li>{html.escape(words)}</li>" for words in found["advice"])
    parts = [_privacy(found), f"<h2>Advice</h2><ul>{advice}</ul>" if advice else ""]
    parts.append(_comparison(found.get("comparison") or []))
    if "appraisal" in found:
        parts += appraisal_page.sections(found["appraisal"], {name: site["metrics"] for name, site in sites.items()})
    parts += [_personal(sites), _divergence(sites)]
    parts += [_analysis(place, one) for place, one in enumerate(found.get("analyses", []), 1)]
    return [*parts, *(_summary(one) for one in found.get("summaries", []))]


def _privacy(found: Mapping[str, Any]) -> str:
    """What a private run cost each site, and the assumptions under which that is so."""
    if (spent := found.get("privacy")) is None:
        return '<p class="note">Nothing in this run had noise: it was not differentially private.</p>'
    tight = "" if spent["tight_epsilon"] is None else f"; by privacy loss distributions {spent['tight_epsilon']:.3g}"
    words = (
        f"Each site spent at most epsilon {spent['epsilon']:.3g} at delta {spent['delta']:g} (Rényi{tight}), of the "
        f"{spent['planned_epsilon']:.3g} that the plan allows. "
        f"Neighbours: {spent['relation']}. Noise: {spent['noise']}."
    )
    rows = [
        [one["kind"], one["rounds"], one["type"], str(one.get("noise_multiplier", one.get("scale"))), one["sampling"]]
        for one in spent["mechanisms"]
    ]
    table = _table("What was spent on what", ["rounds of", "how many", "mechanism", "noise", "sampling"], rows)
    return f"<h2>Privacy</h2><p>{html.escape(words)}</p>{table}"


def _comparison(rows: Sequence[Mapping[str, Any]]) -> str:
    """Models beside one another on each site's held-out records: from simulations, which have all records."""
    if not rows:
        return ""
    names = [name for name in rows[0] if name not in {"site", "metric"}]
    body = [[row["site"], row["metric"], *(_number(row[name]) for name in names)] for row in rows]
    return _table("Models on each site's held-out records", ["site", "metric", *names], body)


def _personal(sites: Mapping[str, Any]) -> str:
    rows = [
        [name, metric, _number(site["metrics"][metric]["value"]), _number(own)]
        for name, site in sorted(sites.items())
        for metric, own in sorted(site["personal"].items())
        if metric in site["metrics"]
    ]
    return (
        _table("The site's own model beside the global one", ["site", "metric", "global", "own"], rows) if rows else ""
    )


def _divergence(sites: Mapping[str, Any]) -> str:
    series = {
        name: [(one["round"], one["cosine"]) for one in site["divergence"] if one["cosine"] is not None]
        for name, site in sites.items()
    }
    known = {name: points for name, points in series.items() if points}
    return _chart("cosine between each site's update and what became of all", known) if known else ""


def _analysis(place: int, one: Mapping[str, Any]) -> str:
    """An analysis as a table or a curve; what failed says so and shows no numbers."""
    records = "" if one.get("records") is None else f" {one['records']:,} records"
    events = "" if one.get("events") is None else f", {one['events']:,} events"
    kind = " ".join(str(one[key]) for key in ("family", "kind", "outcome") if one.get(key))
    head = f"Analysis {place}, {kind}: {one.get('detail') or one['status']}{records}{events}"
    match one["kind"]:
        case "glm" | "cox" if one["status"] == "converged":
            return _terms(head, one)
        case "quantiles":
            marks = [[each["name"], *map(_quantile, each["quantiles"])] for each in one["columns"]]
            return _table(
                head, ["column", *(f"{mark['probability']:g}" for mark in one["columns"][0]["quantiles"])], marks
            )
        case "boosted-trees":
            gains = [[each["column"], _number(each["share"]), str(each["splits"])] for each in one["importances"]]
            return _table(f"{head}, {len(one['trees'])} trees", ["column", "share of the gain", "splits"], gains)
        case "kaplan-meier" if any(curve["points"] for curve in one["curves"]):
            return _survival(head, one)
        case _:
            return _note(head)


def _terms(head: str, one: Mapping[str, Any]) -> str:
    ratio = str(one.get("ratio") or "")
    headings = [
        "term",
        "coefficient",
        "standard error",
        "95 % interval",
        "p",
        *([ratio, "95 % interval"] if ratio else []),
    ]
    rows = []
    for term in one["terms"]:
        row = [
            term["name"],
            _number(term["coefficient"], 6),
            _number(term["standard_error"], 6),
            f"{_number(term['lower'])} to {_number(term['upper'])}",
            _chance(term["p"]),
        ]
        if ratio:
            row += [_number(term["ratio"]), f"{_number(term['ratio_lower'])} to {_number(term['ratio_upper'])}"]
        rows.append(row)
    return _table(head, headings, rows)


def _survival(head: str, one: Mapping[str, Any]) -> str:
    """Steps from 1 at time 0, with numbers at risk, intervals, medians and the log-rank test as tables."""
    curves = [curve for curve in one["curves"] if curve["points"]]
    last = max(curve["until"] for curve in curves) or 1.0
    lines = []
    for index, curve in enumerate(curves):
        x, path = float(_LEFT), f"M{_LEFT} 10"
        for point in curve["points"]:
            x = _LEFT + point["time"] / last * (_WIDTH - _LEFT - 10)
            path += f"H{x:.1f}V{10 + (1 - point['survival']) * (_HEIGHT - _BOTTOM - 10):.1f}"
        path += f"H{_LEFT + curve['until'] / last * (_WIDTH - _LEFT - 10):.1f}"
        stroke = f'stroke="{_COLOURS[index % len(_COLOURS)]}" stroke-dasharray="{_DASHES[index % len(_DASHES)]}"'
        lines.append(f'<path d="{path}" fill="none" stroke-width="2" {stroke}/>')
        y = _HEIGHT + 14 + 18 * index
        lines.append(f'<line x1="{_LEFT}" x2="{_LEFT + 40}" y1="{y}" y2="{y}" stroke-width="2" {stroke}/>')
        lines.append(f'<text x="{_LEFT + 48}" y="{y + 4}" font-size="13">{html.escape(curve["name"])}</text>')
    axis = (
        f'<text x="4" y="18" font-size="12">1</text><text x="4" y="{_HEIGHT - _BOTTOM}" font-size="12">0</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 14}" font-size="12">time 0</text>'
        f'<text x="{_WIDTH - 70}" y="{_HEIGHT - 14}" font-size="12">{last:g}</text>'
        f'<path d="M{_LEFT} 10V{_HEIGHT - _BOTTOM}H{_WIDTH - 10}" fill="none" stroke="#888"/>'
    )
    height = _HEIGHT + 14 + 18 * len(curves)
    picture = (
        f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img" aria-label="survival">'
        f"{axis}{''.join(lines)}</svg>"
    )
    rows = [
        [
            curve["name"],
            f"{point['time']:g}",
            str(point["at_risk"]),
            str(point["events"]),
            _number(point["survival"]),
            f"{_number(point['lower'])} to {_number(point['upper'])}",
        ]
        for curve in curves
        for point in curve["points"]
    ]
    numbers = _table("", ["group", "time", "at risk", "events", "survival", "95 % interval"], rows)
    sums = [
        [
            curve["name"],
            str(curve["records"]),
            _reached(curve["median"]),
            f"{_reached(curve['median_lower'])} to {_reached(curve['median_upper'])}",
            f"{_number(curve['restricted_mean'], 1)} up to {curve['restricted_mean_until']:g}",
        ]
        for curve in curves
    ]
    test = one["log_rank_test"]
    words = "" if test["statistic"] is None else f"Log-rank test: {test['statistic']:.2f}, p = {_chance(test['p'])}."
    totals = _table("", ["group", "records", "median", "95 % interval", "restricted mean"], sums)
    note = _note(f"{words} Times are those of the plan's grid: an event is dated by the end of its interval.".strip())
    return f"<h2>{html.escape(head)}</h2>{picture}{totals}{note}<details><summary>numbers</summary>{numbers}</details>"


def _summary(one: Mapping[str, Any]) -> str:
    """A count, moment or histogram; what is hidden is of too few records."""
    shown = {key: value for key, value in one.items() if key not in {"kind", "column"}}
    rows = [[key, json.dumps(value)] for key, value in shown.items()]
    return _table(f"{one['kind']} {one.get('column', '')}".strip(), ["what", "value"], rows)


def _quantile(mark: Mapping[str, Any]) -> str:
    return "undefined" if mark["value"] is None else f"{mark['value']:.4g} ± {mark['resolution']:.2g}"


def _chance(value: float | None) -> str:
    return "undefined" if value is None else "<0.0001" if value < 1e-4 else f"{value:.4f}"


def _reached(value: float | None) -> str:
    return "not reached" if value is None else f"{value:g}"


def _note(words: str) -> str:
    return f'<p class="note">{html.escape(words)}</p>'


def _number(value: Any, digits: int = 3) -> str:  # noqa: ANN401
    return "undefined" if value is None else f"{value:.{digits}f}"


def _curves(events: Sequence[Event]) -> str:
    metrics: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for event in [*_of(events, "update-accepted"), *_pooled(events)]:
        for name, value in ((event.get("evaluation") or {}).get("metrics") or {}).items():
            if value is not None:
                metrics.setdefault(name, {}).setdefault(event["site"], []).append((event["number"], float(value)))
    shown = [name for name in ("auc", "accuracy", "c_index", "brier", "rmse") if name in metrics]
    return "\n".join(_chart(f"{name}, on each site's held-out records", metrics[name]) for name in shown)


def _pooled(events: Sequence[Event]) -> list[Event]:
    """Evaluations of all sites together, where those of one are not known."""
    return [{**event, "site": "all sites"} for event in _of(events, "round-combined") if event.get("evaluation")]


def _chart(title: str, series: Mapping[str, Sequence[tuple[float, float]]], unit: str = "round") -> str:
    values = [value for points in series.values() for _, value in points]
    rounds = [number for points in series.values() for number, _ in points]
    low, high = min(values), max(values)
    low, high = (low - 0.05, high + 0.05) if high - low < 1e-6 else (low, high)
    first, last = min(rounds), max(*rounds, min(rounds) + 1)

    def place(number: float, value: float) -> str:
        x = _LEFT + (number - first) / (last - first) * (_WIDTH - _LEFT - 10)
        y = 10 + (high - value) / (high - low) * (_HEIGHT - _BOTTOM - 10)
        return f"{x:.1f},{y:.1f}"

    lines, legend = [], []
    for index, (site, points) in enumerate(sorted(series.items())):
        colour, dash = _COLOURS[index % len(_COLOURS)], _DASHES[index % len(_DASHES)]
        path = " ".join(place(*point) for point in points)
        lines.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}" points="{path}"/>'
        )
        y = _HEIGHT + 14 + 18 * index
        stroke = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
        legend.append(f'<line x1="{_LEFT}" x2="{_LEFT + 40}" y1="{y}" y2="{y}" {stroke}/>')
        words = f"{html.escape(site)}: {points[-1][1]:.3f} at the end"
        legend.append(f'<text x="{_LEFT + 48}" y="{y + 4}" font-size="13">{words}</text>')
    axis = (
        f'<text x="4" y="18" font-size="12">{high:.3f}</text>'
        f'<text x="4" y="{_HEIGHT - _BOTTOM}" font-size="12">{low:.3f}</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 14}" font-size="12">{unit} {first:g}</text>'
        f'<text x="{_WIDTH - 70}" y="{_HEIGHT - 14}" font-size="12">{unit} {last:g}</text>'
        f'<path d="M{_LEFT} 10V{_HEIGHT - _BOTTOM}H{_WIDTH - 10}" fill="none" stroke="#888"/>'
    )
    height = _HEIGHT + 14 + 18 * len(series)
    picture = (
        f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img" aria-label="{html.escape(title)}">'
        f"{axis}{''.join(lines)}{''.join(legend)}</svg>"
    )
    rows = [[site, *(f"{value:.4f}" for _, value in points)] for site, points in sorted(series.items())]
    numbers = _table("", ["site", *(str(number) for number in sorted(set(rounds)))], rows)
    return f"<h2>{html.escape(title)}</h2>{picture}<details><summary>numbers</summary>{numbers}</details>"


def _bytes_table(events: Sequence[Event]) -> str:
    left: dict[str, dict[str, int]] = {}
    kinds = {event["number"]: event["kind"] for event in _of(events, "round-opened")}
    for event in _of(events, "update-accepted"):
        row = left.setdefault(event["site"], {"statistics": 0, "train": 0, "masked": 0, "answers": 0})
        row["answers"] += 1
        if event.get("update"):
            row[kinds.get(event["number"], "train")] += event["update"]["size"]
    sizes = {(event["number"], event["cohort"]): _upload(event) for event in _of(events, "cohort-formed")}
    for event in _of(events, "cohort-opened"):
        for site in event["survivors"]:
            left[site]["masked"] += sizes[event["number"], event["cohort"]]
    rows = [
        [site, *(f"{row[name]:,}" for name in ("statistics", "train", "masked", "answers")), "0"]
        for site, row in sorted(left.items())
    ]
    headings = ["site", "column sums, bytes", "model updates, bytes", "masked vectors, bytes", "answers", "records"]
    return _table("What left each site", headings, rows)


def _set_aside_table(events: Sequence[Event]) -> str:
    """Updates that are in no aggregate although they came, by site; nothing where there are none."""
    rows = [[event["site"], str(event["number"]), event["reason"]] for event in _of(events, "update-set-aside")]
    return _table("Updates that were set aside", ["site", "round", "reason"], rows) if rows else ""


def _upload(formed: Event) -> int:
    """Bytes of a masked vector in this cohort."""
    return sum(section["length"] * section["bits"] // 8 for section in formed["terms"]["sections"])


def _history(events: Sequence[Event]) -> str:
    notable = [event for event in events if event["event"] not in {"update-accepted", "round-opened", "round-closed"}]
    start = float(events[0]["at"]) if events else 0.0
    rows = [[f"{float(event['at']) - start:.2f} s", event["event"], _words(event)] for event in notable]
    return f"<details><summary>history</summary>{_table('', ['after', 'what', 'details'], rows)}</details>"


def _words(event: Event) -> str:
    parts = [f"{name} {event[name]}" for name in ("number", "site", "reason") if event.get(name) not in (None, "")]
    if isinstance(event.get("model"), Mapping):
        parts.append(f"model {event['model']['digest'][:16]}…")
    return ", ".join(parts)


def _table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{html.escape(heading)}</th>' for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _of(events: Iterable[Event], kind: str) -> Iterable[Event]:
    return (event for event in events if event["event"] == kind)
