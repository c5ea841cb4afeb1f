"""A throw-away PostgreSQL server on a Unix socket, started once per test process, never as root."""

import atexit
import functools
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

_numbers = itertools.count(1)


def new_database() -> str:
    """URL of a new, empty database; skips the test, with the reason, where there is no server to be had."""
    server = _server()
    if isinstance(server, str):
        pytest.skip(server)
    psycopg = pytest.importorskip("psycopg")
    name = f"wardround_{next(_numbers)}"
    with psycopg.connect(host=str(server), user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql://postgres@/{name}?host={server}"


@functools.cache
def _server() -> Path | str:
    binaries = _binaries()
    if binaries is None:
        return "PostgreSQL's server is not installed"
    folder = Path(tempfile.mkdtemp(prefix="wardround-pg-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    as_user: list[str | Path] = []
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        as_user = ["runuser", "-u", "nobody", "--"]
    data = folder / "data"
    initdb = [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off -c max_connections=50"
    control = [*as_user, binaries / "pg_ctl", "-D", data, "-w"]
    try:
        _run([*as_user, *initdb])
        _run([*control, "-l", folder / "log", "-o", options, "start"])
    except (OSError, subprocess.CalledProcessError) as error:
        return f"PostgreSQL's server did not start: {error}"
    atexit.register(_run, [*control, "-m", "immediate", "stop"])
    return folder


def _run(command: list[str | Path]) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, cwd="/")


def _binaries() -> Path | None:
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if found := shutil.which("pg_ctl"):
        candidates.append(Path(found).resolve().parent)
    candidates.append(Path("/usr/local/bin"))
    for folder in candidates:
        if all((folder / name).exists() for name in ("postgres", "initdb", "pg_ctl")):
            return folder
    return None
