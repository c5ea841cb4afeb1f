"""The checklist finds what does not fit its declaration, and never shows a value."""

import pyarrow as pa
import pytest

from wardround.harmonization.deidentify_safe_harbor import IDENTIFIERS, SMALL_ZIP3, Field, safe_harbor, zip3


def field(kind, values, allowed=(), name="x"):
    return Field(name=name, kind=kind, values=pa.array(values), allowed=allowed)


def held(*fields):
    return {line.letter for line in safe_harbor(fields) if not line.clear}


def test_harmless_fields_are_clear_with_their_evidence():
    fields = [
        field("number", [1.5, 250000.0, None], name="glucose"),
        field("age", [17, 90], name="age"),
        field("year", [1999, 2020], name="year"),
        field("days", [-40, 3000], name="since"),
        field("zip3", ["021", "000", None], name="zip"),
        field("category", ["female", None], ("female", "male"), name="sex"),
    ]
    found = safe_harbor(fields)
    assert [line.letter for line in found] == list(IDENTIFIERS)
    assert all(line.clear for line in found)
    assert all(len(line.basis) == len(fields) for line in found)


@pytest.mark.parametrize(
    ("one", "letters"),
    [
        (field("number", [10006579.0, 10006580.0, 10006581.0]), {"R"}),
        (field("age", [17, 91]), {"C"}),
        (field("year", [1961, 19610615]), {"C"}),
        (field("days", [1, 738000]), {"C"}),
        (field("zip3", ["02114"]), {"B"}),
        (field("zip3", ["036"]), {"B"}),
        (field("category", ["male", "O'Brien"], ("male",)), {"R"}),
        (field("category", ["Dr. Smith"], ("Dr. Smith",)), {"A"}),
        (field("code", ["a1b2"]), {"R"}),
        (field("text", ["fever"]), {"A", "B", "R"}),
    ],
    ids=range(10),
)
def test_a_field_that_is_not_what_it_says_is_a_finding(one, letters):
    assert held(one) == letters
    assert held(field("age", [3], name="y"), one) == letters


def test_free_text_is_searched_for_each_identifier():
    assert held(field("text", ["call (555) 555-2004 or a@b.org, http://x.y, 10.1.2.3, 3/4/2020"])) >= set("ABCDEFNOR")


def test_evidence_shows_no_value():
    told = str(safe_harbor([field("text", ["Zyxwvut 5551234"]), field("number", [98765432.0], name="y")]))
    assert "Zyxwvut" not in told
    assert "5551234" not in told
    assert "98765432" not in told


def test_two_fields_of_one_name_are_refused():
    with pytest.raises(ValueError, match="one name"):
        safe_harbor([field("age", [1]), field("age", [2])])


def test_a_postal_code_is_three_digits_or_nothing():
    codes = pa.array(["02114", "02114-1234", "021141234", "03601", "821", "K1A 0B1", "2114", "", None, " 10003 "])
    assert zip3(codes).to_pylist() == ["021", "021", "021", "000", "000", None, None, None, None, "100"]


def test_the_list_has_the_seventeen_of_the_guidance_and_six_of_the_next_census():
    assert len(SMALL_ZIP3) == 23
    assert {"036", "893", "059", "772"} <= SMALL_ZIP3
