"""What a UCUM code measures: its dimension, and its size as an exact fraction of the dimension's base units.

Codes are parsed by the grammar that ``ucumvert`` carries, and sized by the table that the UCUM organization publishes
and ``ucumvert`` ships. Sizes are fractions throughout, so that a conversion is rounded once, at its end.

Medicine tells apart what physics does not. These therefore are dimensions of their own, here:

- amount of substance (UCUM has the mole as a pure number), equivalents and osmoles, which are amounts of something else
- each arbitrary unit: what an international unit weighs depends on the analyte
- becquerel, which is not a heart rate, and sievert, which is not gray
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any, Final

from wardround.errors import ConfigError

__all__ = ["MAX_CODE", "Measure", "measure"]

MAX_CODE: Final = 100
"""A longer unit code is refused unread."""

_MAX_EXPONENT: Final = 64
_OWN_DIMENSION: Final = frozenset({"mol", "eq", "osm", "Bq", "Sv"})
_ICE: Final = Fraction("273.15")
_NOUGHT: Final[Mapping[str, Fraction]] = {  # Where the scale's zero lies, in kelvin.
    "Cel": _ICE,
    "[degF]": _ICE - 32 * Fraction(5, 9),
    "[degRe]": _ICE,
}
_POWERS: Final[Mapping[str, int]] = {
    **{prefix: 3 * step for step, prefix in enumerate("kMGTPEZY", start=1)},
    **{prefix: -3 * step for step, prefix in enumerate("munpfazy", start=1)},
    "h": 2,
    "da": 1,
    "d": -1,
    "c": -2,
}
_PREFIXES: Final[Mapping[str, Fraction]] = {
    **{prefix: Fraction(10) ** power for prefix, power in _POWERS.items()},
    **{prefix: Fraction(1024) ** step for step, prefix in enumerate(("Ki", "Mi", "Gi", "Ti"), start=1)},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What a code measures: ``base = value * factor + offset``.

    Attributes:
        factor: The unit's size in base units.
        offset: The place of its zero; other than 0 only for temperatures.
        dimension: Base units with their exponents, in alphabetical order; empty for a pure number.
        annotations: What stands in braces, in lower case.
        special: On a logarithmic or another curved scale, or a temperature within a product: converts to nothing.
        atoms: The units that the code is written with, each with its prefix.
    """

    factor: Fraction = Fraction(1)
    offset: Fraction = Fraction(0)
    dimension: tuple[tuple[str, int], ...] = ()
    annotations: frozenset[str] = frozenset()
    special: bool = False
    atoms: frozenset[tuple[str, str]] = frozenset()

    def exponent(self, base: str) -> int:
        """Of a base unit in the dimension."""
        return dict(self.dimension).get(base, 0)

    def without(self, *bases: str) -> tuple[tuple[str, int], ...]:
        """The dimension's remainder."""
        return tuple(one for one in self.dimension if one[0] not in bases)


@lru_cache(maxsize=8192)
def measure(code: str) -> Measure | None:
    """What the code measures; None where it is no valid UCUM code.

    Raises:
        ConfigError: The optional packages for units are not installed.
    """
    if not code or len(code) > MAX_CODE or not code.isascii():
        return None
    from lark.exceptions import LarkError

    try:
        return _measured(_parser().parse(code))
    except (LarkError, _UnwantedError):
        return None


class _UnwantedError(Exception):
    """What the grammar lets pass and UCUM does not, or a size that nobody wants to compute."""


@cache
def _parser() -> Any:  # noqa: ANN401, lark's own
    try:
        from ucumvert.parser import get_ucum_parser
    except ImportError:
        raise ConfigError("units need the package ucumvert: install wardround[node]") from None
    return get_ucum_parser()


@cache
def _definitions() -> dict[str, Any]:
    from ucumvert.xml_util import get_units_with_full_definition

    return {one.code_cs: one for one in get_units_with_full_definition()}


def _measured(tree: Any) -> Measure:  # noqa: ANN401
    if not hasattr(tree, "children"):
        return Measure(annotations=frozenset({str(tree)[1:-1].lower()}))
    children = tree.children
    match str(tree.data):
        case "simple_unit":
            return _simple([str(child) for child in children])
        case "annotatable":
            base = _measured(children[0])
            if not base.atoms:  # "10+3": a number has no exponent in UCUM, only the units 10* and 10^ have.
                raise _UnwantedError
            return _power(base, int(children[1]))
        case "component":
            inner, note = _measured(children[0]), _measured(children[1])
            return replace(inner, annotations=inner.annotations | note.annotations)
        case "term":
            left, operator, right = children
            return _product(_measured(left), _measured(right), -1 if str(operator) == "/" else 1)
        case _:  # main_term: one term, perhaps after a solidus
            inner = _measured(children[-1])
            return _product(Measure(), inner, -1) if len(children) > 1 else inner


def _simple(parts: list[str]) -> Measure:
    *prefixes, atom = parts
    if atom.isdecimal():
        return Measure(factor=Fraction(int(atom)))
    found = _atom(atom)
    written = frozenset({("".join(prefixes), atom)})
    if not prefixes:
        return replace(found, atoms=written)
    # A prefixed temperature scale is legal and used by nobody; where its zero would lie is left unsaid.
    special = found.special or found.offset != 0
    return replace(found, factor=found.factor * _PREFIXES[prefixes[0]], special=special, atoms=written)


@cache
def _atom(atom: str) -> Measure:
    if atom in _OWN_DIMENSION:
        return Measure(dimension=((atom, 1),))
    if atom == "REM":
        return Measure(factor=Fraction(1, 100), dimension=(("Sv", 1),))
    definition = _definitions().get(atom)
    if definition is None:  # a base unit: the grammar let nothing else pass
        return Measure(dimension=((atom, 1),))
    if atom in _NOUGHT:
        factor = Fraction(5, {"Cel": 5, "[degF]": 9, "[degRe]": 4}[atom])
        return Measure(factor=factor, offset=_NOUGHT[atom], dimension=(("K", 1),))
    if _flag(definition.is_special):
        return Measure(special=True, dimension=((atom, 1),))
    if _flag(definition.is_arbitrary) and definition.defining_unit == "1":
        return Measure(dimension=((atom, 1),))
    defined = _measured(_parser().parse(definition.defining_unit))
    return replace(
        defined, factor=defined.factor * Fraction(str(definition.conversion_factor)), annotations=frozenset()
    )


def _flag(stated: object) -> bool:
    return stated in {True, "yes"}


def _power(one: Measure, exponent: int) -> Measure:
    if abs(exponent) > _MAX_EXPONENT:
        raise _UnwantedError
    dimension = tuple((base, power * exponent) for base, power in one.dimension)
    special = one.special or (one.offset != 0 and exponent != 1)
    return replace(one, factor=one.factor**exponent, dimension=dimension, special=special)


def _product(left: Measure, right: Measure, sign: int) -> Measure:
    powers = dict(left.dimension)
    for base, power in right.dimension:
        powers[base] = powers.get(base, 0) + sign * power
    if any(abs(power) > _MAX_EXPONENT for power in powers.values()):
        raise _UnwantedError
    return Measure(
        factor=left.factor * right.factor**sign,
        dimension=tuple(sorted((base, power) for base, power in powers.items() if power)),
        annotations=left.annotations | right.annotations,
        special=left.special or right.special or left.offset != 0 or right.offset != 0,
        atoms=left.atoms | right.atoms,
    )
