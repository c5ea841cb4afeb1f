"""``wardround study check`` of a private plan, as a committee's secretary types it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from wardround.cli.main import wardround

STUDY = """
title = "Illness from age"
purpose = "a test"
legal_basis = "made-up records"
participants = ["east", "north", "west"]
min_participants = 3
expires = 4000000000

[data]
columns = [{ name = "age", unit = "a", minimum = 0, maximum = 100 }]
label = { name = "ill" }
scaling = "bounds"

[model]
name = "logistic"

[training]
rounds = 2
epochs = 0
steps = 2
"""
PRIVATE = """
[privacy]
delta = 1e-4
noise_multiplier = 3.0
sampling_rate = 0.25
"""


def check(folder: Path, *more: str, text: str = STUDY + PRIVATE) -> Result:
    (folder / "study.toml").write_text(text)
    return CliRunner().invoke(wardround, ["study", "check", str(folder / "study.toml"), *more])


def test_the_guarantee_and_what_a_target_takes_are_printed(tmp_path: Path) -> None:
    result = check(tmp_path, "--epsilon", "0.5")
    assert result.exit_code == 0, result.output
    for words in ("Epsilon of the whole plan at every site", "The least grant", "For epsilon 0.5", "at most 9,999"):
        assert words in result.stdout


def test_json_has_the_numbers(tmp_path: Path) -> None:
    result = check(tmp_path, "--json", "--epsilon", "0.5")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["privacy"]["delta"] == 1e-4
    assert 0 < found["privacy"]["tight_epsilon"] < found["privacy"]["epsilon"] <= found["privacy"]["least_grant"]
    assert found["privacy"]["target"]["noise"] > 3.0
    assert found["privacy"]["parts"][0]["mechanism"]["sampling_rate"] == 0.25
    assert found["privacy_words"]
    assert "utility" not in found


def test_the_curve_is_a_file_and_progress_is_told_beside(tmp_path: Path) -> None:
    page = tmp_path / "curve.html"
    result = check(tmp_path, "--json", "--utility", str(page), "--records", "20")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [one["epsilon"] for one in found["utility"]][:2] == [None, 0.5]
    assert "repeat 3 of 3" in result.stderr
    assert "<svg" in page.read_text(encoding="utf-8")


def test_without_privacy_it_says_that_nothing_is_noised(tmp_path: Path) -> None:
    result = check(tmp_path, text=STUDY)
    assert result.exit_code == 0, result.output
    assert "Nothing is noised" in result.stdout
    assert json.loads(check(tmp_path, "--json", text=STUDY).stdout)["privacy"] is None


@pytest.mark.parametrize(
    ("more", "text", "words"),
    [
        (("--epsilon", "1"), STUDY, "no [privacy] section"),
        (("--utility", "curve.html"), STUDY, "needs a plan with a [privacy] section"),
        (("--epsilon", "0"), STUDY + PRIVATE, "above 0"),
        (("--epsilon", "nan"), STUDY + PRIVATE, "finite"),
        (("--utility", "curve.html", "--records", "0"), STUDY + PRIVATE, "at least 1"),
    ],
)
def test_what_makes_no_sense_is_an_error_in_words(
    more: tuple[str, ...], text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = check(tmp_path, *more, text=text)
    assert result.exit_code != 0
    assert words in str(result.exception)
    assert not Path("curve.html").exists()
