"""What a contract needs of a patient's events, and which code serves which need.

A contract's columns, label, cohort, holdout and consent each become a *need*: concepts, a window, an aggregate, a unit
and a plausible range. Needs with the same concepts, unit and range are about one *quantity*, whose events are converted
and judged once. Codes that serve the same quantities are one *atom*, so that an event is told apart once, by a small
number, however many columns it feeds; atom 0 is what nobody asked for.

Only what the contract names, and local codes that a person has confirmed (`translations`), ever gets an atom.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from wardround.clinical import derivation
from wardround.clinical.contract import DataContract
from wardround.clinical.derivation import Derivation, Window
from wardround.errors import CodecError
from wardround.harmonization.events import PATIENT, Scope

__all__ = ["UNWANTED", "Atoms", "Code", "Need", "needs", "quantities"]

Code = tuple[str, str]
"""A code system and a code in it."""

Role = Literal["column", "label", "holdout", "criterion", "index", "birth", "death", "seen", "consent"]

UNWANTED: Final = 0
_NUMERIC: Final = {"first", "last", "min", "max", "mean", "median", "sum", "slope", "value_at"}
_TIMELESS: Final = frozenset({f"{PATIENT}|birth-date", f"{PATIENT}|sex"})
_EVER: Final = Window(from_days=None, to_days=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """One thing to find out about a record; `name` is the column's, the criterion's, or the role's."""

    name: str
    role: Role
    derive: Derivation
    concepts: tuple[str, ...]
    kind: Literal["number", "boolean", "category"] = "number"
    unit: str = "1"
    minimum: float | None = None
    maximum: float | None = None

    @property
    def is_numeric(self) -> bool:
        """Whether the events' numbers count, in the need's unit; elsewhere it is their values, times or number."""
        is_told = self.role in {"column", "label", "criterion"}
        return is_told and self.kind == "number" and self.derive.aggregate in _NUMERIC

    @property
    def window_us(self) -> tuple[int | None, int | None]:
        """The window's ends in microseconds relative to the index, open and closed; birth and sex hold in any."""
        if _TIMELESS.issuperset(self.concepts):
            return None, None
        window = self.derive.window
        end = self.derive.at_days if self.derive.aggregate == "value_at" else window.to_days
        return _micros(window.from_days), _micros(end)


def quantities(wanted: tuple[Need, ...]) -> tuple[list[Need], list[int]]:
    """One need of each quantity, and for every need the number of its quantity."""
    numbers: dict[tuple[object, ...], int] = {}
    first: list[Need] = []
    of = []
    for need in wanted:
        derive = need.derive
        measured = (need.unit, need.minimum, need.maximum, derive.molar_mass, derive.conversions)
        key = (frozenset(need.concepts), need.is_numeric, *(measured if need.is_numeric else ()))
        number = numbers.setdefault(key, len(first))
        if number == len(first):
            first.append(need)
        of.append(number)
    return first, of


def needs(contract: DataContract) -> tuple[Need, ...]:
    """Every need of a contract with a cohort; a need's place in the tuple is its number.

    Raises:
        CodecError: The contract has no cohort, or one of its derivations names no concept.
    """
    cohort, sets = contract.cohort, contract.value_sets
    if cohort is None:
        raise CodecError("this contract has no cohort: its columns are read from a table, not derived from events")

    def need(name: str, role: Role, derive: Derivation | None, **rest: object) -> Need:
        if derive is None:
            raise CodecError(f"column {name!r} is not derived from anything")
        return Need(name=name, role=role, derive=derive, concepts=derivation.concepts(derive.concepts, sets), **rest)  # type: ignore[arg-type]  # the fields of Need

    label = contract.label
    kinds = {"binary": "boolean", "multiclass": "category", "number": "number", "survival": "number"}
    seen = label.derive.window if label.derive else _EVER
    found = [
        need("index", "index", Derivation(concepts=cohort.index, window=_EVER)),
        need("birth", "birth", _fact("birth-date")),
        need("death", "death", _fact("death")),
        need("seen", "seen", _fact("seen", "death", window=seen)),
        *(
            need(
                column.name,
                "column",
                column.derive,
                kind=column.kind,
                unit=column.unit,
                minimum=column.minimum,
                maximum=column.maximum,
            )
            for column in contract.columns
        ),
        need(label.name, "label", label.derive, kind=kinds[label.outcome], unit=label.unit),
        *(need(one.name, "criterion", one.derive, unit=one.unit) for one in cohort.criteria),
    ]
    if contract.holdout_column:
        found.append(need(contract.holdout_column, "holdout", contract.holdout_derive, kind="boolean"))
    if contract.consent:
        found.append(need("consent", "consent", _fact(f"consent:{contract.consent.purpose}"), kind="category"))
    return tuple(found)


