"""A ViewDefinition of SQL on FHIR v2 as its JSON writes it: a table about one type of resource.

Fields and their meaning are those of the specification's logical model ViewDefinition. What surrounds a
view (url, status, contact, ...) is passed over; inside `select`, `column`, `where` and `constant` a field
that the model does not have is refused, since a misspelt ``forEachOrNul`` would change the rows.

`wardround.sources.fhir_plan` checks the rest: paths, names, and the shapes of unions.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from wardround.errors import ConfigError
from wardround.sources import fhir_typing
from wardround.sources.fhir_elements import Kind
from wardround.sources.fhir_term import Shape, Value

__all__ = ["Column", "Constant", "Filter", "Select", "ViewDefinition", "constants", "is_name", "read"]

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
_INTEGER64: Final = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_MAX_NAME: Final = 128


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """One column: what it is called, and the path to its value."""

    name: str
    path: str
    type: str | None = None
    collection: bool = False
    description: str | None = None
    tag: tuple[dict[str, Any], ...] = ()
    id: str | None = None
    extension: tuple[dict[str, Any], ...] = ()


class Select(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """Columns, nested selects and a union, for the item at hand or for each item of a path."""

    column: tuple[Column, ...] = ()
    select: "tuple[Select, ...]" = ()
    union_all: "tuple[Select, ...]" = ()
    for_each: str | None = None
    for_each_or_null: str | None = None
    repeat: tuple[str, ...] = ()
    id: str | None = None
    extension: tuple[dict[str, Any], ...] = ()
    modifier_extension: tuple[dict[str, Any], ...] = ()


class Filter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A condition that a resource must meet to be in the view."""

    path: str
    description: str | None = None
    id: str | None = None
    extension: tuple[dict[str, Any], ...] = ()


class Constant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """A value with a name; exactly one of the values is there."""

    name: str
    value_base64_binary: str | None = msgspec.field(default=None, name="valueBase64Binary")
    value_boolean: bool | None = None
    value_canonical: str | None = None
    value_code: str | None = None
    value_date: str | None = None
    value_date_time: str | None = None
    value_decimal: int | float | None = None
    value_id: str | None = None
    value_instant: str | None = None
    value_integer: int | None = None
    value_integer64: int | str | None = msgspec.field(default=None, name="valueInteger64")
    value_oid: str | None = None
    value_positive_int: int | None = None
    value_string: str | None = None
    value_time: str | None = None
    value_unsigned_int: int | None = None
    value_uri: str | None = None
    value_url: str | None = None
    value_uuid: str | None = None
    id: str | None = None
    extension: tuple[dict[str, Any], ...] = ()


class ViewDefinition(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A view; `select` says its columns, `where` which resources it takes."""

    resource: str
    select: tuple[Select, ...]
    where: tuple[Filter, ...] = ()
    constant: tuple[Constant, ...] = ()
    name: str | None = None
    resource_type: str | None = None
    fhir_version: tuple[str, ...] | str = ()


_KINDS: Final = {
    "value_boolean": Kind.BOOLEAN,
    "value_date": Kind.DATE,
    "value_date_time": Kind.DATETIME,
    "value_decimal": Kind.DECIMAL,
    "value_instant": Kind.DATETIME,
    "value_integer": Kind.INTEGER,
    "value_integer64": Kind.INTEGER,
    "value_positive_int": Kind.INTEGER,
    "value_time": Kind.TIME,
    "value_unsigned_int": Kind.INTEGER,
}


def read(document: bytes | str | Mapping[str, Any]) -> ViewDefinition:
    """The view that `document` holds, as JSON or already parsed.

    Raises:
        ConfigError: It is not a ViewDefinition.
    """
    try:
        if isinstance(document, bytes | str):
            view = msgspec.json.decode(document, type=ViewDefinition)
        else:
            view = msgspec.convert(document, ViewDefinition)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"not a ViewDefinition: {error}") from None
    except RecursionError:
        raise ConfigError("not a ViewDefinition: nested too deep") from None
    if view.resource_type not in {None, "ViewDefinition"}:
        raise ConfigError("not a ViewDefinition: it says that it is another resource")
    if view.name is not None and not is_name(view.name):
        raise ConfigError("a view's name has letters, digits and underscores, and begins with a letter (sql-name)")
    return view


def constants(view: ViewDefinition) -> dict[str, Value]:
    """The constants of a view by name, typed as the specification's "Using Constants" says.

    Raises:
        ConfigError: One has a wrong name, no value or several, or a value that is none of its type.
    """
    found: dict[str, Value] = {}
    for constant in view.constant:
        if not is_name(constant.name) or constant.name == "rowIndex" or constant.name in found:
            raise ConfigError(f"{constant.name!r} cannot name a constant: taken, reserved, or not letters and digits")
        fields = (field for field in constant.__struct_fields__ if field.startswith("value_"))
        values = [(field, getattr(constant, field)) for field in fields if getattr(constant, field) is not None]
        if len(values) != 1:
            raise ConfigError(f"the constant {constant.name!r} has {len(values)} values; it needs one")
        ((field, value),) = values
        kind = _KINDS.get(field, Kind.TEXT)
        # The shortest spelling of a double is the number that was written, up to 15 digits.
        typed = Decimal(repr(value)) if kind is Kind.DECIMAL else value
        if field == "value_integer64":
            # R5's JSON writes it as a text, since it may be larger than JavaScript's numbers.
            if _INTEGER64.fullmatch(str(value)) is None or not -(2**63) <= int(value) < 2**63:
                raise ConfigError(f"the constant {constant.name!r} is no integer of 64 bits")
            found[constant.name] = Value(int(value), Shape(Kind.INTEGER, "integer"))
            continue
        try:
            found[constant.name] = fhir_typing.literal(kind, typed)
        except ConfigError as error:
            raise ConfigError(f"the constant {constant.name!r}: {error}") from None
    return found


def is_name(name: str) -> bool:
    """Whether `name` meets the invariant sql-name, and is not longer than databases take."""
    return len(name) <= _MAX_NAME and _NAME.fullmatch(name) is not None
