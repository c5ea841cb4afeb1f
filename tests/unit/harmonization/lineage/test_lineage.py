"""Lineage: equal tensors have one digest, any change another, a chain shows every alteration, no value gets in."""

import hashlib
import hmac

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from wardround.codec import canonical
from wardround.errors import ClinicalError, CodecError, DigestMismatchError
from wardround.harmonization import lineage, lineage_fhir, lineage_openlineage, lineage_prov
from wardround.harmonization.events import SourceReport
from wardround.harmonization.lineage import Confirmation, FeatureLineage, LineageRecord, SourceLineage

A, B, C, D, E = (letter * 64 for letter in "abcde")
EXPORTS = (lineage_prov.write, lineage_openlineage.write, lineage_fhir.write)
reasons = st.sampled_from(["malformed line", "unknown unit", "entered in error", "outside 24 h"])
counts = st.dictionaries(reasons, st.integers(0, 10**6), max_size=3)


def record(**changes):
    fields = {
        "site": "hosp-b",
        "study": A,
        "contract": B,
        "mapping": C,
        "plan": D,
        "engine": "duckdb 2.0.0",
        "sql": ("SELECT 1",),
        "sources": (SourceLineage(name="lims", read=9, events=7, refused={"malformed line": 2}, snapshot={"file": E}),),
        "features": (FeatureLineage(name="sbp_last", rows=9, mapped=8, converted=7, dropped={"status": 1}, records=5),),
        "confirmations": (Confirmation(local="local:lab|1", concept="loinc|2160-0", by="jd", at="2026-11-20"),),
        "terminology": {"loinc": "2.81"},
        "packages": {"numpy": "2.4.0"},
        "records": 5,
        "tensor": E,
        "at": "2026-11-21T10:00:00Z",
    }
    return LineageRecord(**{**fields, **changes})


def chain(length):
    before, lines = lineage.FIRST, []
    for number in range(length):
        lines.append(lineage.encode(record(records=number, previous=before)))
        before = canonical.digest(lines[-1])
    return lines


numbers = st.floats(width=32, allow_nan=True) | st.sampled_from([0.0, -0.0, float("nan"), 1.0])
tensors = st.tuples(st.integers(0, 5), st.integers(1, 5)).flatmap(
    lambda shape: st.tuples(
        arrays.arrays(np.float32, shape, elements=numbers),
        arrays.arrays(np.float32, shape[0], elements=numbers),
        arrays.arrays(np.bool_, shape[0]),
    )
)


def digest(tensor, **changes):
    features, labels, held_out = tensor
    return lineage.tensor_digest(
        features, [f"f{place}" for place in range(features.shape[1])], labels, held_out, **changes
    )


@given(tensor=tensors)
def test_the_same_arrays_however_they_lie_in_memory_have_one_digest(tensor):
    features, labels, held_out = tensor
    twice = np.repeat(np.asfortranarray(features), 2, axis=0)[::2]
    assert digest((twice, labels.copy(), held_out.copy())) == digest(tensor)
    assert len(digest(tensor)) == 64


@given(tensor=tensors)
def test_numbers_that_compare_equal_and_missing_ones_are_the_same_to_every_engine(tensor):
    features, labels, held_out = (one.copy() for one in tensor)
    features[features == 0] = -0.0
    features[np.isnan(features)] = np.uint32(0xFFC01234).view(np.float32)
    assert digest((features, labels, held_out)) == digest(tensor)


@given(tensor=tensors, other=tensors)
def test_two_tensors_have_one_digest_only_if_they_are_equal(tensor, other):
    same = all(
        one.shape == two.shape and np.array_equal(one, two, equal_nan=one.dtype != np.bool_)
        for one, two in zip(tensor, other, strict=True)
    )
    assert (digest(tensor) == digest(other)) == same


@given(tensor=tensors.filter(lambda one: len(one[1])), data=st.data())
def test_any_change_of_a_cell_is_seen(tensor, data):
    features, labels, held_out = (one.copy() for one in tensor)
    place = data.draw(st.integers(0, len(labels) - 1))
    match data.draw(st.sampled_from(["feature", "label", "held out"])):
        case "feature":
            features[place, -1] = 2.0 if features[place, -1] != 2.0 else 3.0
        case "label":
            labels[place] = 2.0 if labels[place] != 2.0 else 3.0
        case _:
            held_out[place] = not held_out[place]
    assert digest((features, labels, held_out)) != digest(tensor)


def test_names_order_patients_and_key_count():
    features = np.arange(6, dtype=np.float32).reshape(3, 2)
    labels, held_out = np.zeros(3, np.float32), np.zeros(3, np.bool_)
    patients = np.arange(3, dtype=np.int32)
    found = {
        lineage.tensor_digest(features, ["a", "b"], labels, held_out),
        lineage.tensor_digest(features, ["b", "a"], labels, held_out),
        lineage.tensor_digest(features[:, ::-1], ["a", "b"], labels, held_out),
        lineage.tensor_digest(features[::-1], ["a", "b"], labels, held_out),
        lineage.tensor_digest(features, ["a", "b"], labels, held_out, patients=patients),
        lineage.tensor_digest(features, ["a", "b"], labels, held_out, key=b"site"),
        lineage.tensor_digest(features, ["a", "b"], np.zeros((3, 2), np.float32), held_out),
    }
    assert len(found) == 7
    column = labels.reshape(3, 1)
    assert lineage.tensor_digest(features, ["a", "b"], column, held_out) in found


