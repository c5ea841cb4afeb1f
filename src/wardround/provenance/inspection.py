"""What study code reaches for, read from its syntax: a list for the person who reviews it.

This is no boundary. Python can reach anything without naming it, and whoever wants to hide from this list can. The
sandbox is the boundary; the list says where to read first.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from wardround.provenance.difference import escaped

__all__ = ["Finding", "findings"]

_MOST_FINDINGS = 1000
_MODULES = {
    "network": "socket ssl http urllib ftplib smtplib xmlrpc asyncio requests httpx aiohttp socketserver selectors",
    "processes": "subprocess multiprocessing os pty signal threading concurrent resource",
    "files": "pathlib shutil tempfile glob io fileinput mmap zipfile tarfile sqlite3 dbm shelve",
    "native code": "ctypes cffi _ctypes",
    "running data as code": "pickle marshal dill cloudpickle joblib code codeop runpy",
    "Python's own machinery": "importlib imp inspect gc sys builtins site ast types atexit weakref",
    "time and chance": "time datetime random secrets uuid",
}
_BY_MODULE = {name: kind for kind, names in _MODULES.items() for name in names.split()}
_CALLS = {
    **dict.fromkeys(("eval", "exec", "compile", "__import__"), "running data as code"),
    **dict.fromkeys(("open", "input", "print"), "files"),
    **dict.fromkeys(("globals", "locals", "vars", "getattr", "setattr", "delattr"), "names made at run time"),
}
_ATTRIBUTES = {
    **dict.fromkeys(("load", "save", "frombuffer", "fromfile", "tofile", "memmap", "from_file"), "files"),
    **dict.fromkeys(("system", "popen", "fork", "execv", "spawn", "kill"), "processes"),
    **dict.fromkeys(("load_library", "cpp_extension", "load_inline"), "native code"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One place worth reading: the file, the line, what kind of thing, and its name as it stands there."""

    file: str
    line: int
    kind: str
    name: str


def findings(sources: Mapping[str, bytes]) -> list[Finding]:
    """What the sources reach for, in the order of files and lines; at most a thousand."""
    found: list[Finding] = []
    for name in sorted(sources):
        try:
            tree = ast.parse(sources[name])
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            found.append(Finding(name, 1, "not Python", "this file does not parse"))
            continue
        found += sorted((Finding(name, *one) for one in _of(tree)), key=lambda one: (one.line, one.kind, one.name))
        if any(not sign.isascii() for sign in sources[name].decode("utf-8", "replace")):
            found.append(Finding(name, 1, "characters", "letters beyond ASCII: names may look like others"))
    return found[:_MOST_FINDINGS]


def _of(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                for alias in node.names:
                    yield from _module(node.lineno, alias.name)
            case ast.ImportFrom():
                yield from _module(node.lineno, node.module or "")
            case ast.Call(func=ast.Name(id=called)) if called in _CALLS:
                yield node.lineno, _CALLS[called], escaped(called)
            case ast.Call(func=ast.Attribute(attr=called)) if called in _ATTRIBUTES:
                yield node.lineno, _ATTRIBUTES[called], escaped(called)
            case ast.Attribute(attr=named) if named.startswith("__") and named != "__init__":
                yield node.lineno, "Python's own machinery", escaped(named)
            case _:
                pass


def _module(line: int, name: str) -> Iterator[tuple[int, str, str]]:
    kind = _BY_MODULE.get(name.partition(".")[0])
    if kind is not None:
        yield line, kind, escaped(name)