class Atoms:
    """Codes told apart by the quantities that they serve.

    Args:
        wanted: The contract's needs.
        translations: A site's confirmed local codes, and what each stands for.
    """

    def __init__(self, wanted: tuple[Need, ...], translations: Mapping[Code, Code]) -> None:
        self._translations = translations
        self._exact: dict[Code, set[int]] = {}
        self._prefixes: list[tuple[str, str, int]] = []
        for place, need in enumerate(quantities(wanted)[0]):
            for concept in need.concepts:
                system, _, code = concept.partition("|")
                if code.endswith("*"):
                    self._prefixes.append((system, code[:-1], place))
                else:
                    self._exact.setdefault((system, code), set()).add(place)
        self._members: list[frozenset[int]] = [frozenset()]
        self._numbers: dict[frozenset[int], int] = {frozenset(): UNWANTED}
        self._known: dict[Code, int] = {}
        for named in (*self._exact, *translations):
            self.of(*named)

    def of(self, system: str, code: str) -> int:
        """The atom of a code, `UNWANTED` where nobody asked for it."""
        known = self._known.get((system, code))
        if known is None:
            served = self._served(system, code)
            if (target := self._translations.get((system, code))) is not None:
                served |= self._served(*target)
            known = self._numbers.setdefault(served, len(self._members))
            if known == len(self._members):
                self._members.append(served)
            if served:
                # What is not wanted is not remembered: a source may have any number of such codes.
                self._known[system, code] = known
        return known

    @property
    def served(self) -> list[frozenset[int]]:
        """For each atom the quantities that it serves, by their numbers."""
        return self._members

    def codes(self) -> dict[Code, int]:
        """Every code that was found to be wanted so far, and its atom."""
        return dict(self._known)

    @property
    def has_prefixes(self) -> bool:
        """Whether some need names a prefix, so that the codes cannot be listed beforehand."""
        return bool(self._prefixes)

    def prefixes(self) -> list[Code]:
        """The systems and beginnings of codes that are wanted by prefix."""
        return sorted({(system, start) for system, start, _ in self._prefixes})

    def scope(self, since_us: int | None = None) -> Scope:
        """What to ask a source for: the codes themselves, prefixes, and the local codes that stand for them."""
        codes: dict[str, set[str]] = {}
        for system, code in self._codes_and_prefixes():
            codes.setdefault(system, set()).add(code)
        return Scope(codes={system: frozenset(found) for system, found in codes.items()}, since_us=since_us)

    def _codes_and_prefixes(self) -> Iterable[Code]:
        yield from (code for code, atom in self._known.items() if atom != UNWANTED)
        yield from ((system, f"{start}*") for system, start in self.prefixes())

    def _served(self, system: str, code: str) -> frozenset[int]:
        by_prefix = {place for of, start, place in self._prefixes if of == system and code.startswith(start)}
        return frozenset(self._exact.get((system, code), ())) | by_prefix


def _fact(*names: str, window: Window = _EVER) -> Derivation:
    return Derivation(concepts=tuple(f"{PATIENT}|{name}" for name in names), window=window)


def _micros(days: float | None) -> int | None:
    return None if days is None else round(days * 86_400_000_000)
