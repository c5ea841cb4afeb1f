"""A privacy audit as one document for programs, and as one self-contained HTML page that is drawn from it.

    document()    gate, one-run audits, membership, inversions  ->  JSON-able values
    page()        these  ->  HTML with curves as SVG and images as PNG within it; nothing is loaded from elsewhere

The document holds the images that inversion rebuilt, and their originals: these are test images, never patients'.
"""

import base64
import html
import math
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wardround.privacy.gate import Audit, Gate, allowed_rate

__all__ = ["Inverted", "document", "page"]

_COLOURS = ("#1b6ca8", "#c8553d", "#3c8d4f", "#8a5fb0")
_DASHES = ("", "6 3", "2 2", "8 3 2 3")
_GREY = "#666"
_WIDTH, _LEFT, _TOP, _BOTTOM = 640, 70, 12, 330
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c1c1c;background:#fff}
table{border-collapse:collapse;margin:1rem 0}th,td{border-bottom:1px solid #ccc;padding:.3rem .8rem;text-align:left}
svg{max-width:100%;height:auto}.note{color:#555}img{width:96px;height:96px;image-rendering:pixelated;margin:2px}
figure{display:inline-block;margin:.5rem}figcaption{font-size:.8rem}
"""

Image = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True, eq=False)
class Inverted:
    """What an inversion attack made.

    Attributes:
        name: Of what was attacked.
        released: Whether that is what is really released, or a control that nothing protects.
        match_rate: Share of the records that were rebuilt.
        psnr: In dB, of images.
        ssim: Of images.
        pairs: Images ``(rows, columns)`` in [0, 1]: true, rebuilt.
    """

    name: str
    released: bool
    match_rate: float
    psnr: float | None = None
    ssim: float | None = None
    pairs: tuple[tuple[Image, Image], ...] = ()


def document(
    title: str,
    gate: Gate,
    *,
    audits: Mapping[str, Audit] | None = None,
    membership: Mapping[str, Any] | None = None,
    inversions: Sequence[Inverted] = (),
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """All of an audit as JSON-able values; what there is none of is left out.

    Args:
        title: Of the page.
        gate: The verdict over everything.
        audits: One-run audits by name.
        membership: `wardround.sdk.membership.MembershipAudit.document`.
        inversions: In the order in which to show them.
        notes: What to know beside the checks: what failed, who must act, what was not looked at.
    """
    found: dict[str, Any] = {"title": title, **gate.document()}
    if audits:
        found["one_run"] = [_one_run(name, audit) for name, audit in audits.items()]
    if membership:
        found["membership"] = dict(membership)
    if notes:
        found["notes"] = list(notes)
    if inversions:
        found["inversion"] = [_inversion(one) for one in inversions]
    return found


def page(found: Mapping[str, Any]) -> str:
    """The page of a `document`, or of the same read from JSON."""
    verdict = "passes" if found["passed"] else "does not pass"
    parts = [f"<p>This audit <strong>{verdict}</strong> the privacy gate.</p>", _list(found.get("notes", ()))]
    parts.append(_checks(found["checks"]))
    parts += [_bounds(found["one_run"])] if "one_run" in found else []
    parts += [_membership(found["membership"])] if "membership" in found else []
    parts += [_inversions(found["inversion"])] if "inversion" in found else []
    title = _safe(found["title"])
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    inner = "\n".join(parts)
    return f'<!doctype html><html lang="en"><head>{head}</head><body><h1>{title}</h1>\n{inner}\n</body></html>\n'


def _one_run(name: str, audit: Audit) -> dict[str, Any]:
    return {
        "name": name,
        "epsilon": audit.found.epsilon,
        "claimed": audit.claimed if math.isfinite(audit.claimed) else None,
        "usual_low": audit.usual_low,
        "usual_median": audit.usual_median,
        "usual_high": audit.usual_high,
        "canaries": audit.found.canaries,
        "guesses": audit.found.guesses,
        "correct": audit.found.correct,
    }


def _inversion(one: Inverted) -> dict[str, Any]:
    return {
        "name": one.name,
        "released": one.released,
        "match_rate": one.match_rate,
        "psnr": one.psnr if one.psnr is not None and math.isfinite(one.psnr) else None,
        "ssim": one.ssim,
        "pairs": [[_grey(image) for image in pair] for pair in one.pairs],
    }


def _grey(image: Image) -> list[list[int]]:
    found: list[list[int]] = np.rint(255 * np.clip(image, 0.0, 1.0)).astype(int).tolist()
    return found


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            "passed" if one["passed"] else "FAILED",
            one["name"],
            _short(one["figure"]),
            _short(one["bound"]),
            one["words"],
        ]
        for one in checks
    ]
    return "<h2>Checks</h2>" + _table(["", "check", "figure", "bound", "what the figure is"], rows)


def _bounds(audits: Sequence[Mapping[str, Any]]) -> str:
    """For each audit a bar of what a correct mechanism shows, the bound that was found, and the claim."""
    highest = 1.1 * max(max(one["epsilon"], one["usual_high"], one["claimed"] or 0.0) for one in audits) or 1.0
    left, row = 200, 34
    bottom = _TOP + row * len(audits)

    def x(value: float) -> float:
        return left + value / highest * (_WIDTH - 16 - left)

    parts = [f'<path d="M{left} {bottom}H{_WIDTH - 16}" stroke="#888"/>']
    parts += [_text(x(highest * step / 4), bottom + 16, f"{highest * step / 4:.2f}", "middle") for step in range(5)]
    for place, one in enumerate(audits):
        y = _TOP + row * place + row / 2
        low, high = x(one["usual_low"]), x(one["usual_high"])
        parts.append(_text(4, y + 4, str(one["name"])[:28]))
        parts.append(
            f'<rect x="{low:.1f}" y="{y - 7}" width="{max(high - low, 1):.1f}" height="14" fill="#b9d3e6"/>'
            f'<circle cx="{x(one["epsilon"]):.1f}" cy="{y}" r="5" fill="{_COLOURS[0]}"/>'
        )
        if one["claimed"] is not None:
            parts.append(f'<path d="M{x(one["claimed"]):.1f} {y - 12}v24" {_stroke(_COLOURS[1])}/>')
    picture = _svg("Lower bounds on epsilon", bottom + 26, parts)
    names = ["epsilon", "claimed", "usual_low", "usual_median", "usual_high"]
    counts = ["canaries", "guesses", "correct"]
    rows = [[one["name"], *(_short(one[key]) for key in names), *(str(one[key]) for key in counts)] for one in audits]
    heads = ["audit", "lower bound", "claimed", "usual, 0.1 %", "usual, median", "usual, 99.9 %", *counts]
    note = "Dot: the lower bound that was found. Bar: where a correct mechanism's lies. Line: the claimed epsilon."
    return f"<h2>Lower bounds on epsilon from one run</h2>{picture}{_note(note)}{_table(heads, rows)}"


def _membership(found: Mapping[str, Any]) -> str:
    attacks: Mapping[str, Any] = found["attacks"]
    least = min(0.5 / found["nonmembers"], 0.5 / found["members"], 1e-3)
    decades = -math.log10(least)

    def place(false: float, true: float) -> str:
        x, y = (1 + math.log10(max(value, least)) / decades for value in (false, true))
        return f"{_LEFT + x * (_WIDTH - 16 - _LEFT):.1f},{_BOTTOM - y * (_BOTTOM - _TOP):.1f}"

    grid = [least * (1 / least) ** (step / 100) for step in range(101)]
    lines = [("chance", _GREY, "1 3", [(value, value) for value in grid])]
    claim = found["claim"]
    if claim is not None:
        allowed = [(value, allowed_rate(value, claim["epsilon"], claim["delta"])) for value in grid]
        lines.append((f"allowed by epsilon {claim['epsilon']:g}", _GREY, "6 3", allowed))
    for number, (name, one) in enumerate(attacks.items()):
        points = list(zip(one["false_positive"], one["true_positive"], strict=True))
        lines.append((f"{name}, AUC {one['auc']:.3f}", _COLOURS[number % 4], _DASHES[number % 4], points))
    parts = [_log_frame(decades)]
    for number, (name, colour, dash, points) in enumerate(lines):
        path = " ".join(place(*point) for point in points)
        parts.append(f'<polyline fill="none" points="{path}" {_stroke(colour, dash)}/>')
        y = _BOTTOM + 52 + 18 * number
        parts.append(f'<path d="M{_LEFT} {y}h40" {_stroke(colour, dash)}/>{_text(_LEFT + 48, y + 4, name)}')
    picture = _svg("Membership inference", _BOTTOM + 60 + 18 * len(lines), parts)
    rows = [
        [name, *(_short(rate[key]) for key in ("asked", "false_positive_rate", "true_positive_rate", "low", "high"))]
        for name, one in attacks.items()
        for rate in one["rates"]
    ]
    heads = ["attack", "FPR asked", "FPR observed", "TPR", "95 % low", "95 % high"]
    note = (
        f"{found['members']} members and {found['nonmembers']} non-members, {found['references']} reference models. "
        f"FPR below {found['resolution']:.4f} cannot be told from none, for which the left edge stands. "
        f"No policy below {found['least_policy']:.4f} could be met by so few."
    )
    return f"<h2>Membership inference</h2>{picture}{_note(note)}{_table(heads, rows)}"


def _log_frame(decades: float) -> str:
    parts = [f'<path d="M{_LEFT} {_TOP}V{_BOTTOM}H{_WIDTH - 16}" fill="none" stroke="#888"/>']
    for power in range(int(decades) + 1):
        share = 1 - power / decades
        x, y = _LEFT + share * (_WIDTH - 16 - _LEFT), _BOTTOM - share * (_BOTTOM - _TOP)
        words = f"{10.0**-power:g}"
        parts += [_text(x, _BOTTOM + 16, words, "middle"), _text(_LEFT - 6, y + 4, words, "end")]
    middle = (_TOP + _BOTTOM) / 2
    parts.append(_text((_LEFT + _WIDTH) / 2, _BOTTOM + 34, "false positive rate", "middle"))
    parts.append(f'<g transform="rotate(-90 14 {middle})">{_text(14, middle, "true positive rate", "middle")}</g>')
    return "".join(parts)


def _inversions(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            one["name"],
            "released" if one["released"] else "control",
            _short(one["match_rate"]),
            _short(one["psnr"]),
            _short(one["ssim"]),
        ]
        for one in found
    ]
    heads = ["attacked", "", "share of records rebuilt", "PSNR, dB", "SSIM"]
    pictures = "".join(
        f'<figure><img alt="true" src="{_png(pair[0])}"><img alt="rebuilt" src="{_png(pair[1])}">'
        f"<figcaption>{_safe(one['name'])}: true, rebuilt</figcaption></figure>"
        for one in found
        for pair in one["pairs"]
    )
    note = "Where the control fails, the attack is too weak to count."
    return f"<h2>Gradient inversion</h2>{_table(heads, rows)}{_note(note)}{pictures}"


def _png(rows: Sequence[Sequence[int]]) -> str:
    """A grey image of eight bits, as a data URI."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows), 9)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _svg(label: str, height: float, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" role="img" aria-label="{_safe(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _stroke(colour: str, dash: str = "") -> str:
    return f'stroke="{colour}" stroke-width="2"' + (f' stroke-dasharray="{dash}"' if dash else "")


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" text-anchor="{anchor}">{_safe(words)}</text>'


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{_safe(heading)}</th>' for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{_safe(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_safe(line)}</li>' for line in lines)}</ul>" if lines else ""


def _note(words: str) -> str:
    return f'<p class="note">{_safe(words)}</p>'


def _short(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.3g}"


def _safe(words: object) -> str:
    return html.escape(str(words))
