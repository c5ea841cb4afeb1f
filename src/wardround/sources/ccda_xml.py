"""Reads one clinical document's XML into a small tree, refusing everything that makes XML dangerous.

A document type declaration is refused outright: without one there are no entities to expand, no files to include and no
defaults to look up. Depth, elements and bytes are bounded. Names are those of HL7 v3; ``sdtc:`` marks HL7's extensions.
"""

from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

__all__ = ["MOST_BYTES", "Node", "parse"]

MOST_BYTES: Final = 64 * 2**20
_DEEPEST: Final = 100
_MOST_NODES: Final = 500_000
_MOST_ATTRIBUTES: Final = 64
_SPACES: Final = {
    "urn:hl7-org:v3": "",
    "urn:hl7-org:sdtc": "sdtc:",
    "http://www.w3.org/2001/XMLSchema-instance": "xsi:",
}


class _RefusedError(Exception):
    """Stops the parser; its text is the name of the reason."""


@dataclass(slots=True)
class Node:
    """An element: its name, attributes, children, and its own text."""

    tag: str
    attributes: dict[str, str]
    children: list["Node"] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def get(self, name: str) -> str:
        """An attribute, empty where it is not there."""
        return self.attributes.get(name, "").strip()

    def all(self, *path: str) -> list["Node"]:
        """The elements at a path of names below this one, in document order."""
        found = [self]
        for name in path:
            found = [child for node in found for child in node.children if child.tag == name]
        return found

    def first(self, *path: str) -> "Node | None":
        """The first of `all`, if there is one."""
        return next(iter(self.all(*path)), None)

    @property
    def text(self) -> str:
        """The element's own text, without that of its children."""
        return "".join(self.texts).strip()

    @property
    def is_null(self) -> bool:
        """Whether the element says that it has no value."""
        return "nullFlavor" in self.attributes


def parse(content: bytes) -> Node | str:
    """The document's root, or the name of the reason for which it is refused."""
    if len(content) > MOST_BYTES:
        return "too large"
    builder = _Builder()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.characters
    try:
        parser.Parse(content, True)
    except _RefusedError as reason:
        return str(reason)
    except (expat.ExpatError, LookupError, ValueError, UnicodeError):
        # An unknown encoding ends as a LookupError; none of the messages is repeated, they may quote the document.
        return "malformed XML"
    return builder.root.children[0]


class _Builder:
    def __init__(self) -> None:
        self.root = Node("", {})
        self._open = [self.root]
        self._count = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if self._count > _MOST_NODES or len(self._open) > _DEEPEST or len(attributes) > _MOST_ATTRIBUTES:
            raise _RefusedError("XML too deep or too large")
        node = Node(_short(name), {_short(key): value for key, value in attributes.items()})
        self._open[-1].children.append(node)
        self._open.append(node)

    def end(self, _name: str) -> None:
        self._open.pop()

    def characters(self, text: str) -> None:
        self._open[-1].texts.append(text)


def _refuse_doctype(*_declaration: object) -> None:
    raise _RefusedError("XML with a document type declaration")


def _short(name: str) -> str:
    space, _, local = name.rpartition(" ")
    if not space:
        return local
    return _SPACES[space] + local if space in _SPACES else name
