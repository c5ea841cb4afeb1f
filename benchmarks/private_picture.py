"""The picture of `benchmarks.private`: accuracy and AUC against epsilon, as SVG."""

import math

import numpy as np

__all__ = ["curves"]

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 300, 220, 56, 48, 84
_COLOURS = {"local": "#b5532a", "central": "#1f6f8b", "shared": "#4a4a4a"}
_WORDS = {"local": "local noise", "central": "central noise", "shared": "shared noise (secure aggregation)"}


def curves(found, title="PneumoniaMNIST at five sites: what each patient's privacy costs"):
    """One panel for each metric: means over the runs with their standard deviations, and the line without privacy."""
    cells = [cell for cell in found["cells"] if cell["target"] is not None]
    plain = next(cell for cell in found["cells"] if cell["noise"] == "none")
    width, height = 2 * (_LEFT + _WIDTH) + _GAP - _LEFT // 2, _TOP + _HEIGHT + 84
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{title}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(_LEFT, 22, title, size=14),
    ]
    for place, metric in enumerate(("accuracy", "auc")):
        parts += _panel(cells, plain, metric, _LEFT + place * (_WIDTH + _GAP))
    parts += _legend(_LEFT, _TOP + _HEIGHT + 62)
    return "\n".join([*parts, "</svg>", ""])


def _spread(values):
    """Standard deviation; 0 of a single run."""
    return np.std(values, ddof=1) if len(values) > 1 else 0.0


def _panel(cells, plain, metric, left):
    epsilons = sorted({cell["target"] for cell in cells})
    lows = [np.mean(cell[metric]) - _spread(cell[metric]) for cell in cells]
    low = math.floor(min(lows) * 20) / 20
    bottom, right = _TOP + _HEIGHT, left + _WIDTH

    def across(epsilon):
        share = math.log(epsilon / epsilons[0]) / math.log(epsilons[-1] / epsilons[0])
        return left + 18 + (_WIDTH - 36) * share

    def down(value):
        return bottom - _HEIGHT * (value - low) / (1 - low)

    parts = [_text(left, _TOP - 8, {"accuracy": "accuracy", "auc": "AUC"}[metric])]
    for step in range(round(low * 20), 21):
        if (step - 20) % (1 if low > 0.65 else 2) == 0:
            parts.append(_line(left, down(step / 20), right, down(step / 20), "#e2e2e2"))
            parts.append(_text(left - 6, down(step / 20) + 4, f"{step / 20:.2f}", anchor="end"))
    for epsilon in epsilons:
        parts.append(_line(across(epsilon), bottom, across(epsilon), bottom + 4, "#555555"))
        parts.append(_text(across(epsilon), bottom + 18, f"{epsilon:g}", anchor="middle"))
    parts.append(_text((left + right) / 2, bottom + 36, "epsilon of the whole run", anchor="middle"))
    parts.append(_line(left, bottom, right, bottom, "#555555"))
    without = down(np.mean(plain[metric]))
    parts.append(_line(left, without, right, without, "#222222", dashed=True))
    for place, (noise, colour) in enumerate(_COLOURS.items()):
        points = []
        for cell in sorted((cell for cell in cells if cell["noise"] == noise), key=lambda cell: cell["target"]):
            mean, spread = np.mean(cell[metric]), _spread(cell[metric])
            x = across(cell["target"]) + 6 * (place - 1)
            points.append((x, down(mean)))
            parts.append(_line(x, down(mean - spread), x, down(min(1.0, mean + spread)), colour))
            parts.append(f'<circle cx="{x:.1f}" cy="{down(mean):.1f}" r="3.5" fill="{colour}"/>')
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    return parts


def _legend(left, height):
    parts = []
    for noise, colour in _COLOURS.items():
        parts.append(f'<circle cx="{left + 6}" cy="{height - 4}" r="3.5" fill="{colour}"/>')
        parts.append(_text(left + 16, height, _WORDS[noise]))
        left += 36 + 6.6 * len(_WORDS[noise])
    parts.append(_line(left, height - 4, left + 24, height - 4, "#222222", dashed=True))
    return [*parts, _text(left + 30, height, "without privacy")]


def _text(x, y, words, *, anchor="start", size=12):
    face = f'font-family="sans-serif" font-size="{size}" fill="#222222"'
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {face}>{words}</text>'


def _line(x1, y1, x2, y2, colour, *, dashed=False):
    dashes = ' stroke-dasharray="6 4"' if dashed else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashes}/>'
