"""Lines of JSON to resources by type: what is malformed told by number, what has not R4's shape set right or left out.

A line that is no JSON object, or no UTF-8, is malformed: its number is kept, its content never. A resource whose
touched part has not the shape that R4 gives it is a *misfit*: what does not fit is left out
(`wardround.sources.fhir_touched.conform`), and the resource is counted. Who knows better, gives `Irregular`.

Almost every line is in order, and costs one pass of a decoder that makes nothing but a verdict.

Hazard: JSON with one name twice in an object has no defined meaning (RFC 8259, section 4). Python keeps the last of
the two values, DuckDB the first; no FHIR server writes such a thing.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import repeat
from typing import Any, Final, Protocol, TypeAlias, Union

import msgspec

from wardround.sources import fhir_elements, fhir_touched
from wardround.sources.fhir_lines import Batch, Report
from wardround.sources.fhir_touched import Field

__all__ = ["Irregular", "LineDecoder", "Part", "Prefilter"]

_DAMAGED: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
_BUNDLE: Final = "Bundle"
_HISTORY: Final = "history"
"""A Bundle of versions, the newest first (R4, 3.1.0.14); later ones are to come later here."""
_DEPTH: Final = 3

Prefilter: TypeAlias = Callable[[list[bytes]], list[bool]]
"""Which lines may matter at all; the others are only counted."""


@dataclass(slots=True)
class Part:
    """The resources of one type in a batch, as JSON that fits, and the number of each among all that was read."""

    texts: list[bytes] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        """The bytes of the texts."""
        return sum(map(len, self.texts))

    def extend(self, other: "Part") -> None:
        """Add another's resources."""
        self.texts += other.texts
        self.rows += other.rows


class Irregular(Protocol):
    """What to do with resources that are not simply in order."""

    profiles: str
    """A regular expression of the profiles that do not make a resource irregular."""

    def markers(self, resource_type: str) -> Iterable[str]:
        """Fields whose presence alone makes a resource of this type irregular."""

    def structures(self, resource_type: str) -> Iterable[str]:
        """Fields that make a resource of this type irregular if they are there and are no JSON objects."""

    def mended(self, resource: dict[str, Any]) -> dict[str, Any] | None:
        """The irregular resource set right, as far as can be; None leaves it out. It is conformed afterwards."""


class _Head(msgspec.Struct, gc=False):
    resource_type: Any = msgspec.field(default=None, name="resourceType")


class _Entry(msgspec.Struct):
    resource: msgspec.Raw = msgspec.Raw()


class _Bundle(msgspec.Struct):
    entry: list[_Entry] = []
    type: Any = None


