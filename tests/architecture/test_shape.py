"""What `test_tree` does not look at: depth, inheritance, folders' names, and who may open sockets."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "wardround"
MODULES = [path for path in sorted(SOURCE.rglob("*.py")) if "migrations" not in path.parts]
EMPTY_NAMES = {"utils", "util", "helpers", "common", "core", "base", "manager", "misc"}
PURE_TESTS = ("unit", "vectors", "simulation", "architecture", "docs")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]


def own_ancestors(kind):
    return [base for base in kind.__mro__[1:] if base.__module__.startswith("wardround")]


def test_the_tree_is_two_folders_deep():
    assert all(len(path.relative_to(SOURCE).parts) <= 2 for path in MODULES)


def test_folders_have_telling_names():
    assert not {path.name for path in SOURCE.rglob("*") if path.is_dir()} & EMPTY_NAMES


def test_inheritance_is_one_step_deep_but_for_errors():
    seen = 0
    for path in MODULES:
        if path.name in {"__init__.py", "__main__.py", "errors.py"}:
            continue
        module = importlib.import_module(".".join(path.relative_to(SOURCE.parent).with_suffix("").parts))
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ == module.__name__:
                seen += 1
                assert len(own_ancestors(kind)) <= 1, f"{module.__name__}.{name}"
    assert seen > 100  # a walk that finds nothing would pass as well


def test_a_deeper_inheritance_would_be_seen():
    first = type("First", (), {"__module__": "wardround.one"})
    second = type("Second", (first,), {"__module__": "wardround.two"})
    third = type("Third", (second,), {"__module__": "wardround.three"})
    assert [len(own_ancestors(kind)) for kind in (first, second, third)] == [0, 1, 2]


@pytest.mark.parametrize("kind", PURE_TESTS)
def test_no_socket_and_no_sleep_below_real_processes(kind):
    for path in (ROOT / "tests" / kind).rglob("*.py"):
        assert "socket" not in set(imported(path)), path.name
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        names = {ast.unparse(call.func) for call in calls}
        assert "time.sleep" not in names, path.name
