import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.harmonization.suggest.sites import CREATININE, TARGETS, TODAY, events, profiled

from wardround.errors import ConfigError, ConflictError
from wardround.harmonization import confirmations
from wardround.harmonization.confirmations import Codes, Entry, confirm, drifted, load, read, reject, reopened, write
from wardround.harmonization.profile import profile
from wardround.harmonization.suggest_rank import suggest

words = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
entries = st.builds(
    Entry,
    to=st.sampled_from(["", "loinc|2160-0", 'x|"\\\x00\n\x7f', "local:a|b|c"]),
    by=words,
    score=st.none() | st.floats(0, 1),
    confirmed_by=words,
    at=st.none() | st.dates(),
    reopened=words,
)
keys = st.text(string.ascii_letters + ':|."= #]\\\n', max_size=20).map(lambda text: f"local{text}|{text}1")
files = st.builds(Codes, codes=st.dictionaries(keys.filter(lambda key: key.partition("|")[2]), entries, max_size=5))


def agreed(site=None, to=CREATININE.concept):
    site = site or profiled()
    return confirm(Codes(), site, to, by="suggest", score=0.93, confirmed_by="jd", at=TODAY)


@given(files)
def test_what_is_written_is_what_is_read(found):
    assert load(confirmations._text(found)) == found


@given(files)
def test_only_what_a_person_confirmed_translates_and_nothing_else(found):
    translated = confirmations.translations(found)
    allowed = {
        tuple(key.split("|", 1)): tuple(entry.to.split("|", 1))
        for key, entry in found.codes.items()
        if entry.confirmed_by.strip() and entry.at is not None and not entry.reopened and entry.to
    }
    assert translated == allowed


def test_a_suggestion_never_becomes_a_translation_without_a_person():
    site = profiled("Creatinine")
    best = suggest([site], TARGETS)[0].candidates[0]
    assert best.score > 0.9
    proposed = Codes(codes={site.key: Entry(to=best.concept, by="suggest", score=1.0)})
    assert confirmations.translations(proposed) == {}
    assert confirmations.unanswered(proposed, [site]) == [site]
    for nobody in ("", "  ", "\t"):
        with pytest.raises(ConfigError, match="confirmed by somebody"):
            confirm(proposed, site, best.concept, by="suggest", confirmed_by=nobody, at=TODAY)
    found = confirm(proposed, site, best.concept, by="suggest", score=best.score, confirmed_by="jd", at=TODAY)
    assert confirmations.translations(found) == {("local:lab", "1"): ("loinc", "2160-0")}
    assert confirmations.unanswered(found, [site]) == []


@pytest.mark.parametrize("lost", [{"confirmed_by": ""}, {"confirmed_by": " "}, {"at": None}, {"reopened": "drift"}])
def test_an_entry_without_name_or_day_or_reopened_translates_nothing(lost):
    found = agreed()
    changed = {key: msgspec.structs.replace(entry, **lost) for key, entry in found.codes.items()}
    assert confirmations.translations(Codes(codes=changed)) == {}


def test_none_of_them_is_an_answer_that_translates_nothing():
    site = profiled()
    found = reject(Codes(), site, confirmed_by="jd", at=TODAY)
    assert confirmations.translations(found) == {}
    assert confirmations.unanswered(found, [site]) == []
    assert load(confirmations._text(found)).codes[site.key].to == ""


def test_a_file_as_the_documentation_shows_it_is_read():
    found = load(
        "[codes]\n"
        '"local:mimic-lab|50912" = {to = "loinc|2160-0", by = "suggest", score = 0.93, confirmed_by = "jd", '
        "at = 2026-11-20}\n"
        '"local:mimic-lab|50800" = {to = "", confirmed_by = "jd", at = 2026-11-20}\n'
    )
    assert confirmations.translations(found) == {("local:mimic-lab", "50912"): ("loinc", "2160-0")}


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("[codes\n", "codes.toml"),
        ('[codes]\n"a|b" = {to = "loinc|2160-0", secret = "Miller"}', "unknown field"),
        ('[codes]\n"a|b" = {to = "loinc|2160-1"}', "no code of loinc looks so"),
        ('[codes]\n"a|b" = {to = "loinc"}', "no concept"),
        ('[codes]\n"nocode" = {to = ""}', "is no code"),
        ('[codes]\n"a|b" = {to = "x|y", score = 7.0}', "<= 1"),
        ('[codes]\n"a|b" = {to = "x|y", at = "yesterday"}', "date"),
        ('[codes]\n"a|b" = {to = "x|y", fingerprint = "numeric=Miller"}', "fingerprint"),
        ("version = 2\n", "<= 1"),
        ('digest = "0"\n', "no setting"),
        ('[codes]\n"a|b" = {to = "x|y"}\n"a|b" = {to = "x|z"}', "codes.toml"),
    ],
)
def test_a_file_that_is_not_one_is_refused_by_name(text, trouble):
    with pytest.raises(ConfigError, match=trouble) as raised:
        load(text)
    assert "Miller" not in str(raised.value)


