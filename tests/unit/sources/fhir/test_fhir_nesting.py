"""How rows come about: forEach, forEachOrNull, repeat and unionAll in one another, %rowIndex, where, collections."""

import pytest
from tests.unit.sources.fhir import views

from wardround.errors import ClinicalError
from wardround.sources import fhir_plan

ITEMS = {"column": [views.named("i", "%rowIndex"), views.named("v", "value")]}


@views.both
def test_row_index_counts_at_each_level_of_its_own(backend):
    view = {
        "resource": "Patient",
        "select": [
            {"column": [views.named("id", "id"), views.named("top", "%rowIndex")]},
            {
                "forEach": "contact",
                "column": [views.named("c", "%rowIndex")],
                "unionAll": [
                    {"forEach": "telecom", **ITEMS},
                    {"column": [views.named("i", "%rowIndex"), views.named("v", "name.family")]},
                ],
            },
        ],
    }
    rows = [list(row.values())[1:] for row in views.run(view, [views.ANNA], backend)]
    assert rows == [
        [0, 0, 0, "1"],
        [0, 0, 1, "2"],
        [0, 0, 0, "C1"],
        [0, 1, 0, "3"],
        [0, 1, 1, "C2"],
        [0, 2, 2, "C3"],
    ]


@views.both
def test_the_blank_row_is_null_but_for_row_index(backend):
    view = {
        "resource": "Patient",
        "select": [
            {"column": [views.named("id", "id")]},
            {
                "forEachOrNull": "contact",
                "column": [
                    views.named("i", "%rowIndex"),
                    views.named("two", "%rowIndex + 2"),
                    views.named("lit", "'x'"),
                ],
                "select": [
                    {"forEach": "telecom", "column": [views.named("v", "value"), views.named("e", "value.exists()")]},
                    {"column": [views.named("all", "telecom.value", collection=True)]},
                ],
                "unionAll": [{"column": [views.named("u", "'1'")]}, {"column": [views.named("u", "'2'")]}],
            },
        ],
    }
    rows = views.run(view, [views.BARE, views.ANNA], backend)
    blank = {"id": "bare", "i": 0, "two": 2, "lit": None, "v": None, "e": None, "all": None, "u": None}
    assert rows[0] == blank
    assert [(row["v"], row["all"], row["u"]) for row in rows[1:]] == [
        (value, every, union) for value, every in [("1", ["1", "2"]), ("2", ["1", "2"]), ("3", ["3"])] for union in "12"
    ]


@views.both
def test_siblings_are_joined_crosswise_and_unions_nest(backend):
    view = {
        "resource": "Patient",
        "select": [
            {"forEach": "name", "column": [views.named("n", "use")]},
            {
                "unionAll": [
                    {
                        "select": [
                            {
                                "unionAll": [
                                    {
                                        "forEach": "contact.where(telecom.exists())",
                                        "column": [views.named("x", "name.family")],
                                    },
                                    {"forEachOrNull": "photo", "column": [views.named("x", "title")]},
                                ]
                            }
                        ]
                    },
                    {"forEach": "photo", "column": [views.named("x", "title")]},
                    {"column": [views.named("x", "id")]},
                ]
            },
        ],
    }
    rows = [tuple(row.values()) for row in views.run(view, [views.ANNA, views.BARE], backend)]
    assert rows == [(use, x) for use in ("official", "usual") for x in ("C1", "C2", None, "anna")]


@views.both
def test_a_sibling_without_items_leaves_no_row_and_no_error(backend):
    view = {
        "resource": "Patient",
        "select": [
            {"column": [views.named("many", "name.given")]},  # several values, but of no row
            {"forEach": "photo", "column": [views.named("t", "title")]},
        ],
    }
    assert views.run(view, [views.ANNA], backend) == []


FORM = {
    "resourceType": "QuestionnaireResponse",
    "id": "qr",
    "item": [
        {
            "linkId": "1",
            "item": [
                {
                    "linkId": "1.1",
                    "answer": [{"valueString": "A", "item": [{"linkId": "1.1.1"}]}],
                },
                {"linkId": "1.2", "item": [{"linkId": "1.2.1", "item": ["wrong", {"linkId": 5}]}]},
            ],
        },
        {"linkId": "2"},
    ],
}


