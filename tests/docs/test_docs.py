"""The documents are fresh, complete, and lead somewhere."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import click
import msgspec
import pytest

from wardround import config, ports
from wardround.cli.main import wardround as command_line
from wardround.cli.output import FIELDS
from wardround.errors import all_errors
from wardround.protocol import messages, policy
from wardround.protocol import round as rounds
from wardround.sdk import study

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)])


def test_generated_pages_are_fresh():
    # In a process of its own: a command keeps the help option it was first asked with, alone or below `wardround`.
    check = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    done = subprocess.run(check, check=False, capture_output=True, text=True, timeout=60.0)
    assert done.returncode == 0, done.stderr


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


def page(path):
    return (ROOT / "docs" / path).read_text(encoding="utf-8")


def structs(module):
    kinds = (getattr(module, name) for name in module.__all__)
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]


def test_every_error_code_is_an_anchor():
    assert all(f'<a id="{error.code}"></a>' in page("reference/errors.md") for error in all_errors())


def test_every_setting_is_documented():
    for kind in (*structs(config), policy.SitePolicy):
        text = page("reference/settings.md").partition(f"## {kind.__name__}\n")[2].partition("\n## ")[0]
        assert kind.__doc__.split()[0] in text
        assert all(f"| `{field.name}` |" in text for field in msgspec.structs.fields(kind))


def test_every_key_of_a_study_file_is_documented():
    parts = {"model", "training", "data", "limits", "aggregation"}  # each has a section of its own
    for field in msgspec.structs.fields(study._StudyFile):
        assert field.name in parts or f"| `{field.name}` |" in page("reference/study-file.md"), field.name


def test_every_command_has_help_and_is_documented():
    def walk(command, path):
        yield path, command
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, f"{path} {name}")

    context = click.Context(command_line)
    names = [f"wardround {name}" for name in command_line.list_commands(context)]
    found = [pair for name in names for pair in walk(command_line.get_command(context, name.split()[1]), name)]
    assert len(found) > 15
    for path, command in found:
        assert command.help, path
        assert f"## `{path}`\n" in page("reference/cli.md"), path


def test_every_message_and_its_fields_are_documented():
    for kind in structs(messages):
        text = page("reference/messages.md").partition(f"## {kind.__name__}\n")[2].partition("\n## ")[0]
        assert all(f"- `{field.name}`" in text for field in msgspec.structs.fields(kind)), kind.__name__


def test_every_port_and_its_methods_are_documented():
    for name in ports.__all__:
        text = page("reference/ports.md").partition(f"## {name}\n")[2].partition("\n## ")[0]
        methods = [method for method, value in vars(getattr(ports, name)).items() if inspect.isfunction(value)]
        assert text
        assert all(f"`{method}(" in text for method in methods if not method.startswith("_")), name


def test_every_log_field_is_documented():
    assert all(f"- `{name}`\n" in page("reference/log-fields.md") for name in FIELDS)


def test_the_diagram_has_each_transition_of_the_round_machine_and_no_other():
    drawn = set(re.findall(r"^ +(\w+) --> (\w+): (\w+)$", page("explanation/state-machines.md"), re.MULTILINE))
    assert drawn == {
        (phase.value, after.value, event.__name__)
        for phase, accepted in rounds.TRANSITIONS.items()
        for event, after in accepted.items()
    }


def test_every_decision_says_what_it_gives_up():
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [path.name[:4] for path in decisions] == [f"{number:04}" for number in range(1, len(decisions) + 1)]
    for path in decisions:
        text = path.read_text(encoding="utf-8")
        assert all(word in text for word in ("Context:", "Decision:", "What we give up:")), path.name