class LineDecoder:
    """Lines to what the plans touch of the resources of their types.

    Args:
        touched: For each wanted type, what is touched.
        report: Where lines are counted.
        irregular: Who sets irregular resources right; None: what does not fit is left out.
        bundles: Whether the entries of a Bundle are read as if each had its own line.
        whole: Types of which nothing is left out or set right: their JSON is kept as it came.
    """

    def __init__(
        self,
        touched: Mapping[str, Field],
        report: Report,
        *,
        irregular: Irregular | None = None,
        bundles: bool = False,
        whole: frozenset[str] = frozenset(),
    ) -> None:
        self._touched = touched
        self._report = report
        self._irregular = irregular
        self._bundles = bundles
        self._whole = whole
        self._row = 0
        self._loose: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=Decimal)
        self._heads: msgspec.json.Decoder[_Head] = msgspec.json.Decoder(_Head)
        self._bundle: msgspec.json.Decoder[_Bundle] = msgspec.json.Decoder(_Bundle)
        self._encoder = msgspec.json.Encoder(decimal_format="number")
        checked = {self._checked_type(name, item): name for name, item in touched.items()}
        others = [name for name in fhir_elements.resources() if name not in {*touched, _BUNDLE}]
        known = (*checked, *map(fhir_touched.checked_type, others))
        self._check = msgspec.json.Decoder(Union[known]).decode  # noqa: UP007, as many as there are
        self._regular = {one: name for one, name in checked.items() if not fhir_touched.needs_conforming(touched[name])}

    def parts(self, batch: Batch, prefilter: Prefilter | None = None) -> dict[str, Part]:
        """The JSON of the batch's resources by type: as it came, or of a misfit what fits."""
        found = {name: Part() for name in self._touched}
        matters = prefilter(batch.lines) if prefilter else repeat(True)
        for line, number, wanted in zip(batch.lines, batch.numbers, matters, strict=False):
            if not wanted:
                self._pass(line, number)
            elif not self._is_kept(line, found):
                self._slowly(line, number, found, 0)
        self._report.resources += sum(len(part.texts) for part in found.values())
        return found

    def resources(self, batch: Batch, resource_type: str) -> list[dict[str, Any]]:
        """The touched parts of the batch's resources of one type."""
        part = self.parts(batch)[resource_type]
        return [self.parsed(resource_type, text) for text in part.texts]

    def parsed(self, resource_type: str, text: bytes) -> dict[str, Any]:
        """The touched part of a text that `parts` gave."""
        return fhir_touched.conform(self._loose.decode(text), self._touched[resource_type])[0]

    def _checked_type(self, name: str, item: Field) -> type[msgspec.Struct]:
        if fhir_touched.needs_conforming(item):
            return fhir_touched.checked_type(name)
        if self._irregular is None:
            return fhir_touched.checked_type(name, item)
        markers, structures = self._irregular.markers(name), self._irregular.structures(name)
        return fhir_touched.checked_type(
            name, item, markers=markers, structures=structures, profiles=self._irregular.profiles
        )

    def _is_kept(self, line: bytes, found: dict[str, Part]) -> bool:
        """Keep a resource that is in order, and say whether it was."""
        try:
            name = self._regular.get(self._check(line).__class__)
        except _DAMAGED:
            return False  # What is wrong with it is told elsewhere.
        if name is None or not (line.isascii() or _is_utf8(line)):
            return False
        part = found[name]
        part.texts.append(line)
        part.rows.append(self._row)
        self._row += 1
        return True

    def _pass(self, line: bytes, number: int) -> None:
        """Count a line that cannot matter."""
        self._row += 1
        try:
            name = self._heads.decode(line).resource_type
        except _DAMAGED:
            self._report.note_malformed(number)
            return
        if isinstance(name, str) and name in self._touched:
            self._report.resources += 1
        else:
            self._report.other_types += 1

    def _slowly(self, line: bytes, number: int, found: dict[str, Part], depth: int) -> None:
        if line.isspace():
            return
        row = self._row
        self._row += 1
        try:
            name = self._heads.decode(line).resource_type
            line.decode()
            if name == _BUNDLE and self._bundles and depth < _DEPTH:
                self._unpack(line, number, found, depth)
                return
            if not isinstance(name, str) or name not in self._touched:
                self._report.other_types += 1
                return
            resource = self._loose.decode(line)
        except _DAMAGED:
            self._report.note_malformed(number)
            return
        if name in self._whole:
            found[name].texts.append(line)
            found[name].rows.append(row)
            return
        if self._irregular is not None:
            resource = self._irregular.mended(resource)
            if resource is None:
                return
        resource, dropped = fhir_touched.conform(resource, self._touched[name])
        self._report.misfits += dropped > 0
        found[name].texts.append(self._encoder.encode(resource))
        found[name].rows.append(row)

    def _unpack(self, line: bytes, number: int, found: dict[str, Part], depth: int) -> None:
        bundle = self._bundle.decode(line)
        entries = [one for entry in bundle.entry if (one := bytes(entry.resource)) not in {b"", b"null"}]
        for entry in reversed(entries) if bundle.type == _HISTORY else entries:
            if not self._is_kept(entry, found):
                self._slowly(entry, number, found, depth + 1)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
