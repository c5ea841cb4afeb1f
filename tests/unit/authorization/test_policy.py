"""A policy that cannot be put in force is refused when it is loaded, and the error says where it is wrong."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.authorization import shipped
from wardround.authorization.statement import statements
from wardround.errors import ConfigError

HEAD = '@id("a") @says("B.")\n'


def refused(cedar):
    with pytest.raises(ConfigError) as caught:
        shipped.site(cedar)
    return str(caught.value)


@pytest.mark.parametrize(
    ("cedar", "line", "column", "words"),
    [
        ("permit (principal, action", 1, 20, "ends within a policy"),
        (HEAD + "permit (principal, action, resource)", 2, 36, "ends within a policy"),
        (HEAD + "permit (principal, action, resource) when { context.mfa && };", 2, 60, "unexpected token"),
        (HEAD + "permit principal, action, resource);", 2, 8, "unexpected token"),
        (HEAD + "prmit (principal, action, resource);", 2, 1, "prmit"),
        (HEAD + "permit (principal, action, resource) whn { true };", 2, 38, "whn"),
        (HEAD + "permit (principal, action, resource) when { context.mfa = true };", 2, 57, "'='"),
        (HEAD + "permit (principal, action, resource) when { context.colour };", 2, 53, "colour"),
        (HEAD + "permit (principal, action, resource) when { context.purpose == 3 };", 2, 53, "purpose"),
        (HEAD + 'permit (principal, action == Action::"dance", resource);', 2, 38, "dance"),
        (HEAD + 'permit (principal in Role::"king", action, resource);', 2, 28, "king"),
        (HEAD + "permit (principal, action, resource is Castle);", 2, 40, "Castle"),
        ("// why\n\n" + HEAD + "permit (principal, action, resource) when { context.auth_age };", 3, 1, "Bool"),
        ("permit (principal, action, resource);", 1, 1, "needs a name"),
        ('@id("A b") @says("x") permit (principal, action, resource);', 1, 1, "needs a name"),
        ('@id("a") permit (principal, action, resource);', 1, 1, "must say"),
        ('@id("a") @says(" ") permit (principal, action, resource);', 1, 1, "must say"),
        (f'@id("a") @says("{"x" * 301}") permit (principal, action, resource);', 1, 1, "must say"),
        ('@id("a") @says("\\u{1b}[2J") permit (principal, action, resource);', 1, 1, "must say"),
        ('@id("a") @says("b") @owner("c") permit (principal, action, resource);', 1, 1, "@owner"),
        ('@id("a") @says("b") @asks("step-up") permit (principal, action, resource);', 1, 1, "stands on a forbid"),
        (HEAD + "permit (principal == ?principal, action, resource);", 1, 1, "template"),
        ('@id("fresh-login") @says("b") forbid (principal, action, resource);', 1, 1, "shipped site.cedar already"),
        (2 * (HEAD + "permit (principal, action, resource);\n"), 3, 1, "policy.cedar already"),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_column(cedar, line, column, words):
    error = refused(cedar)
    assert error.startswith(f"policy.cedar, line {line}, column {column}: "), error
    assert words in error


def test_an_optional_circumstance_must_be_asked_for_before_it_is_looked_at():
    assert "optional attribute `purpose`" in refused(
        HEAD + 'permit (principal, action, resource) when { context.purpose == "cancer" };'
    )
    shipped.site(HEAD + 'permit (principal, action, resource) when { context has purpose && context.purpose == "c" };')


@pytest.mark.parametrize(
    "inner",
    [
        "(" * 30 + "true" + ")" * 30,
        "(" * 5000,
        "[" * 5000 + "1",
        "{a: " * 5000,
        " && ".join(["true"] * 200),
        " || ".join(["true"] * 5000),
        "context" + ".a" * 5000,
        'context["a"]' * 5000,
        "if true then true else " * 5000 + "true",
        "!" * 5000 + "true",
        '"' + "(" * 5000,
        '"\n"' + "(" * 5000,
        '"\\\n"' + "(" * 5000,
        "// \r" + "(" * 5000,
        "// \r" + "(" * 5000 + "true" + ")" * 5000 + "\n",
        "(" * 5000 + "true" + ")" * 5000,
        " && ".join(["true"] * 1900),
        '"// " == ' + "(" * 5000,
        "x" * 300_000,
        "1 + " * 100_000,
    ],
)
def test_text_that_would_end_cedars_parser_and_this_process_is_refused_before_it(inner):
    assert refused(HEAD + "permit (principal, action, resource) when { " + inner + " };")


@settings(max_examples=50)
@given(st.text(alphabet='permit(){}[];"\\@/ \n\r:=!&|.,context_mfa0123é\x00\ud800', max_size=120))
def test_any_text_is_put_in_force_or_refused(text):
    with contextlib.suppress(ConfigError):
        shipped.site(text)


@settings(max_examples=40)
@given(st.data())
def test_any_cut_of_the_shipped_policies_is_put_in_force_or_refused(data):
    text = shipped.text("hub.cedar").replace('@id("', '@id("own-')
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(len(text), start + 600)))
    with contextlib.suppress(ConfigError):
        shipped.hub(text[start:stop])


def test_a_text_is_cut_into_its_policies_wherever_semicolons_stand():
    text = (
        'permit(principal, action, resource) when { "a;b" == ";" }; // not ; here\nforbid(principal, action, resource);'
    )
    found = statements(text, "x")
    assert [one.tokens[0].text for one in found] == ["permit", "forbid"]
    assert (found[1].tokens[0].line, found[1].tokens[0].column) == (2, 1)


def test_bounds_on_number_and_size():
    many = "".join(f'@id("p{i}") @says("x") forbid (principal, action, resource);\n' for i in range(513))
    assert "more than 512 policies" in refused(many)
    assert "too large" in refused("// " + "x" * 300_000)


@pytest.mark.parametrize("where", ["hub", "site"])
def test_every_shipped_policy_says_what_it_means(where):
    policies = getattr(shipped, where)().policies.by_id.values()
    assert len(policies) > 10
    for policy in policies:
        assert policy.says.endswith(".")
        assert policy.says[0].isupper()
