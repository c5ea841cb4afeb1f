"""A utility curve as a self-contained HTML page, for the committee that chooses an epsilon: a picture, and its numbers.

Nothing is loaded from elsewhere, every name is escaped, and lines differ by dash as well as by colour.
"""

import html
import math
from collections.abc import Iterable, Sequence

from wardround.privacy import calibration
from wardround.protocol.plan import Plan
from wardround.sdk.utility import Point, measure

__all__ = ["assumed", "curve_page"]

_BLUE, _RED, _GREY = "#1b6ca8", "#c8553d", "#555"
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 380, 64, 20, 30, 300
_NAMES = {"accuracy": "accuracy", "r2": "R²", "c_index": "C-index"}
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c1c1c;background:#fff}
table{border-collapse:collapse;margin:1rem 0}caption{text-align:left;font-weight:600;padding:.3rem 0}
th,td{border-bottom:1px solid #ccc;padding:.3rem .8rem;text-align:right}th:first-child,td:first-child{text-align:left}
svg{max-width:100%;height:auto}.note{color:#555}
"""


def curve_page(plan: Plan, points: Sequence[Point], guarantee: Sequence[str], *, records: int, repeats: int) -> str:
    """The page.

    Args:
        plan: That was tried.
        points: What `wardround.sdk.utility.utility_curve` gave.
        guarantee: What `wardround.sdk.planning.privacy_words` says.
        records: At each site, as it was called with.
        repeats: The same.

    Raises:
        ValueError: There is no point with scores.
    """
    title = html.escape(f"{plan.title}: utility against privacy")
    parts = [
        '<p class="note">A made-up task of this shape, not your data: it shows where noise begins to hurt.</p>',
        _picture(plan, points),
        _table(plan, points),
        _list("What this rests on", assumed(plan, records, repeats)),
        _list("The plan's guarantee", guarantee),
    ]
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    body = "\n".join(parts)
    return f'<!doctype html><html lang="en"><head>{head}</head><body><h1>{title}</h1>\n{body}\n</body></html>\n'


def assumed(plan: Plan, records: int, repeats: int) -> list[str]:
    """What whoever reads a curve must know of how it was made."""
    privacy, sites = plan.privacy, len(plan.participants)
    held = "" if not plan.data.holdout else f", of which {plan.data.holdout:.0%} are held out"
    words = [
        f"{sites} sites with {records:,} made-up records each{held}; more patients make the same noise matter less.",
        "Features and labels come from the data contract alone: a random teacher of a few columns, nothing missing.",
        "All sites are alike. Real records are harder, and differ between sites.",
        f"Each point is the mean of {repeats} made-up tasks, scored on fresh records without noise.",
        "The band goes from the least to the largest.",
        "For each epsilon only the noise of training differs from the plan: other learning rates may do better.",
        "Without privacy: the same rounds and steps, without clipping and noise.",
    ]
    return [
        *words,
        *([f"Epsilons are by Rényi costs of the whole plan at delta {privacy.delta:g}."] if privacy else []),
    ]


def _picture(plan: Plan, points: Sequence[Point]) -> str:
    drawn = [(one.epsilon, one) for one in points if one.epsilon is not None and one.scores]
    without = next((one for one in points if one.epsilon is None), None)
    scores = [max(score, 0.0) for one in points for score in one.scores]  # R² may lie far below
    if not drawn or not scores:
        raise ValueError("there is nothing to draw: no epsilon could be reached")
    low, high = math.floor(min(scores) * 20 - 0.5) / 20, min(1.0, math.ceil(max(scores) * 20 + 0.5) / 20)
    first, last = math.log(drawn[0][0]) - 0.2, math.log(drawn[-1][0]) + 0.2

    def x(epsilon: float) -> float:
        return _LEFT + (math.log(epsilon) - first) / (last - first) * (_WIDTH - _RIGHT - _LEFT)

    def y(score: float) -> float:
        return _BOTTOM - (max(score, low) - low) / (high - low) * (_BOTTOM - _TOP)

    upper = [f"{x(epsilon):.1f},{y(max(one.scores)):.1f}" for epsilon, one in drawn]
    lower = [f"{x(epsilon):.1f},{y(min(one.scores)):.1f}" for epsilon, one in reversed(drawn)]
    middle = " ".join(f"{x(epsilon):.1f},{y(one.mean):.1f}" for epsilon, one in drawn)
    parts = [
        f'<path d="M{_LEFT} {_TOP}V{_BOTTOM}H{_WIDTH - _RIGHT}" fill="none" stroke="#888"/>',
        f'<polygon points="{" ".join([*upper, *lower])}" fill="{_BLUE}" fill-opacity=".18"/>',
        f'<polyline points="{middle}" fill="none" stroke="{_BLUE}" stroke-width="2"/>',
    ]
    for epsilon, one in drawn:
        parts.append(f'<circle cx="{x(epsilon):.1f}" cy="{y(one.mean):.1f}" r="4" fill="{_BLUE}"/>')
        if one.is_plan:
            parts.append(_line((x(epsilon), _TOP), (x(epsilon), _BOTTOM), _RED, "2 3"))
            parts.append(_text(x(epsilon), _TOP - 8, f"this plan: {epsilon:.3g}", _RED))
        else:
            parts.append(_text(x(epsilon), _BOTTOM + 16, f"{epsilon:g}"))
    stride = 1 if high - low <= 0.4 else 2 if high - low <= 0.8 else 4  # in twentieths
    ticks = [tick / 20 for tick in range(round(low * 20), round(high * 20) + 1) if tick % stride == 0]
    parts += [_text(_LEFT - 8, y(tick) + 4, f"{tick:.2f}", anchor="end") for tick in ticks]
    if without is not None and without.scores:
        parts.append(_line((_LEFT, y(without.mean)), (_WIDTH - _RIGHT, y(without.mean)), _GREY, "8 4"))
    name = _NAMES[measure(plan)]
    parts.append(_text((_LEFT + _WIDTH) / 2, _BOTTOM + 36, "epsilon of the whole plan (smaller is more private)"))
    parts.append(f'<g transform="rotate(-90 16 {(_TOP + _BOTTOM) / 2})">{_text(16, (_TOP + _BOTTOM) / 2, name)}</g>')
    parts += _legend()
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" '
        f'aria-label="{html.escape(name)} against epsilon">{"".join(parts)}</svg>'
    )


def _legend() -> Iterable[str]:
    row = _HEIGHT - 14
    yield _line((_LEFT, row), (_LEFT + 40, row), _BLUE)
    yield _text(_LEFT + 48, row + 4, "with noise: mean, least and largest", anchor="start")
    yield _line((_LEFT + 300, row), (_LEFT + 340, row), _GREY, "8 4")
    yield _text(_LEFT + 348, row + 4, "without privacy", anchor="start")


def _table(plan: Plan, points: Sequence[Point]) -> str:
    name = _NAMES[measure(plan)]
    rows = []
    for one in points:
        named = "without privacy" if one.epsilon is None else f"{calibration.rounded_up(one.epsilon):g}"
        noise = "none" if one.epsilon is None else "no noise is enough" if one.noise is None else f"{one.noise:g}"
        numbers = [f"{value:.3f}" for value in (one.mean, min(one.scores), max(one.scores))] if one.scores else [""] * 3
        rows.append([named + " (this plan)" * one.is_plan, noise, *numbers])
    headings = ["epsilon", "noise_multiplier", f"{name}, mean", "least", "largest"]
    head = "".join(f'<th scope="col">{html.escape(heading)}</th>' for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _list(title: str, words: Iterable[str]) -> str:
    items = "".join(f"<li>{html.escape(one)}</li>" for one in words)
    return f"<h2>{html.escape(title)}</h2><ul>{items}</ul>"


def _line(start: tuple[float, float], end: tuple[float, float], colour: str, dash: str = "") -> str:
    ends = f'x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'


def _text(x: float, y: float, words: str, colour: str = "#1c1c1c", *, anchor: str = "middle") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="12" fill="{colour}">{html.escape(words)}</text>'
