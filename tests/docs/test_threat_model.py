"""The threat model names tests that exist, and none twice without need."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "threat-model.md").read_text(encoding="utf-8")
_FOLDERS = "unit|contracts|e2e|vectors|simulation|architecture|docs"
NAMED = sorted(set(re.findall(rf"`((?:{_FOLDERS})/[\w/.]+\.py)(?:::(\w+))?`", PAGE)))
ROWS = [line for line in PAGE.splitlines() if line.startswith("| **")]
LETTERS = "STRIDE"


def functions(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_named_test_exists(file, name):
    path = ROOT / "tests" / file
    assert path.exists()
    assert not name or name in functions(path)


def test_every_threat_has_a_letter_a_control_and_a_test():
    assert len(ROWS) > 30
    for row in ROWS:
        threat, control, tests = row.strip("|").split("|")
        assert set(re.match(r" \*\*([A-Z]+)\*\*", threat)[1]) <= set(LETTERS), row
        assert control.strip()
        assert ".py" in tests, row
    assert {letter for row in ROWS for letter in re.match(r"\| \*\*([A-Z]+)\*\*", row)[1]} == set(LETTERS)