def repeated(paths, *columns, **more):
    chosen = columns or (views.named("l", "linkId"), views.named("i", "%rowIndex"))
    return {"resource": "QuestionnaireResponse", "select": [{"repeat": paths, "column": list(chosen), **more}]}


@views.both
def test_repeat_finds_parents_before_children(backend):
    rows = [tuple(row.values()) for row in views.run(repeated(["item"]), [FORM], backend)]
    assert rows == [("1", 0), ("1.1", 1), ("1.2", 2), ("1.2.1", 3), (None, 4), ("2", 5)]
    both = views.run(repeated(["item", "answer.item"], views.named("l", "linkId")), [FORM], backend)
    assert [row["l"] for row in both] == ["1", "1.1", "1.1.1", "1.2", "1.2.1", None, "2"]


@views.both
def test_repeat_with_more_inside(backend):
    each = {"forEachOrNull": "answer", "column": [views.named("a", "value.ofType(string)")]}
    rows = views.run(repeated(["item"], views.named("l", "linkId"), select=[each]), [FORM], backend)
    assert [tuple(row.values()) for row in rows][:3] == [("1", None), ("1.1", "A"), ("1.2", None)]
    assert views.run(repeated(["item"]), [{"resourceType": "QuestionnaireResponse", "id": "e"}], backend) == []
    union = {
        "resource": "QuestionnaireResponse",
        "select": [
            {
                "unionAll": [
                    {"repeat": ["item"], "column": [views.named("l", "linkId")]},
                    {"forEach": "item", "column": [views.named("l", "linkId")]},
                ]
            }
        ],
    }
    assert [row["l"] for row in views.run(union, [FORM], backend)] == ["1", "1.1", "1.2", "1.2.1", None, "2", "1", "2"]


@views.both
def test_repeat_over_what_the_type_does_not_have_is_empty_if_allowed(backend):
    view = repeated(["jurisdiction"], views.named("c", "coding.code"))
    assert views.run(view, [FORM], backend, allow_unknown=True) == []
    assert fhir_plan.compile_view(view, allow_unknown=True).unknown == ("QuestionnaireResponse.jurisdiction",)


@views.both
def test_a_collection_is_a_list_and_a_single_value_too(backend):
    view = {
        "resource": "Patient",
        "select": [
            {
                "column": [
                    views.named("g", "name.given", collection=True),
                    views.named("id", "id", collection=True),
                    views.named("none", "photo.title", collection=True),
                    views.named("n", "extension.value.ofType(decimal)", collection=True),
                    views.named("eq", "name.given = 'x'", collection=True),
                ]
            }
        ],
    }
    assert views.run(view, [views.ANNA, views.BARE], backend) == [
        {"g": ["Anna", "Bea", "Nan"], "id": ["anna"], "none": [], "n": [], "eq": [False]},
        {"g": [], "id": ["bare"], "none": [], "n": [], "eq": []},
    ]


@views.both
def test_conditions_are_read_in_order_and_must_all_be_true(backend):
    guarded = views.columns("id", where=[{"path": "name.exists()"}, {"path": "name.family = 'Ahl'"}])
    assert views.run(guarded, [views.ANNA, views.BARE], backend) == [{"a": "anna"}]
    nothing = views.columns("id", where=[{"path": "{}"}])
    assert views.run(nothing, [views.ANNA, views.BARE], backend) == []


@views.both
def test_a_decided_condition_spares_the_other_side(backend):
    spared = "name.empty() or name.where(given = 'x').exists() or name.given.first().exists()"
    assert views.values(spared, views.ANNA, backend) is True
    for path in ("(gender = 'male') and (name.given > 'a')", "(gender = 'female') or (name.given > 'a')"):
        assert views.values(path, views.ANNA, backend) is ("or" in path)
    for path in ("(gender = 'female') and (name.given > 'a')", "(name.given > 'a') or (gender = 'female')"):
        with pytest.raises(ClinicalError, match="a resource has 3 values where one belongs"):
            views.values(path, views.ANNA, backend)
