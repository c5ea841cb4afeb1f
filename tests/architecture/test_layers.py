"""Each import contract was broken on purpose: in a copy of the tree, one line at a time, and is seen to be caught."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOWN = "Imports only go down; siblings on a line never meet"
PURE = "The pure half does no I/O, reads no clock, draws no randomness"
SERVICES = "Services do no I/O of their own: they speak through ports"
SOURCES = "Sources know nothing of one another"
CYCLES = "No cycles among siblings, at any depth"


def lint(folder):
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(ROOT / "src" / "wardround", tmp_path / "wardround", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_contract_holds_in_an_unbroken_copy(copy):
    done = lint(copy)
    assert done.returncode == 0, done.stdout
    for contract in (DOWN, PURE, SERVICES, SOURCES, CYCLES):
        assert f"{contract} KEPT" in done.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("aggregation/mean.py", "from wardround.services import combine", DOWN),
        ("services/studies.py", "from wardround.storage import memory", DOWN),
        ("node/agent.py", "from wardround.hub import bell", DOWN),
        ("hub/app.py", "from wardround.cli import output", DOWN),
        ("protocol/round.py", "import time", PURE),
        ("crypto/seal.py", "import secrets", PURE),
        ("clinical/units.py", "import pathlib", PURE),
        ("services/coordinator.py", "import time", SERVICES),
        ("services/studies.py", "import sqlalchemy", SERVICES),
        ("sources/sql.py", "from wardround.sources import table_file", SOURCES),
        ("protocol/plan.py", "from wardround.protocol import policy", CYCLES),
    ],
)
def test_a_broken_contract_is_caught(copy, module, line, contract):
    path = copy / "wardround" / module
    path.write_text(path.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    done = lint(copy)
    assert done.returncode != 0
    assert f"{contract} BROKEN" in done.stdout


def test_a_folder_that_no_layer_names_is_caught(copy):
    (copy / "wardround" / "utils").mkdir()
    (copy / "wardround" / "utils" / "__init__.py").write_text('"""Odds and ends."""\n', encoding="utf-8")
    done = lint(copy)
    assert done.returncode != 0
    assert "utils" in done.stdout
