"""Every command explains itself, help is light, and an error is one line that says who must act."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner

from wardround.cli import output
from wardround.cli.main import main, wardround
from wardround.errors import ConfigError

HEAVY = ("torch", "duckdb", "starlette", "sqlalchemy", "numpy", "pyarrow", "granian", "cryptography", "structlog")


def commands(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from commands(child, *path, name)


@pytest.mark.parametrize("path", list(commands(wardround)), ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(wardround, [*path, "--help"])
    assert result.exit_code == 0, result.output
    assert f"Usage: wardround {' '.join(path)}".rstrip() in result.output
    assert len(result.output.splitlines()) > 4


def test_every_group_says_in_a_line_what_it_is_for() -> None:
    result = CliRunner().invoke(wardround, ["-h"])
    for name in ("hub", "node", "study", "demo", "doctor", "simulate"):
        assert f"  {name}" in result.output


def test_a_command_that_is_not_there() -> None:
    result = CliRunner().invoke(wardround, ["hospital"])
    assert result.exit_code == 2
    assert "No such command" in result.output


def loaded(statement: str) -> set[str]:
    """Heavy modules that are loaded after `statement` in a process of its own."""
    code = f"import sys\n{statement}\nprint(*sorted({HEAVY!r} & sys.modules.keys()))"
    code = code.replace(repr(HEAVY), f"set({HEAVY!r})")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60.0, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_help_loads_nothing_heavy() -> None:
    statement = (
        "from click.testing import CliRunner\nfrom wardround.cli.main import wardround\n"
        "assert CliRunner().invoke(wardround, ['--help']).exit_code == 0"
    )
    assert loaded(statement) == set()


@pytest.mark.parametrize("group", ["hub", "node", "study", "doctor", "simulate"])
def test_help_of_a_group_loads_nothing_heavy(group: str) -> None:
    statement = (
        "from click.testing import CliRunner\nfrom wardround.cli.main import wardround\n"
        f"assert CliRunner().invoke(wardround, ['{group}', '--help']).exit_code == 0"
    )
    assert loaded(statement) == set()


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded("import wardround") == set()


def test_every_public_name_is_there() -> None:
    import wardround as package

    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["hub", "serve", "nowhere"], 2, "wardround hub init nowhere"),
        (["node", "run", "nowhere"], 2, "wardround node enrol nowhere"),
        (["study", "list", "--folder", "nowhere"], 2, "wardround study enrol"),
        (["node", "enrol", "here", "--invite", "nonsense"], 1, "copy the whole line"),
        (["hub", "invite", "Not A Name", "nowhere"], 1, "lower-case letter"),
    ],
)
def test_an_error_is_a_line_that_says_who_must_act(
    arguments: list[str], status: int, words: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wardround", *arguments],
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert "must act" in done.stderr
    assert "Traceback" not in done.stderr


def test_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    output.show(True, {"study": "abc", "rounds": 3}, "words")
    assert msgspec.json.decode(capsys.readouterr().out) == {"study": "abc", "rounds": 3}
    output.show(False, {"study": "abc"}, "words")
    assert capsys.readouterr().out == "words\n"


def test_a_log_line_carries_no_other_field() -> None:
    fields = {"event": "loading", "run": "abc", "cell": 71.5, "patient": "X"}
    assert output._allowed(None, "info", fields) == {"event": "loading", "run": "abc"}


def test_errors_name_the_setting_and_not_its_value() -> None:
    from wardround.config import NodeConfig, load

    text = 'name = "arran"\nhub = "https://127.0.0.1"\nstate_key = "s3cret-value"\n'
    with pytest.raises(ConfigError, match="state_key") as caught:
        load(text, NodeConfig, {}, "WARDROUND_NODE_")
    assert "s3cret-value" not in str(caught.value)


def test_a_missing_extra_is_named_with_the_command_that_installs_it(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["wardround", "demo"])
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr("wardround.cli.demo._fresh", lambda folder: folder)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "pip install 'wardround[demo]'" in capsys.readouterr().err
