"""HL7 version 2 as a source of events: files, folders and batch files, or the intake that the listener fills.

[[sources]]
kind = "hl7v2"
name = "lab"
path = "messages"          # a file, or a folder with *.hl7; or instead of it:
# intake = "intake"        # the folder of `wardround data listen`, and its key, 64 hexadecimal digits:
# key = "env:INTAKE_KEY"
authority = "HOSP"         # whose numbers the patients have (PID-3.4)
"""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wardround.crypto.seal import KEY_BYTES
from wardround.errors import CodecError, ConfigError
from wardround.harmonization import times
from wardround.harmonization.events import Scope, SourceReport
from wardround.sources import hl7_charset, hl7_file
from wardround.sources.hl7_events import Reader, Reading
from wardround.sources.hl7_patient import Choice
from wardround.sources.hl7_results import Naming
from wardround.sources.intake import Intake
from wardround.sources.site import Site

__all__ = ["Hl7Settings", "Hl7Source", "intake_key", "open_source"]

_BLOCK_MESSAGES: Final = 8_192
_BLOCK_BYTES: Final = 16 * 1024 * 1024
_BATCH_LEAST: Final = 10_000
_BATCH_MOST: Final = 100_000
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class Hl7Settings(msgspec.Struct, tag="hl7v2", tag_field="kind", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A source of HL7 version 2 messages, as a site's mapping describes it.

    Attributes:
        name: The source's name.
        path: A file of messages, or a folder whose ``*.hl7`` are read; or else `intake`.
        intake: The folder of an intake, and `key`, by reference, the key that it is sealed under.
        key: See `intake`.
        charset: "auto" for what MSH-18 says; or the character set that it really is.
        charset_fallback: The character set where MSH-18 says none.
        identifier_field: Where the patient's identifier is; `identifier` its type code ("": any), `authority` its
            assigning authority ("*": of each, with its name; "": of the first that comes, and others are refused).
        identifier: See `identifier_field`.
        authority: See `identifier_field`.
        local: The name of the senders' own code system, ``local:NAME``; "": that of each sending application.
        systems: What a name of a code system in these messages means, such as ``LOINC = "loinc"``.
        processing: What MSH-11 may say; training ("T") and debugging ("D") are left out by default.
    """

    name: _Name
    path: str = ""
    intake: str = ""
    key: str = ""
    charset: str = "auto"
    charset_fallback: str = "ASCII"
    identifier_field: Literal["PID-2", "PID-3", "PID-18"] = "PID-3"
    identifier: str = "MR"
    authority: str = ""
    local: str = ""
    systems: dict[str, _Name] = {}
    processing: tuple[Literal["P", "T", "D"], ...] = ("P",)


class Hl7Source:
    """`wardround.harmonization.events.EventSource` over messages; see `open_source`."""

    def __init__(self, settings: Hl7Settings, reading: Reading, place: Path | Intake) -> None:
        self.name = settings.name
        self.report = SourceReport(settings.name)
        self._reading, self._place = reading, place
        self._links: list[tuple[str, str]] = []

    def batches(self, scope: Scope) -> Iterator[pa.RecordBatch]:
        """Every event in scope, in the messages' order.

        Raises:
            ClinicalError: There are too many files or merges, or a file is in UTF-16.
            CryptoError: The intake is sealed under another key.
            UnavailableError: The files or the intake cannot be read.
        """
        report = self.report = SourceReport(self.name)
        reader = Reader(self._reading, scope, report)
        held: list[pa.RecordBatch] = []
        for block in _blocks(self._messages(report)):
            made = reader.read(block)
            held += [] if made is None else [made]
            if sum(map(len, held)) >= _BATCH_LEAST:
                yield from _slices(held)
                held = []
        yield from _slices(held)
        self._links = reader.links()

    def links(self) -> Iterable[tuple[str, str]]:
        """Pairs of patient identifiers that the messages merged, (former, present), in order."""
        return list(self._links)

    def arrays(self, names: Iterable[str]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        """None: messages have no arrays."""
        del names
        return iter(())

    def _messages(self, report: SourceReport) -> Iterator[bytes]:
        if isinstance(self._place, Path):
            yield from hl7_file.messages(hl7_file.found(self._place), report)
            return
        count = 0
        for message in self._place.messages():
            count += 1
            yield message
        report.snapshot["intake"] = f"{count} messages"
        report.refuse("damaged record of the intake", self._place.damaged)


def open_source(settings: Hl7Settings, site: Site) -> Hl7Source:
    """The source that the settings describe; nothing is read before its batches are.

    Raises:
        ConfigError: The settings contradict themselves, or name what there is not.
    """
    if bool(settings.path) == bool(settings.intake):
        raise ConfigError(f"source {settings.name!r}: give either a path or an intake")
    if bool(settings.intake) != bool(settings.key):
        raise ConfigError(f"source {settings.name!r}: an intake, and nothing else, has a key")
    for stated in {settings.charset, settings.charset_fallback} - {"auto"}:
        try:
            hl7_charset.find(stated)
        except CodecError as error:
            raise ConfigError(f"source {settings.name!r}: {error}") from None
    place: Path | Intake = site.path(settings.path)
    if settings.intake:
        place = Intake(site.path(settings.intake), intake_key(settings.key, site))
    reading = Reading(
        naming=Naming(settings.local, settings.name, settings.systems),
        choice=Choice(field=settings.identifier_field, kind=settings.identifier, authority=settings.authority),
        processing=frozenset(settings.processing),
        charset=settings.charset,
        fallback=settings.charset_fallback,
        zone=None if site.timezone is None else times.checked_zone(site.timezone),
    )
    return Hl7Source(settings, reading, place)


def intake_key(reference: str, site: Site) -> bytes:
    """The intake's key from the secret that `reference` names.

    Raises:
        ConfigError: There is no such secret, or it is not 64 hexadecimal digits.
    """
    secret = site.secret(reference, "the intake's key")
    try:
        key = bytes.fromhex(secret)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"the intake's key ({reference}) is not {2 * KEY_BYTES} hexadecimal digits")
    return key


def _blocks(messages: Iterator[bytes]) -> Iterator[list[bytes]]:
    block: list[bytes] = []
    size = 0
    for message in messages:
        block.append(message)
        size += len(message)
        if len(block) >= _BLOCK_MESSAGES or size >= _BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _slices(held: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for made in pa.Table.from_batches(held).combine_chunks().to_batches() if held else ():
        for start in itertools.count(0, _BATCH_MOST):
            if start >= len(made):
                break
            yield made.slice(start, _BATCH_MOST)
