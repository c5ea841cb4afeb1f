"""``wardround simulate`` and ``study check`` with hostile sites, as a researcher types them."""

import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from wardround.cli.main import wardround

SITES = ("east", "north", "south", "west")
STUDY = """
title = "Illness from age"
purpose = "a test"
legal_basis = "made-up records"
participants = ["east", "north", "south", "west"]
min_participants = 3
expires = 4000000000

[data]
columns = [{ name = "age", unit = "a" }]
label = { name = "ill" }

[model]
name = "logistic"

[training]
rounds = 3
epochs = 1

[aggregation]
rule = "median"
hostile = 1

[screening]
norm_multiple = 3.0
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "study.toml").write_text(STUDY)
    for site in SITES:
        draw = random.Random(site)
        rows = [f"{age:.1f},{int(age + draw.gauss(0, 8) > 55)}" for age in (draw.gauss(55, 12) for _ in range(80))]
        (tmp_path / f"{site}.csv").write_text("\n".join(["age,ill", *rows]) + "\n")
        (tmp_path / f"{site}.toml").write_text(f'kind = "csv"\npath = "{site}.csv"\n')
    return tmp_path


def invoke(place: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(wardround, list(arguments), catch_exceptions=True)
    return result.exit_code, result.output + str(result.exception or "")


def simulate(place: Path, *more: str) -> tuple[int, str]:
    sites = [word for site in SITES for word in ("--site", f"{site}={place / site}.toml")]
    return invoke(place, "simulate", str(place / "study.toml"), *sites, "--to", str(place / "out"), "--json", *more)


def test_a_hostile_site_is_named_and_the_report_says_what_was_set_aside(place: Path) -> None:
    status, output = simulate(place, "--attack", "west=replacement")
    assert status == 0, output
    assert json.loads(output)["phase"] == "completed"
    page = (place / "out" / "report.html").read_text()
    assert "Updates that were set aside" in page
    assert "west" in page.partition("Updates that were set aside")[2].partition("</table>")[0]
    assert (place / "out" / "model.safetensors").stat().st_size > 0


def test_without_an_attack_nothing_is(place: Path) -> None:
    status, output = simulate(place)
    assert status == 0, output
    assert "Updates that were set aside" not in (place / "out" / "report.html").read_text()


def test_an_attack_that_does_not_exist_is_an_error_that_names_those_that_do(place: Path) -> None:
    status, output = simulate(place, "--attack", "west=guess")
    assert status != 0
    assert "sign-flip" in output


def test_study_check_says_how_many_hostile_sites_are_withstood(place: Path) -> None:
    status, output = invoke(place, "study", "check", str(place / "study.toml"))
    assert status == 0, output
    assert "Up to 1 hostile sites are withstood" in output
    (place / "study.toml").write_text(STUDY.replace("hostile = 1", "hostile = 2"))
    status, output = invoke(place, "study", "check", str(place / "study.toml"))
    assert status != 0
    assert "median with 2 hostile sites needs min_participants of at least 5" in output