def test_a_confirmation_survives_the_disk(tmp_path):
    path = tmp_path / "codes.toml"
    written = write(path, agreed())
    assert read(path) == written
    assert [one.name for one in tmp_path.iterdir()] == ["codes.toml"]
    assert write(path, written).digest == written.digest


def test_a_file_that_somebody_else_replaced_is_not_overwritten(tmp_path):
    path = tmp_path / "codes.toml"
    mine = read(path)
    theirs = write(path, agreed())
    with pytest.raises(ConflictError, match="changed by somebody else"):
        write(path, msgspec.structs.replace(agreed(to=""), digest=mine.digest))
    assert read(path) == theirs
    path.unlink()
    with pytest.raises(ConflictError):
        write(path, theirs)


def test_a_write_that_fails_leaves_the_former_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "codes.toml"
    former = write(path, agreed())

    def full(_handle):
        raise OSError(28, "no space left")

    monkeypatch.setattr(confirmations.os, "fsync", full)
    with pytest.raises(ConfigError, match="cannot be written"):
        write(path, msgspec.structs.replace(agreed(to=""), digest=former.digest))
    assert read(path) == former
    assert [one.name for one in tmp_path.iterdir()] == ["codes.toml"]


def test_a_file_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "codes.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read(path)
    with pytest.raises(ConfigError, match="cannot be"):
        read(tmp_path)
    monkeypatch.setattr(confirmations, "_MOST_BYTES", 1)
    with pytest.raises(ConfigError, match="larger"):
        read(path)


def test_the_same_data_do_not_reopen_an_entry():
    found = agreed(profiled(count=500, seed=1))
    for seed in range(2, 12):
        again = reopened(found, [profiled(count=500, seed=seed, first_row=9000)])
        assert confirmations.translations(again)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"median": 88.4}, "median has moved"),
        ({"unit": "umol/L", "median": 88.4}, "unit 'umol/L' is new"),
        ({"unit": None}, "without a unit are new"),
        ({"count": 20, "texts": tuple(str(n) for n in range(200))}, "are numbers"),
    ],
)
def test_data_that_look_different_reopen_an_entry_until_somebody_confirms_it_again(changed, why):
    found, later = agreed(), profiled(**changed)
    again = reopened(found, [later])
    assert why in again.codes[later.key].reopened
    assert confirmations.translations(again) == {}
    assert confirmations.unanswered(again, [later]) == [later]
    assert confirmations.translations(load(confirmations._text(again))) == {}
    anew = confirm(again, later, CREATININE.concept, by="person", confirmed_by="jd", at=TODAY)
    assert confirmations.translations(reopened(anew, [later]))


def test_a_spread_that_changes_reopens_an_entry():
    entry = agreed(profile([events(), events(seed=5, first_row=900)])[0]).codes["local:lab|1"]
    wide = profile([events(median=0.2), events(median=1.0, first_row=900), events(median=5.0, first_row=1900)])[0]
    assert "spread has changed" in drifted(entry, wide)


def test_a_new_unit_counts_from_one_in_a_hundred_rows():
    entry = agreed(profiled(count=2000)).codes["local:lab|1"]

    def with_others(count):
        return profile([events(count=2000), events(count=count, unit="g/L", first_row=9000)])[0]

    assert drifted(entry, with_others(4)) == ""
    assert "unit 'g/L' is new" in drifted(entry, with_others(40))


def test_new_codes_are_unanswered():
    known, new = profiled(), profiled(code="2")
    assert confirmations.unanswered(agreed(known), [known, new]) == [new]


def test_a_fingerprint_of_few_records_holds_no_quantile():
    few, many = (confirmations.fingerprint(profiled(count=count)) for count in (99, 100))
    assert few == "numeric=1.00 rows=99 mg/dL:99:"
    assert many.count("/") == 1 + 2


@given(st.text(max_size=12))
def test_any_spelling_of_a_unit_survives_the_fingerprint(unit):
    site = profiled(unit=unit)
    assert drifted(agreed(site).codes[site.key], site) == ""
    numeric, units = confirmations._parsed(confirmations.fingerprint(site))
    assert numeric == 1.0
    assert set(units) == {unit}
