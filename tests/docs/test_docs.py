"""The documents are fresh, complete, and lead somewhere."""

import importlib.util
import re
from pathlib import Path

import pytest

from wardround.errors import all_errors

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)])


def generated():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pages()


def test_generated_pages_are_fresh():
    for path, text in generated().items():
        assert (ROOT / "docs" / path).read_text(encoding="utf-8") == text, f"{path}: run python docs/generate.py"


def test_every_error_has_its_place():
    text = (ROOT / "docs/reference/errors.md").read_text(encoding="utf-8")
    codes = [error.code for error in all_errors()]
    assert all(f"## {code}\n" in text for code in codes)
    assert len(set(codes)) == len(codes)  # all of them are in errors.py, whatever else is imported


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_readme_shows_both_commands_and_what_it_does_not_protect():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in text
    assert "make test" in text
    assert "docs/limitations.md" in text
