"""What changed between two versions of a package, for a person at a terminal.

Code comes from outside, and what a terminal shows is not what Python reads where it holds control characters or
characters that turn the writing direction. So everything but printable ASCII is shown as its escape.

References:
    Boucher, Anderson. Trojan Source: Invisible Vulnerabilities. USENIX Security 2023 (CVE-2021-42574).
"""

import difflib

from wardround.provenance.manifest import Pin
from wardround.provenance.package import Package

__all__ = ["escaped", "of_packages", "of_pins"]

_MOST_LINES = 20_000


def escaped(text: str) -> str:
    """`text` as printable ASCII; every other character as Python's escape of it, tabs as four spaces."""
    spaced = text.replace("\t", "    ")
    return "".join(
        sign if " " <= sign <= "~" else sign.encode("unicode_escape", "surrogatepass").decode() for sign in spaced
    )


def of_packages(old: Package | None, new: Package) -> list[str]:
    """Lines of a unified diff from one package to the next, file by file, then what changed in its lock.

    Without an `old` one every line of `new` is shown as added.
    """
    before = old.sources if old else {}
    lines: list[str] = []
    for name in sorted({*before, *new.sources}):
        if before.get(name) != new.sources.get(name):
            lines += _file(name, before.get(name), new.sources.get(name))
        if len(lines) > _MOST_LINES:
            return [*lines[:_MOST_LINES], f"... and more: this shows {_MOST_LINES} lines; read the files themselves"]
    return [*lines, *of_pins(old.pins if old else (), new.pins)]


def of_pins(old: tuple[Pin, ...], new: tuple[Pin, ...]) -> list[str]:
    """What changed between two locks, in words."""
    before, after = {pin.name: pin for pin in old}, {pin.name: pin for pin in new}
    lines: list[str] = []
    for name in sorted({*before, *after}):
        was, now = before.get(name), after.get(name)
        if was is None and now is not None:
            lines.append(f"lock: {name} {now.version} is new")
        elif was is not None and now is None:
            lines.append(f"lock: {name} {was.version} is gone")
        elif was is not None and now is not None and was != now:
            same = was.version == now.version
            lines.append(f"lock: {name} {was.version} " + ("has other hashes" if same else f"became {now.version}"))
    return lines


def _file(name: str, old: bytes | None, new: bytes | None) -> list[str]:
    before, after = _lines(old or b""), _lines(new or b"")
    found = difflib.unified_diff(before, after, _side(name, old), _side(name, new), lineterm="")
    return list(found) or [f"{name}: {'added' if old is None else 'removed' if new is None else 'other bytes'}, empty"]


def _side(name: str, data: bytes | None) -> str:
    return escaped(name) if data is not None else "(nothing)"


def _lines(data: bytes) -> list[str]:
    # A line ends where Python ends one; a lone carriage return would hide what stands before it.
    return [escaped(line) for line in data.decode("utf-8", "backslashreplace").split("\n")]
