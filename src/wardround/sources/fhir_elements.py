"""What FHIR R4 (4.0.1) says of types: which elements each has, of which type, once or many times.

The tables in ``fhir_r4_*.py`` have a line for each type, and more lines that begin with a blank:
``Type element:type* choice?A,B``. A type is spelled out or is one of these letters; ``+`` is the nested
type that is named after its owner and element; ``*`` behind it means many; ``?*`` is the open choice
(R4, 2.24.0.2). ``Type<Parent`` names what it extends, ``Type<`` a backbone element, ``Type<-`` nothing;
other types are domain resources. Nested types are joined without a point: ``PatientContact``.

Definitions and catalogues (StructureDefinition, MedicinalProduct, ...) are left out: they hold nothing of
a patient. Primitive types that JSON writes as text are all "string" here, but for those of time; a choice
keeps the precise ones, as its JSON names do.
"""

import enum
import functools
from dataclasses import dataclass

from wardround.sources import fhir_r4_a, fhir_r4_i

__all__ = [
    "PRIMITIVES",
    "Element",
    "Kind",
    "element",
    "is_resource",
    "is_subtype",
    "is_type",
    "kind_of",
    "names",
    "resources",
    "type_named",
]


class Kind(enum.Enum):
    """How a value is written, compared and stored; the value is the word for it in messages."""

    BOOLEAN = "boolean"
    TEXT = "text"
    INTEGER = "integer"
    DECIMAL = "decimal"
    DATE = "date"
    DATETIME = "dateTime"
    TIME = "time"
    COMPLEX = "structure"
    CHOICE = "choice of types"
    NOTHING = "empty collection"


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a type: its JSON names with the type behind each (more than one for a choice)."""

    name: str
    keys: tuple[tuple[str, str], ...]
    many: bool
    choice: bool = False


PRIMITIVES: dict[str, Kind] = {
    "boolean": Kind.BOOLEAN,
    "integer": Kind.INTEGER,
    "positiveInt": Kind.INTEGER,
    "unsignedInt": Kind.INTEGER,
    "decimal": Kind.DECIMAL,
    "date": Kind.DATE,
    "dateTime": Kind.DATETIME,
    "instant": Kind.DATETIME,
    "time": Kind.TIME,
    **dict.fromkeys(
        ("base64Binary", "canonical", "code", "id", "markdown", "oid", "string", "uri", "url", "uuid", "xhtml"),
        Kind.TEXT,
    ),
}
"""R4's primitive types (2.24.0.1)."""

_LETTERS = {
    "b": "boolean",
    "i": "integer",
    "n": "decimal",
    "s": "string",
    "d": "date",
    "t": "dateTime",
    "I": "instant",
    "T": "time",
    "C": "CodeableConcept",
    "R": "Reference",
    "D": "Identifier",
    "P": "Period",
    "Q": "Quantity",
    "G": "Coding",
    "X": "Extension",
}
_OPEN = (
    "Base64Binary,Boolean,Canonical,Code,Date,DateTime,Decimal,Id,Instant,Integer,Markdown,Oid,PositiveInt,String,Time,"
    "UnsignedInt,Uri,Url,Uuid,Address,Age,Annotation,Attachment,CodeableConcept,Coding,ContactPoint,Count,Distance,"
    "Duration,HumanName,Identifier,Money,Period,Quantity,Range,Ratio,Reference,SampledData,Signature,Timing,"
    "ContactDetail,Contributor,DataRequirement,Expression,ParameterDefinition,RelatedArtifact,TriggerDefinition,"
    "UsageContext,Dosage,Meta"
)
_PARENTS = {
    "canonical": "uri",
    "code": "string",
    "id": "string",
    "markdown": "string",
    "oid": "uri",
    "positiveInt": "integer",
    "unsignedInt": "integer",
    "url": "uri",
    "uuid": "uri",
}


def kind_of(type_name: str) -> Kind:
    """The kind of values of a type; whatever is not primitive is a structure."""
    return PRIMITIVES.get(type_name, Kind.COMPLEX)


def type_named(name: str) -> str | None:
    """The R4 type that a type specifier names, or None.

    FHIRPath's own ``String``, ``DateTime`` and so on (5.1) read as the FHIR type of that name: a view
    has no other values.
    """
    lowered = name[:1].lower() + name[1:]
    if lowered in PRIMITIVES:
        return lowered
    return name if name in _types() else None


def is_type(name: str) -> bool:
    """Whether the table has a structure of this name."""
    return name in _types()


def is_resource(name: str) -> bool:
    """Whether a view may be about this type."""
    return is_type(name) and is_subtype(name, "Resource") and name not in {"Resource", "DomainResource"}


def resources() -> list[str]:
    """Every type that a view may be about."""
    return [name for name in _types() if is_resource(name)]


def is_subtype(name: str, ancestor: str) -> bool:
    """Whether `name` is `ancestor` or extends it (R4, 2.24)."""
    while name != ancestor:
        above = _PARENTS.get(name) or (_types()[name][0] if name in _types() else "")
        if not above:
            return False
        name = above
    return True


def element(type_name: str, name: str) -> Element | None:
    """The element `name` of a structure, its own or inherited; None where R4 has none."""
    types = _types()
    while type_name in types:
        parent, elements = types[type_name]
        if name in elements:
            return elements[name]
        type_name = parent
    return None


def names(type_name: str) -> list[str]:
    """The names of all elements of a structure, inherited ones included."""
    found: list[str] = []
    while type_name in _types():
        parent, elements = _types()[type_name]
        found += elements
        type_name = parent
    return found


@functools.cache
def _types() -> dict[str, tuple[str, dict[str, Element]]]:
    types: dict[str, tuple[str, dict[str, Element]]] = {}
    elements: dict[str, Element] = {}
    owner = ""
    for line in (fhir_r4_a.LINES + fhir_r4_i.LINES).splitlines():
        words = line.split()
        if not line.startswith(" "):
            owner, extends, parent = words.pop(0).partition("<")
            elements = {}
            above = parent.removeprefix("-") or ("" if parent else "BackboneElement")
            types[owner] = (above if extends else "DomainResource", elements)
        for word in words:
            read = _choice(word) if "?" in word else _single(owner, word)
            elements[read.name] = read
    return types


def _single(owner: str, word: str) -> Element:
    name, _, spelled = word.partition(":")
    many = spelled.endswith("*")
    letter = spelled.removesuffix("*")
    what = owner + name[0].upper() + name[1:] if letter == "+" else _LETTERS.get(letter, letter)
    return Element(name, ((name, what),), many)


def _choice(word: str) -> Element:
    name, _, options = word.partition("?")
    names = (_OPEN if options == "*" else options).split(",")
    lowered = ((option, option[0].lower() + option[1:]) for option in names)
    return Element(
        name, tuple((name + option, low if low in PRIMITIVES else option) for option, low in lowered), False, True
    )
