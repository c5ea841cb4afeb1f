"""Waveforms in WFDB records as events: windows of one lead or of a set of leads, which the source keeps as arrays.

An event of the system ``wfdb`` has as its code the lead's name in lower case ("mlii") or a set's, as its unit the
lead's, as its time the start of the window, and names its array; ``arrays`` gives the samples in physical units. A
record's last window, where it is not full, is left out. Annotations are events of the system ``wfdb-annotation``, their
code the symbol.

Whose record it is comes from the header's name by a template, or from a labelled comment in it ("# Patient: …").
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wardround.errors import ClinicalError, ConfigError, UnavailableError
from wardround.harmonization import times
from wardround.harmonization.events import Precision, Scope, SourceReport
from wardround.harmonization.times import Moment
from wardround.sources import wfdb_record
from wardround.sources.document_events import DocumentEvents
from wardround.sources.document_folder import NameTemplate, paths
from wardround.sources.site import Site
from wardround.sources.wfdb_record import Header, Signal

__all__ = ["WaveformSettings", "WaveformSource", "open_source"]

SYSTEM: Final = "wfdb"
ANNOTATED: Final = "wfdb-annotation"
_WINDOW_SAMPLES: Final = 20_000_000
_LONGEST_TEXT: Final = 200


class WaveformSettings(
    msgspec.Struct, tag="wfdb", tag_field="kind", frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """Where the records are and how they become windows.

    Attributes:
        name: The source's name.
        folder: From the mapping's folder; folders in it are searched too.
        record_name: Template of a record's name, ``{patient}_{record}``: the header's file name without ``.hea``.
        patient_comment: Instead: the label of the comment with the patient's identifier.
        seconds: Length of a window; 0: the whole record is one.
        sets: Codes of sets of leads, each with its leads in order; a record that lacks one gives no event of the set.
        annotator: Extension of the annotation files to read, "atr"; empty: none.
    """

    name: str
    folder: str
    record_name: str = ""
    patient_comment: str = ""
    seconds: Annotated[float, msgspec.Meta(ge=0.0, le=1e6)] = 0.0
    sets: dict[str, tuple[str, ...]] = {}
    annotator: Annotated[str, msgspec.Meta(pattern="^[a-z0-9]{0,16}$")] = ""


def open_source(settings: WaveformSettings, site: Site) -> "WaveformSource":
    """The records as a source; nothing is read yet.

    Raises:
        ConfigError: A template or set is wrong, or nothing says whose a record is.
    """
    if bool(settings.record_name) == bool(settings.patient_comment):
        raise ConfigError(f"source {settings.name!r}: give record_name or patient_comment, to say whose a record is")
    if not all(settings.sets.values()) or any(":" in code or not code for code in settings.sets):
        raise ConfigError(f"source {settings.name!r}: a set has leads, and its code has no colon")
    return WaveformSource(settings, site, NameTemplate(settings.record_name) if settings.record_name else None)


class WaveformSource:
    """Fills `wardround.harmonization.events.EventSource` from a folder of WFDB records."""

    def __init__(self, settings: WaveformSettings, site: Site, template: NameTemplate | None) -> None:
        self.name = settings.name
        self.report = SourceReport(settings.name)
        self._settings = settings
        self._site = site
        self._template = template
        self._folder = site.path(settings.folder)

    def batches(self, scope: Scope) -> Iterator[pa.RecordBatch]:
        """See `EventSource`."""
        self.report = report = SourceReport(self.name)
        rows = DocumentEvents(scope, report)
        digest = hashlib.sha256()
        names = paths(self._folder, "*.hea", what=self.name)
        for name in names:
            report.read += 1
            path = self._folder / name
            header = wfdb_record.header(path)
            if isinstance(header, str):
                report.refuse(header)
                continue
            patient, moment = self._patient(path, header), self._began(header)
            if not patient or isinstance(moment, str):
                report.refuse(moment if isinstance(moment, str) else "record without a patient")
                continue
            digest.update(_state(path, header))
            self._windows(rows, name.removesuffix(".hea"), header, patient, moment)
            if self._settings.annotator:
                self._annotations(rows, path.with_suffix(f".{self._settings.annotator}"), header, patient, moment)
            yield from rows.full()
        report.snapshot.update(records=str(len(names)), sha256=digest.hexdigest())
        yield from rows.rest()

    def links(self) -> Iterable[tuple[str, str]]:
        """None."""
        return ()

    def arrays(self, names: Iterable[str]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        """The windows that events named, float32 ``(samples, leads)``.

        Raises:
            ClinicalError: A name is not one that this source gave.
            UnavailableError: A file has gone.
        """
        held: tuple[str, Header] | None = None
        for name in names:
            record, code, start = _divided(name)
            if held is None or held[0] != record:
                held = record, self._header(record)
            header = held[1]
            leads = _codes(header, self._settings.sets).get(code)
            count = _window(header, self._settings.seconds)
            if leads is None or start % count or start + count > header.length:
                raise ClinicalError("an array is asked for that the waveform source has not")
            try:
                yield name, wfdb_record.samples((self._folder / record).parent, leads, start, count)
            except OSError as error:
                raise UnavailableError(f"a signal file cannot be read now ({type(error).__name__})") from None

    def _header(self, record: str) -> Header:
        path = self._folder / f"{record}.hea"
        # A name comes from an event, but it is a path, and nothing above the folder is ever read.
        inside = not Path(record).is_absolute() and ".." not in Path(record).parts
        header = wfdb_record.header(path) if inside else ""
        if isinstance(header, str):
            raise ClinicalError("an array is asked for that the waveform source has not")
        return header

    def _patient(self, path: Path, header: Header) -> str:
        if self._template is not None:
            return self._template.read(path.stem).get("patient", "")
        label = self._settings.patient_comment.lower()
        stated = [comment.partition(":") for comment in header.comments]
        found = {value.strip() for key, _, value in stated if key.strip().lower() == label}
        return found.pop() if len(found) == 1 else ""

    def _began(self, header: Header) -> Moment | str | None:
        if not header.began:
            self.report.note("record without a date")
            return None
        moment = times.parse(header.began, self._site.timezone)
        if isinstance(moment, Moment) and moment.remark:
            self.report.note(moment.remark)
        return moment

    def _windows(self, rows: DocumentEvents, record: str, header: Header, patient: str, moment: Moment | None) -> None:
        codes = _codes(header, self._settings.sets)
        twice = {code for code, leads in codes.items() if not leads}
        self.report.refuse("two leads of one name", len(twice))
        count = _window(header, self._settings.seconds)
        if count * len(header.signals) > _WINDOW_SAMPLES:
            self.report.refuse("window too long: set seconds")
            return
        for start in range(0, header.length - count + 1, count):
            for code, leads in codes.items():
                if leads:
                    units = {lead.unit for lead in leads}
                    rows.add(
                        patient,
                        (SYSTEM, code),
                        **_at(moment, start, header.rate),
                        unit=units.pop() if len(units) == 1 else None,
                        array=f"{record}:{code}:{start}",
                    )

    def _annotations(
        self, rows: DocumentEvents, path: Path, header: Header, patient: str, moment: Moment | None
    ) -> None:
        if not path.is_file():
            self.report.note("record without annotations")
            return
        for one in wfdb_record.annotations(path, header.length, header.rate):
            if isinstance(one, str):
                self.report.refuse(one)
            else:
                text = one.text if 0 < len(one.text) <= _LONGEST_TEXT else None
                rows.add(patient, (ANNOTATED, one.symbol), **_at(moment, one.sample, header.rate), value=text)


def _at(moment: Moment | None, sample: int, rate: float) -> dict[str, int | None]:
    if moment is None:
        return {"time_us": None, "precision": None}
    after = round(sample / rate * 1e6)
    return {"time_us": moment.time_us + after, "precision": int(moment.precision if not after else Precision.EXACT)}


def _window(header: Header, seconds: float) -> int:
    return max(1, round(seconds * header.rate)) if seconds else header.length


def _codes(header: Header, sets: dict[str, tuple[str, ...]]) -> dict[str, tuple[Signal, ...]]:
    """The signals of each lead and set; none where two leads have one name, since nothing says which is meant."""
    leads: dict[str, tuple[Signal, ...]] = {}
    for one in header.signals:
        code = _code(one.name)
        leads[code] = () if code in leads else (one,)
    found = dict(leads)
    for code, names in sets.items():
        members = [leads.get(_code(name), ()) for name in names]
        if all(members) and code not in leads:
            found[code] = tuple(member[0] for member in members)
    return found


def _code(name: str) -> str:
    return " ".join(name.lower().replace(":", " ").split())


def _divided(name: str) -> tuple[str, str, int]:
    record, code, start = [*name.rsplit(":", 2), "", ""][:3]
    if not (record and code and start.isdigit() and len(start) <= 15):
        raise ClinicalError("an array is asked for that the waveform source has not")
    return record, code, int(start)


def _state(path: Path, header: Header) -> bytes:
    """What says in which state a record was read: its header, and its signal files' sizes and times."""
    digest = hashlib.sha256(path.read_bytes())
    for file in sorted({one.file for one in header.signals}):
        found = (path.parent / file).stat()
        digest.update(f"{file}:{found.st_size}:{found.st_mtime_ns}".encode())
    return digest.digest()
