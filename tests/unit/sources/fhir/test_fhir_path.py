"""FHIRPath's grammar: precedence, literals, and errors that say where."""

import contextlib
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import ConfigError
from wardround.sources import fhir_path
from wardround.sources.fhir_elements import Kind
from wardround.sources.fhir_path import Call, Constant, Indexed, Literal, Member, Operation, Sign, This


def shown(node):
    """A tree with brackets everywhere."""
    match node:
        case Literal(_, value):
            return repr(value)
        case Constant(name):
            return f"%{name}"
        case This():
            return "$this"
        case Member(source, name):
            return name if source is None else f"{shown(source)}.{name}"
        case Call(source, name, arguments):
            call = f"{name}({', '.join(map(shown, arguments))})"
            return call if source is None else f"{shown(source)}.{call}"
        case Indexed(source, index):
            return f"{shown(source)}[{shown(index)}]"
        case Operation(operator, left, right):
            return f"({shown(left)} {operator} {shown(right)})"
        case Sign(operand):
            return f"(-{shown(operand)})"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("a or b and c", "(a or (b and c))"),
        ("a implies b or c", "(a implies (b or c))"),
        ("a = b < c", "(a = (b < c))"),
        ("a and b = 1 + 2 * 3", "(a and (b = (1 + (2 * 3))))"),
        ("1 - 2 - 3", "((1 - 2) - 3)"),
        ("-120.highBoundary(2)", "(-120.highBoundary(2))"),
        ("- -1", "(-(-1))"),
        ("+1", "1"),
        ("(a or b) and c", "((a or b) and c)"),
        ("name[0].given[%n]", "name[0].given[%n]"),
        ("name.where($this.use='official').family", "name.where(($this.use = 'official')).family"),
        ("`div`.`a b`", "div.a b"),
        ("a /* one */ . b // two", "a.b"),
        ("%`x y` = %'z'", "(%x y = %z)"),
        ("{}.exists()", "None.exists()"),
    ],
)
def test_precedence_is_that_of_the_grammar(path, meant):
    assert shown(fhir_path.parse(path)) == meant


@pytest.mark.parametrize(
    ("path", "kind", "value"),
    [
        ("'it\\'s \\u00e9\\n'", Kind.TEXT, "it's é\n"),
        ("12", Kind.INTEGER, 12),
        ("1.50", Kind.DECIMAL, Decimal("1.50")),
        ("true", Kind.BOOLEAN, True),
        ("@2015-02", Kind.DATE, "2015-02"),
        ("@2015-02-04T14:34:28.5+09:00", Kind.DATETIME, "2015-02-04T14:34:28.5+09:00"),
        ("@2015T", Kind.DATETIME, "2015"),
        ("@T14:30", Kind.TIME, "14:30"),
        ("{}", Kind.NOTHING, None),
    ],
)
def test_literals(path, kind, value):
    assert fhir_path.parse(path) == Literal(kind, value, 0)


@pytest.mark.parametrize(
    ("path", "place", "problem"),
    [
        ("", 1, "a term was expected, not 'the end'"),
        ("@@", 1, "'@' begins nothing"),
        ("a.", 3, "an element or a function was expected"),
        ("a b", 3, "'b' was not expected"),
        ("a.where(b", 10, "')' was expected"),
        ("a[0", 4, "']' was expected"),
        ("a = 'b", 5, '"\'" begins nothing'),
        ("'\\q'", 1, "no such escape"),
        ("'\\ud800'", 1, "surrogate"),
        ("a is b", 3, "the operator 'is' is not in the subset"),
        ("a | b", 3, "the operator '|' is not in the subset"),
        ("a in b", 3, "the operator 'in' is not in the subset"),
        ("$index", 1, "a term was expected"),
        ("a.b and", 8, "a term was expected"),
        ("4 'mg'", 3, "was not expected"),
    ],
)
def test_an_error_says_where_and_what(path, place, problem):
    with pytest.raises(ConfigError, match=r"^FHIRPath, character") as caught:
        fhir_path.parse(path)
    assert f"character {place} of" in str(caught.value)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "path",
    ["(" * 60 + "a" + ")" * 60, "-" * 4000 + "1", "a" * 5000, ".".join(["a"] * 200), " and ".join(["a"] * 200)],
)
def test_what_no_person_wrote_is_refused(path):
    with pytest.raises(ConfigError):
        fhir_path.parse(path)


@given(st.text(alphabet="abn.()[]{}'`%$@T0123456789-+*/=<>!&|,: \\u\n", max_size=60))
def test_garbage_raises_the_one_error_or_parses(path):
    with contextlib.suppress(ConfigError):
        fhir_path.parse(path)
