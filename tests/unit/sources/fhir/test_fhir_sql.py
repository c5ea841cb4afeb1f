"""The SQL back end by itself: what it declines, what it binds, and who has the last word."""

import json

import pytest
from tests.unit.sources.fhir import views

from wardround.sources import fhir_decode, fhir_plan, fhir_run, fhir_sql

pytestmark = views.needs_duckdb


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("birthDate < @2000", "dates or times"),
        ("birthDate.lowBoundary()", "boundaries"),
        ("extension.value.ofType(decimal).first() + 1", "arithmetic with decimals"),
        ("name[%rowIndex].family", "an index that is computed"),
        ("name[-1].family", "an index that is computed or negative"),
        ("(name.use > 'a') xor {}", "a constant beside something that may fail"),
        ("(name.use > 'a') and false", "a constant beside something that may fail"),
        ("name.use + (name.use + 'a') = 'b'", ""),
        ("contact.extension.value.exists()", "a choice in a list"),
    ],
)
def test_what_sql_does_not_have_runs_in_python_and_says_why(path, why):
    assert views.runs_in_sql(views.columns(path)) == (not why)
    runner = fhir_run.ViewRunner(fhir_plan.compile_view(views.columns(path)), object())
    assert why in runner.reason


def test_nothing_of_a_view_is_pasted_into_sql():
    nasty = "x'); DROP TABLE resources; --"
    spelled = nasty.replace("'", "\\'")
    view = views.columns(
        f"name.where(family = '{spelled}').given.join('{spelled}')",
        f"extension('{spelled}').url.first()",
        "%nasty",
        constant=[{"name": "nasty", "valueString": nasty}],
    )
    statement = fhir_sql.statement(fhir_plan.compile_view(view))
    assert "DROP" not in statement.sql
    assert statement.values.count(nasty) == 3  # The constant itself is none of SQL's business.
    resource = {"resourceType": "Patient", "name": [{"family": nasty, "given": ["a", "b"]}]}
    assert views.run(view, [resource], "duckdb") == [{"a": f"a{nasty}b", "b": None, "c": nasty}]


def test_the_database_has_the_last_word_only_when_it_succeeds(monkeypatch):
    plan = fhir_plan.compile_view(views.columns("id"))
    runner = fhir_run.ViewRunner(plan, views.memory_database.open_memory_database())
    monkeypatch.setattr(runner, "_statement", type(runner._statement)("SELECT error(j) FROM resources", ()))
    decoder = fhir_decode.LineDecoder({"Patient": plan.touched}, runner.report)
    batch = fhir_run.Batch([json.dumps(views.ANNA).encode()], [1])
    (table,) = runner.tables(decoder, [batch])
    assert table.to_pylist() == [{"a": "anna"}]
    assert runner.report.batches_in_python == 1


@pytest.mark.parametrize("operator", ["and", "or", "implies", "xor"])
def test_logic_of_conditions_that_could_fail_is_computed_in_sql(operator):
    plan = fhir_plan.compile_view(views.columns(f"(name.family > 'm') {operator} (name.given > 'm')"))
    sides = [{}, {"family": "a"}, {"family": "z"}], [{}, {"given": ["a"]}, {"given": ["z"]}]
    people = [{"resourceType": "Patient", "name": [{**left, **right}]} for left in sides[0] for right in sides[1]]
    report, (by_duckdb,) = views.tables(plan, views.lines(people), "duckdb")
    _, (by_python,) = views.tables(plan, views.lines(people), "python")
    assert by_duckdb == by_python
    assert report.batches_in_python == 0
