"""Keys: how a reference and the resource that it points to get the same one.

getResourceKey() is the resource's id. getReferenceKey() takes the id out of

    Patient/p1    Patient/p1/_history/2    https://server.example/fhir/Patient/p1    urn:uuid:...    urn:oid:...

and is empty for a contained resource (``#x``), a logical reference that has only an identifier, and
whatever else is none of these (SQL on FHIR v2, "Required Additional Functions"). Of a URN the type is known
only if Reference.type tells it; without that it is taken to be of the type that is asked for, and joins with
nothing if it is not.

Hazard: ids of two servers may coincide. Do not mix exports of several servers in one view.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["GROUPS", "PATTERN", "key"]

PATTERN: Final = (
    r"^(?:(?:[A-Za-z][A-Za-z0-9+.-]*://[^\s?#]+/)?([A-Z][A-Za-z]+)/([^\s/?#|]+)(?:/_history/[^\s/?#|]+)?"
    r"|urn:(?:uuid|oid):([A-Za-z0-9.-]+))$"
)
"""One regular expression for Python and RE2 alike (R4, 2.3.0.1): ASCII, and matched as a whole."""

GROUPS: Final = ("type", "id", "urn")
"""What its groups are."""

_PATTERN: Final = re.compile(PATTERN, re.ASCII)


def key(reference: Mapping[str, Any], target: str) -> str | None:
    """The key of the resource that a Reference points to; None if it is unknown or not a `target`.

    Args:
        reference: The parsed Reference.
        target: The type of resource that is asked for, "" for any.
    """
    text = reference.get("reference")
    if text is None or text.endswith("\n"):  # Python's $ would match before it.
        return None
    match = _PATTERN.match(text)
    if match is None:
        return None
    type_name, identifier, urn = match.groups()
    if urn is None:
        return identifier if target in {"", type_name} else None
    return urn if not target or reference.get("type") in {None, target} else None
