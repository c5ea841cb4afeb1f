"""The tree is in shape: layers, sizes, names, and what an import loads."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import wardround

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "wardround"
MODULES = sorted(SOURCE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
EMPTY_NAMES = {"utils", "util", "helpers", "common", "core", "base", "manager", "misc"}


def test_imports_only_go_down():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_has_a_docstring_a_telling_name_and_at_most_400_lines(path):
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert path.stem not in EMPTY_NAMES
    assert text.count("\n") <= 400
    assert len(path.relative_to(SOURCE).parts) <= 4


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_real_processes_are_slept_for(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    sleeps = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "sleep"]
    assert "e2e" in path.parts or all(ast.unparse(call.args[0]) == "0" for call in sleeps)


def test_log_events_are_constants():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                if isinstance(owner, ast.Name) and owner.id == "_log":
                    assert isinstance(node.args[0], ast.Constant), f"{path.name}:{node.lineno}"


def test_the_public_names_are_sorted_and_there():
    assert wardround.__all__ == sorted(wardround.__all__)
    for name in wardround.__all__:
        assert getattr(wardround, name).__doc__


def test_every_name_in_all_is_there():
    for path in MODULES:
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        if parts[-1].startswith("__") or "migrations" in parts:
            continue
        module = importlib.import_module(".".join(parts))
        assert all(hasattr(module, name) for name in module.__all__), module.__name__


@pytest.mark.parametrize("start", ["import wardround", "import wardround.cli.main"])
def test_the_bare_package_loads_nothing_heavy(start):
    heavy = ["torch", "duckdb", "starlette", "granian", "sqlalchemy", "pyarrow", "obstore", "sklearn"]
    script = f"{start}; import sys; print([name for name in {heavy!r} if name in sys.modules])"
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"