def test_the_root_is_that_of_the_construction_written_out():
    features = np.array([[1.0, 2.0]], dtype=np.float32)
    cells = (("feature", "a", "<f4", features[:, 0]), ("feature", "b", "<f4", features[:, 1]))
    cells += (("label", "0", "<f4", np.zeros(1, "<f4")), ("held out", "", "|u1", np.ones(1, "|u1")))
    leaves = [
        f'{{"dtype":"{dtype}","name":"{name}","records":1,"role":"{role}"}}\n'.encode() + array.tobytes()
        for role, name, dtype, array in cells
    ]

    def mac(data):
        return hmac.new(b"k", data, hashlib.sha256).digest()

    a, b, c, d = (mac(b"\0" + leaf) for leaf in leaves)
    root = mac(b"\1" + mac(b"\1" + a + b) + mac(b"\1" + c + d)).hex()
    assert lineage.tensor_digest(features, ["a", "b"], np.zeros(1, np.float32), np.ones(1, np.bool_), key=b"k") == root


def test_arrays_that_do_not_fit_are_refused():
    good = (np.zeros((2, 1), np.float32), np.zeros(2, np.float32), np.zeros(2, np.bool_))
    for bad in (
        (good[0].astype(np.float64), *good[1:]),
        (good[0], good[1][:1], good[2]),
        (good[0], good[1], good[2].astype(np.uint8)),
        (good[0][:1], good[1], good[2]),
    ):
        with pytest.raises(ValueError, match="features"):
            digest(bad)


@given(refused=counts, noted=counts, dropped=counts, read=st.integers(0, 10**9))
def test_a_record_reads_back_and_has_one_spelling(refused, noted, dropped, read):
    report = SourceReport("lims", read=read, refused=refused, noted=noted, snapshot={"z": "1", "a": "2"})
    one = record(sources=(lineage.of_source(report),), features=(FeatureLineage(name="x", dropped=dropped),))
    data = lineage.encode(one)
    assert lineage.decode(data) == one
    assert lineage.encode(lineage.decode(data)) == data
    turned = msgspec.structs.replace(one, packages=dict(reversed(list(one.packages.items()))))
    assert lineage.encode(turned) == data


@pytest.mark.parametrize(
    "changes",
    [
        {"tensor": "short"},
        {"contract": "A" * 64},
        {"at": "yesterday"},
        {"at": "2026-11-21T10:00:00+01:00"},
        {"records": -1},
        {"left_out": {"k": -1}},
        {"previous": ""},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_record_with_something_that_is_none_is_not_written(changes):
    with pytest.raises(ClinicalError, match="none"):
        lineage.encode(record(**changes))


@given(value=st.integers(10**5, 10**12).map(str) | st.text(min_size=121), where=st.sampled_from(range(4)))
def test_a_value_that_a_reason_quotes_is_refused(value, where):
    counts = {f"no such patient {value}": 1}
    one = [
        record(sources=(SourceLineage(name="lims", refused=counts),)),
        record(sources=(SourceLineage(name="lims", noted=counts),)),
        record(features=(FeatureLineage(name="sbp", dropped=counts),)),
        record(left_out=counts),
    ][where]
    with pytest.raises((ClinicalError, CodecError)) as raised:
        lineage.encode(one)
    assert value not in str(raised.value)


def test_what_a_source_quotes_is_counted_under_another_name():
    report = SourceReport("lims", refused={"malformed line": 2, "no patient 1234567": 3, "bad\nline": 4})
    kept = lineage.of_source(report)
    assert kept.refused == {"malformed line": 2, "a reason that may hold a value": 7}
    assert b"1234567" not in lineage.encode(record(sources=(kept,)))


@given(values=st.lists(st.integers(10**6, 10**7), min_size=1, max_size=6))
def test_no_planted_value_is_in_a_record_or_an_export(values):
    features = np.array(values, dtype=np.float32).reshape(-1, 1)
    tensor = lineage.tensor_digest(features, ["mrn"], features[:, 0], np.zeros(len(values), np.bool_), key=b"site")
    report = SourceReport("lims")
    for value in values:
        report.refuse("value unparseable")
        report.note("bound only")
        report.read += value % 2
    one = record(sources=(lineage.of_source(report),), records=len(values), tensor=tensor)
    for data in (lineage.encode(one), *(export(one) for export in EXPORTS)):
        text = data.decode().replace(tensor, "").replace(canonical.digest(lineage.encode(one)), "")
        assert not any(str(value) in text for value in values)


def test_a_whole_chain_is_followed_to_its_last_record():
    lines = chain(4)
    assert lineage.check_chain(lines) == canonical.digest(lines[-1])
    assert lineage.check_chain([]) == lineage.FIRST
    assert lineage.check_chain(lines[2:], after=canonical.digest(lines[1])) == canonical.digest(lines[-1])


@given(data=st.data())
def test_whatever_is_altered_removed_or_moved_breaks_the_chain(data):
    lines = chain(4)
    place = data.draw(st.integers(0, 2))
    match data.draw(st.sampled_from(["altered", "removed", "moved", "repeated", "garbled"])):
        case "altered":
            lines[place] = lines[place].replace(b"hosp-b", b"hosp-c")
        case "removed":
            del lines[place]
        case "moved":
            lines[place], lines[place + 1] = lines[place + 1], lines[place]
        case "repeated":
            lines.insert(place, lines[place])
        case _:
            lines[place] = lines[place][1:]
    with pytest.raises(DigestMismatchError):
        lineage.check_chain(lines)


def test_packages_that_are_not_installed_have_no_version():
    found = lineage.packages(["numpy", "no-such-package-at-all"])
    assert found["numpy"] == np.__version__
    assert found["no-such-package-at-all"] == ""


def test_a_record_that_is_too_large_is_refused():
    with pytest.raises(ClinicalError, match="shorten"):
        lineage.encode(record(sql=("x" * canonical.MAX_DOCUMENT_BYTES,)))
