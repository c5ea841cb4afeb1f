"""What a package says of itself, and the exact versions that it was made with.

    wardround-package.toml    name, version, factory, Python, what it requires
    wardround-package.lock    name==version --hash=sha256:…, one line each, sorted (as pip's --require-hashes reads it)

A node installs nothing: it runs a package with its own Python, torch and numpy. The lock says with which versions the
author tried it, so that known weaknesses of those versions can be looked up and others noticed.

References:
    PEP 508 (names), PEP 440 (versions), PEP 503 (one spelling of a name).
"""

import re
import tomllib

import msgspec

from wardround.errors import PackageError

__all__ = ["Manifest", "Pin", "normalized", "parse", "parse_lock", "render", "render_lock"]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_LIBRARY = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,98}[a-z0-9])?")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+!_-]{0,63}")
_FACTORY = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,199}:[A-Za-z_][A-Za-z0-9_]{0,99}")
_PYTHON = re.compile(r"[0-9.<>=!~, *]{1,60}")
_PIN = re.compile(
    r"(?P<name>[A-Za-z0-9._-]{1,100})==(?P<version>\S{1,64})(?P<hashes>(?:\s+--hash=sha256:[0-9a-f]{64})+)"
)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_MOST_PINS = 500


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who a package is: `name` is what its versions have in common; `requires` are libraries that its lock pins."""

    name: str
    version: str
    factory: str
    python: str = ">=3.11"
    description: str = ""
    requires: tuple[str, ...] = ()


class Pin(msgspec.Struct, frozen=True, order=True):
    """One library in one version: SHA-256 of the files that may stand for it, hexadecimal, sorted."""

    name: str
    version: str
    hashes: tuple[str, ...]


def normalized(name: str) -> str:
    """The one spelling of a library's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(data: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        PackageError: Not TOML, an unknown or missing field, or a value that none may have; names the field.
    """
    try:
        manifest = msgspec.convert(tomllib.loads(data.decode()), Manifest)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError):
        raise PackageError("the package's manifest is not TOML") from None
    except msgspec.ValidationError as error:
        raise PackageError(f"the package's manifest is wrong: {error}") from None
    _check(manifest)
    return manifest


def render(manifest: Manifest) -> bytes:
    """The manifest's TOML, in its one form.

    Raises:
        PackageError: A value that no manifest may have.
    """
    _check(manifest)
    requires = ", ".join(f'"{name}"' for name in sorted(manifest.requires))
    lines = [
        f'{name} = "{getattr(manifest, name)}"' for name in ("name", "version", "factory", "python", "description")
    ]
    return ("\n".join([*lines, f"requires = [{requires}]"]) + "\n").encode()


def parse_lock(data: bytes) -> tuple[Pin, ...]:
    """Read a lock as pip-compile and pip write it: exact versions with hashes, comments, continued lines.

    Raises:
        PackageError: A line is no exact version with SHA-256 hashes, a library is there twice, or there are too many.
    """
    try:
        text = data.decode("ascii").replace("\\\n", " ")
    except UnicodeDecodeError:
        raise PackageError("the package's lock is not ASCII") from None
    lines = [stripped for line in text.splitlines() if (stripped := line.partition("#")[0].strip())]
    if len(lines) > _MOST_PINS:
        raise PackageError(f"a lock pins at most {_MOST_PINS} libraries")
    pins = [_pin(line) for line in lines]
    if len({pin.name for pin in pins}) != len(pins):
        raise PackageError("the package's lock pins a library twice")
    return tuple(sorted(pins))


def render_lock(pins: tuple[Pin, ...]) -> bytes:
    """The lock's text, in its one form."""
    lines = [
        " ".join([f"{pin.name}=={pin.version}", *(f"--hash=sha256:{digest}" for digest in sorted(pin.hashes))])
        for pin in sorted(pins)
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def _pin(line: str) -> Pin:
    match = _PIN.fullmatch(line)
    if match is None or not _VERSION.fullmatch(match["version"]) or not _LIBRARY.fullmatch(normalized(match["name"])):
        raise PackageError("each line of a lock is name==version with at least one --hash=sha256:…")
    return Pin(normalized(match["name"]), match["version"], tuple(sorted(set(_HASH.findall(match["hashes"])))))


def _check(manifest: Manifest) -> None:
    rules = (
        ("name", _NAME.fullmatch(manifest.name), "lower-case letters, digits and '-'"),
        ("version", _VERSION.fullmatch(manifest.version), "a version such as 1.2.0"),
        ("factory", _FACTORY.fullmatch(manifest.factory), "module:function"),
        ("python", _PYTHON.fullmatch(manifest.python), "versions of Python such as >=3.11"),
        ("description", _is_plain(manifest.description), 'up to 500 printable ASCII characters without " and \\'),
        ("requires", _are_libraries(manifest.requires), "names of libraries, each once"),
    )
    for field, holds, words in rules:
        if not holds:
            raise PackageError(f"the package's {field} must be {words}")


def _is_plain(text: str) -> bool:
    return len(text) <= 500 and all(" " <= sign <= "~" and sign not in '"\\' for sign in text)


def _are_libraries(names: tuple[str, ...]) -> bool:
    spelled = all(_LIBRARY.fullmatch(name) for name in names)
    return spelled and len(set(names)) == len(names) <= _MOST_PINS
