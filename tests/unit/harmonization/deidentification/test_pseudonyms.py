"""Pseudonyms: keyed, unlinkable across studies, and the same whenever they are computed."""

import hashlib
import hmac

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import ClinicalError, ConfigError
from wardround.harmonization import pseudonyms as module
from wardround.harmonization.pseudonyms import checked_key, marks, pseudonym, pseudonyms

KEY = bytes(range(32))
texts = st.text(min_size=0, max_size=20)


def test_a_pseudonym_is_the_stated_construction():
    framed = b"".join(len(one).to_bytes(8, "big") + one for one in (b"wardround pseudonym 1", b"cad-2026", b"MRN7"))
    digest = hmac.new(KEY, framed, hashlib.sha256).digest()
    found = pseudonym(KEY, "cad-2026", "MRN7")
    assert len(found) == 32
    # base32 by hand: 160 bits in groups of five
    bits = "".join(f"{byte:08b}" for byte in digest[:20])
    letters = "abcdefghijklmnopqrstuvwxyz234567"
    assert found == "".join(letters[int(bits[at : at + 5], 2)] for at in range(0, 160, 5))


@given(st.lists(st.tuples(texts, texts), min_size=2, max_size=2, unique=True))
def test_study_and_patient_never_run_together(pair):
    (study, patient), (other_study, other_patient) = pair
    assert pseudonym(KEY, study, patient) != pseudonym(KEY, other_study, other_patient)


def test_another_key_gives_another_pseudonym():
    assert pseudonym(KEY, "s", "p") != pseudonym(KEY[::-1], "s", "p")


def test_a_column_gets_the_same_pseudonyms_one_by_one_and_null_stays_null():
    patients = pa.array(["b", None, "a", "b", ""])
    found = pseudonyms(KEY, "s", patients)
    assert found.to_pylist() == [None if one is None else pseudonym(KEY, "s", one) for one in patients.to_pylist()]
    assert pseudonyms(KEY, "s", pa.chunked_array([patients[:2], patients[2:]])) == found
    assert pseudonyms(KEY, "s", patients.dictionary_encode()) == found
    assert len(pseudonyms(KEY, "s", pa.array([], pa.string()))) == 0


def test_marks_are_a_sorted_set_of_patients_the_same_in_every_study():
    found = marks(KEY, pa.array(["b", "a", None, "b"]))
    assert found.dtype == np.uint64
    assert len(found) == 2
    assert (found == marks(KEY, pa.array(["a", "b"]))).all()
    assert (np.diff(found.astype(object)) > 0).all()
    assert not set(found) & set(marks(KEY[::-1], pa.array(["a", "b"])))


def test_a_mark_says_nothing_of_a_pseudonym():
    framed = b"".join(len(one).to_bytes(8, "big") + one for one in (b"wardround mark 1", b"a"))
    assert int(marks(KEY, pa.array(["a"]))[0]) == int.from_bytes(hmac.digest(KEY, framed, "sha256")[:8], "big")


@pytest.mark.parametrize(
    "secret", ["", "short", "a" * 100, "abc" * 30, "0123456789abcdef" * 2, "0123456789abcdefghijklmnopqrstu"]
)
def test_a_weak_key_is_refused_and_not_shown(secret):
    if len(set(secret)) >= 10 and len(secret) >= 32:
        assert checked_key(secret) == secret.encode()
        return
    with pytest.raises(ConfigError, match="32") as caught:
        checked_key(secret)
    assert not secret or secret not in str(caught.value)


def test_two_patients_with_one_pseudonym_are_refused(monkeypatch):
    monkeypatch.setattr(module, "pseudonym", lambda *_: "same")
    with pytest.raises(ClinicalError, match="two patients"):
        pseudonyms(KEY, "s", pa.array(["a", "b"]))
