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
from functools import lru_cache
from typing import Any, Final

__all__ = ["key", "patterns"]

_LITERAL: Final = r"^(?:[A-Za-z][A-Za-z0-9+.-]*://[^\s?#]+/)?%s/([^\s/?#|]+)(?:/_history/[^\s/?#|]+)?$"
_URN: Final = r"^urn:(?:uuid|oid):([A-Za-z0-9.-]+)$"


def patterns(target: str) -> tuple[str, str]:
    """Regular expressions for Python and RE2 alike (R4, 2.3.0.1) whose group is the id: of literals, and of URNs.

    A text that begins with ``urn:`` is matched with the second alone.

    Args:
        target: A type of resource, "" for any.
    """
    return _LITERAL % (target or "[A-Z][A-Za-z]+"), _URN


@lru_cache(maxsize=256)
def _compiled(target: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    literal, urn = patterns(target)
    return re.compile(literal, re.ASCII), re.compile(urn, re.ASCII)


def key(reference: Mapping[str, Any], target: str) -> str | None:
    """The key of the resource that a Reference points to; None if it is unknown or not a `target`.

    Args:
        reference: The parsed Reference.
        target: The type of resource that is asked for, "" for any.
    """
    text = reference.get("reference")
    if text is None or text.endswith("\n"):  # Python's $ would match before it.
        return None
    literal, urn = _compiled(target)
    if not text.startswith("urn:"):
        match = literal.match(text)
    elif target and reference.get("type") not in {None, target}:
        return None
    else:
        match = urn.match(text)
    return match[1] if match else None
