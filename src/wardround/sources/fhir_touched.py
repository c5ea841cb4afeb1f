"""The part of a resource that a view touches: which fields, of which shape, and nothing else.

A view of six columns reads perhaps ten of a resource's hundred values. `Field` is the tree of these; from
it come the structure that DuckDB reads, `checked_type`, which says whether all of it has the shape that R4 gives it, as
almost always it has, and `conform`, which drops what has not (a text where a number belongs, one object where a list
does). Both back ends see a resource through the same tree, so a malformed value is missing in both, and counted.

A field that repeats within itself (``repeat``) is its own descendant.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Final

import msgspec

from wardround.sources import fhir_elements
from wardround.sources.fhir_elements import Kind
from wardround.sources.fhir_term import (
    Boundary,
    First,
    Focus,
    Index,
    ReferenceKey,
    Single,
    Step,
    Term,
    Where,
    children,
)
from wardround.sources.fhir_typing import MAX_INTEGER

__all__ = ["Field", "checked_type", "conform", "needs_conforming", "root", "touch"]


@dataclass(slots=True, eq=False)
class Field:
    """One JSON field: a value or, with `many`, a list of them.

    `gaps`: the list may hold nulls. `whole`: everything inside is wanted. `precise`: the digits of a
    number matter, not only its value. `recursive`: the field contains itself.
    """

    kind: Kind
    many: bool = False
    gaps: bool = False
    whole: bool = False
    precise: bool = False
    recursive: bool = False
    owner: "Field | None" = None
    key: str = ""
    inside: "dict[str, Field]" = field(default_factory=dict)

    def add(self, key: str, kind: Kind, *, many: bool = False, gaps: bool = False) -> "Field":
        """The field `key` in this one, entered if it was not there."""
        if key not in self.inside:
            self.inside[key] = Field(kind, many, gaps, owner=self, key=key)
        return self.inside[key]


_LEAVES: Final[dict[Kind, Any]] = {
    Kind.BOOLEAN: bool,
    Kind.INTEGER: Annotated[int, msgspec.Meta(ge=-MAX_INTEGER - 1, le=MAX_INTEGER)],
    Kind.DECIMAL: float,
}


def root() -> Field:
    """A resource of which nothing is touched yet but its type."""
    resource = Field(Kind.COMPLEX)
    resource.add("resourceType", Kind.TEXT)
    return resource


def touch(term: Term, focus: list[Field]) -> list[Field]:  # noqa: C901, a case for each sort of term
    """Enter what `term` reads into the tree; the fields that its items come from, none if it computes them.

    Args:
        term: What is read.
        focus: The fields that the item may come from.
    """
    match term:
        case Focus():
            return focus
        case Step(source, keys, repeats, gaps, shape):
            kinds = {key: fhir_elements.kind_of(option) for key, option in shape.options}
            owners = touch(source, focus)
            return [
                owner.add(key, kinds.get(key, shape.kind), many=repeats, gaps=gaps) for owner in owners for key in keys
            ]
        case Where(source, criterion):
            found = touch(source, focus)
            touch(criterion, found)
            return found
        case First(source) | Single(source):
            return touch(source, focus)
        case Index(source, index):
            touch(index, focus)
            return touch(source, focus)
        case ReferenceKey(source):
            for owner in touch(source, focus):
                owner.add("reference", Kind.TEXT)
                owner.add("type", Kind.TEXT)
        case Boundary(operand):
            for item in touch(operand, focus):
                item.precise = True
        case _:
            for child in children(term):
                touch(child, focus)
    return []


def checked_type(
    resource_type: str,
    item: Field | None = None,
    *,
    markers: Iterable[str] = (),
    structures: Iterable[str] = (),
    profiles: str = "",
) -> type[msgspec.Struct]:
    """A type, tagged with the resource's, that takes the resources whose touched part fits, and no other.

    Args:
        resource_type: The type of the resource.
        item: What is touched of it.
        markers: Fields that must not be there.
        structures: Fields that must be JSON objects if they are there.
        profiles: A regular expression that every profile in ``meta`` must match.
    """
    inside = dict(item.inside) if item else {}
    inside.pop("resourceType", None)
    fields: dict[str, Any] = {key: _structure("Any", {}) | None for key in structures}
    fields |= {key: _checked(inner) | None for key, inner in inside.items()}
    fields |= dict.fromkeys(markers)
    if profiles:
        meta = inside["meta"].inside if "meta" in inside else {}
        profile = list[Annotated[str, msgspec.Meta(pattern=profiles)]]
        known: dict[str, Any] = {key: _checked(inner) | None for key, inner in meta.items()}
        fields["meta"] = _structure("Meta", {**known, "profile": profile | None}) | None
    return _structure(resource_type, fields, tag_field="resourceType", tag=resource_type)


def conform(resource: dict[str, Any], item: Field) -> tuple[dict[str, Any], int]:
    """The touched part of a parsed resource, without what has the wrong shape, and how much that was.

    Nulls go as well: they stand for nothing (R4, 2.6.2.3).
    """
    kept = dict(resource) if item.whole else {}
    dropped = 0
    for key, inner in item.inside.items():
        kept.pop(key, None)
        value = resource.get(key)
        if value is None:
            continue
        if not inner.many:
            clean, wrong = _conformed(value, inner)
        elif isinstance(value, list):
            pairs = [_conformed(one, inner) for one in value if one is not None]
            clean = [one for one, _ in pairs if one is not None]
            wrong = sum(more for _, more in pairs) + (0 if inner.gaps else value.count(None))
        else:
            clean, wrong = None, 1
        dropped += wrong
        if clean is not None:
            kept[key] = clean
    return kept, dropped


def needs_conforming(item: Field) -> bool:
    """Whether no type can check the field, so that `conform` must see it."""
    return _is_open(item) or any(needs_conforming(inner) for inner in item.inside.values())


def _checked(item: Field) -> Any:  # noqa: ANN401, a type made here
    one: Any = _LEAVES.get(item.kind, str)
    if item.kind is Kind.COMPLEX:
        one = _structure("Touched", {key: _checked(inner) | None for key, inner in item.inside.items()})
    return _several(item, one)


def _structure(name: str, fields: dict[str, Any], **options: str) -> type[msgspec.Struct]:
    # FHIR's names may be Python's keywords.
    places = {f"f{place}": key for place, key in enumerate(fields)}
    members = [(place, fields[key], None) for place, key in places.items()]
    return msgspec.defstruct(name, members, rename=places, gc=False, **options)  # type: ignore[arg-type]  # it takes them


def _conformed(value: Any, item: Field) -> tuple[Any, int]:  # noqa: ANN401, any JSON value
    match item.kind, value:
        case Kind.COMPLEX, dict():
            return conform(value, item)
        case Kind.BOOLEAN, bool():
            return value, 0
        case (Kind.INTEGER | Kind.DECIMAL | Kind.BOOLEAN, bool()) | (Kind.COMPLEX, _):
            return None, 1
        case Kind.INTEGER, int() if -MAX_INTEGER - 1 <= value <= MAX_INTEGER:
            return value, 0
        case Kind.DECIMAL, int() | float() | Decimal() if math.isfinite(float(value)):
            return value, 0
        case ((Kind.TEXT | Kind.DATE | Kind.DATETIME | Kind.TIME), str()):
            return value, 0
        case _:
            return None, 1


def _several(item: Field, one: Any) -> Any:  # noqa: ANN401, a type made here
    if not item.many:
        return one
    return list[one | None] if item.gaps else list[one]


def _is_open(item: Field) -> bool:
    digits = item.precise and item.kind in {Kind.DECIMAL, Kind.INTEGER}
    return item.recursive or item.whole or digits
