"""`wardround doctor`: what is wrong with this installation, and what to do about it."""

import os
import shutil
import ssl
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import click

from wardround.cli.output import as_json, folder_argument, show

__all__ = ["doctor"]

_LEAST_FREE = 2 * 1024**3
_MOST_SKEW = 60.0
_LEAST_SHARE = 0.25
_OPTIONAL = ("starlette", "granian", "sqlalchemy", "obstore", "pyarrow", "sqlglot", "psycopg", "torch")


class Finding(NamedTuple):
    """One check's result; `fix` says what to do where it is not well."""

    what: str
    well: bool
    found: str
    fix: str = ""


@click.command()
@folder_argument("node")
@as_json
def doctor(folder: str, json_: bool) -> None:
    """Check the node or researcher in FOLDER and this machine; exit with 1 if something needs fixing."""
    findings = [*_machine(Path(folder)), *_identity(Path(folder))]
    lines = [
        f"{'ok  ' if it.well else 'FIX '} {it.what}: {it.found}" + (f"\n     {it.fix}" if not it.well else "")
        for it in findings
    ]
    show(json_, [it._asdict() for it in findings], "\n".join(lines))
    if not all(it.well for it in findings):
        sys.exit(1)


def _machine(folder: Path) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", (3, 11) <= sys.version_info[:2] < (3, 14), version, "use Python 3.11, 3.12 or 3.13")
    yield Finding("tls", ssl.HAS_TLSv1_3, ssl.OPENSSL_VERSION, "install a Python whose OpenSSL has TLS 1.3")
    there = folder if folder.exists() else Path.cwd()
    free = shutil.disk_usage(there).free
    yield Finding("disk", free > _LEAST_FREE, f"{free / 1024**3:.1f} GiB free in {there}", "free at least 2 GiB")
    installed = [f"{name} {version}" for name in _OPTIONAL if (version := _version(name))]
    missing = [name for name in _OPTIONAL if not _version(name)]
    note = f"; not installed (needed only by some roles): {', '.join(missing)}" if missing else ""
    yield Finding("packages", True, f"wardround {_version('wardround')}, {', '.join(installed)}{note}")


def _identity(folder: Path) -> Iterator[Finding]:
    from wardround.config import NodeConfig, ResearcherConfig, load, secret
    from wardround.errors import WardroundError
    from wardround.transport import credential

    is_node = (folder / "node.toml").exists()
    path = folder / ("node.toml" if is_node else "researcher.toml")
    if not path.exists():
        yield Finding(
            "settings", False, f"no node.toml or researcher.toml in {folder}", "enrol first, or name the folder"
        )
        return
    try:
        config: NodeConfig | ResearcherConfig
        if is_node:
            config = load(path.read_text(), NodeConfig, os.environ, "WARDROUND_NODE_")
        else:
            config = load(path.read_text(), ResearcherConfig, os.environ, "WARDROUND_RESEARCHER_")
        secret(config.key, folder, os.environ)
        credential.load(folder / config.connection)
        yield Finding("settings", True, f"{config.name} at {config.hub}")
    except WardroundError as error:
        yield Finding("settings", False, str(error), "mend the setting and run this again")
        return
    yield from _certificate(folder / config.connection, folder / config.authority)
    yield from _connection(config.hub, (folder / config.authority).read_bytes(), folder / config.connection)


def _certificate(path: Path, authority: Path) -> Iterator[Finding]:
    from wardround.crypto import certificate
    from wardround.errors import CryptoError

    try:
        data, now = path.read_bytes(), time.time()
        certificate.open_identity(data, authority.read_bytes(), now)
        hours = (certificate.expires(data) - now) / 3600
        share = hours * 3600 / (certificate.expires(data) - certificate.issued(data))
        fix = "the node does not renew it: see whether it runs, and what its log says of the hub's public address"
        yield Finding("certificate", share > _LEAST_SHARE, f"valid for {hours:.0f} more hours", fix)
    except (OSError, CryptoError) as error:
        yield Finding("certificate", False, str(error), "run `wardround node rotate-key`, with a new invite if need be")


def _connection(url: str, authority: bytes, held: Path) -> Iterator[Finding]:
    from wardround.errors import WardroundError
    from wardround.transport import connection

    try:
        offset, took = connection.clock_offset(url, authority, held)
    except WardroundError as error:
        yield Finding("connection", False, str(error), f"check that this machine may open {url} and that the hub runs")
        return
    yield Finding("connection", True, f"{url} answers in {took * 1000:.0f} ms over TLS 1.3")
    ahead = "behind" if offset > 0 else "ahead of"
    found = f"{abs(offset):.1f} s {ahead} the hub's"
    yield Finding("clock", abs(offset) < _MOST_SKEW, found, "set this machine's clock, for example with chrony or NTP")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
