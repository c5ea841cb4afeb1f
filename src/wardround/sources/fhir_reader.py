"""FHIR R4 resources, however they came, as batches of EVENT.

What a transport (files, a bulk export, search pages, notifications) hands over are streams of bytes: newline-delimited
JSON of one type or mixed, plain or gzip, or one JSON document, which may be a Bundle. Built-in views
(`wardround.sources.fhir_event_views`) say which events a resource holds; a steward may add views of own profiles.

    reader = ResourceReader(settings, site, report)
    for batch in reader.batches(streams, scope): ...
    pairs = reader.links()

A patient is named by the resource's id, or with `patient` set to the URI of an identifier system by ``Patient/`` and
the id; `links` then says whose identifier it is, as it says which records were merged.

A later version of a resource replaces an earlier one by its ``order_key``, and later is what is read later: of several
exports, hand over the older one first. A Bundle of a resource's history is read backwards for that reason.

Hazard: streams are read in another thread than the one that asks for batches, one after the other.
"""

import io
import re
from collections.abc import Iterable, Iterator
from typing import IO, Annotated, Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from wardround.errors import ConfigError
from wardround.harmonization import memory_database
from wardround.harmonization.events import EVENT, PATIENT, Scope, SourceReport
from wardround.harmonization.events import batch as event_batch
from wardround.sources import fhir_consent, fhir_event_views, fhir_lines, fhir_plan, fhir_run, fhir_touched, fhir_view
from wardround.sources.fhir_decode import LineDecoder, Part, Prefilter
from wardround.sources.fhir_elements import Kind
from wardround.sources.fhir_event_columns import EventShaper
from wardround.sources.fhir_irregular import IrregularResources
from wardround.sources.fhir_lines import Limits, Report
from wardround.sources.fhir_plan import Plan
from wardround.sources.fhir_run import ViewRunner
from wardround.sources.site import Site

__all__ = ["MOST_VIEWS", "FhirReading", "ResourceReader", "stream_of"]

MOST_VIEWS: Final = 200
_MOST_CODES: Final = 500
_BATCH_ROWS: Final = 16_384
_READING_BYTES: Final = 96 * 1024 * 1024
_MOST_BATCHES: Final = 4
_SLICE: Final = 2048
_LARGEST_VIEW: Final = 4 * 1024 * 1024
_LIMITS: Final = Limits(line_bytes=64 * 1024 * 1024, total_bytes=2**42, rows=4096)
_PLAIN: Final = re.compile(r"[A-Za-z0-9._:/-]+\*?", re.ASCII)
_CONSENT: Final = "Consent"
_SEEN: Final = ("Patient", "Encounter", "Bundle")
_MERGED: Final = {"replaced-by": ("id", "other"), "replaces": ("other", "id"), "identifier": ("id", "other")}


class FhirReading(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every FHIR source is told.

    Attributes:
        name: The source's name.
        patient: What names a patient: ``id``, the resource's, or the URI of an identifier system.
        views: Own ViewDefinitions of SQL on FHIR v2, beside the built-in ones; columns as in `fhir_event_views`.
        views_path: A JSON file with one or a list of them, or a folder of such files.
        without: Types of resources whose built-in view is not wanted.
    """

    name: Annotated[str, msgspec.Meta(min_length=1)]
    patient: Annotated[str, msgspec.Meta(min_length=1)] = "id"
    views: tuple[dict[str, Any], ...] = ()
    views_path: str = ""
    without: tuple[str, ...] = ()


class ResourceReader:
    """A FHIR source's resources as events; see the module.

    Args:
        settings: What the source is told.
        site: The site's folder and zone.
        report: Filled while batches are read; its `snapshot` is the transport's.
        limits: Bounds on what is read.

    Raises:
        ConfigError: A view is wrong, or DuckDB is not installed.
    """

    def __init__(
        self, settings: FhirReading, site: Site, report: SourceReport, *, limits: Limits | None = None
    ) -> None:
        memory_database.duckdb()
        self._report = report
        self._limits = limits or _LIMITS
        self._lines = Report()
        self._links: list[pa.Table] = []
        self._prefix = "" if settings.patient == "id" else "Patient/"
        own = _own_views(settings, site)
        built_in = [view for view in fhir_event_views.VIEWS if view["resource"] not in settings.without]
        if unknown := set(settings.without) - {view["resource"] for view in fhir_event_views.VIEWS}:
            raise ConfigError(f"source {settings.name!r}: there is no built-in view of {sorted(unknown)}")
        touched: dict[str, fhir_touched.Field] = {}
        self._views: list[tuple[Plan, EventShaper | None]] = []
        for view in (*built_in, *own):
            plan = _plan(view, touched)
            _check_columns(plan, settings.name)
            shaper = EventShaper(plan.resource, report, site.timezone, self._prefix)
            self._views.append((plan, shaper))
        self._views.append((_plan(fhir_event_views.LINKS, touched), None))
        if self._prefix:
            wanted = {"constant": [{"name": "wanted", "valueUri": settings.patient}]}
            self._views.append((_plan({**fhir_event_views.IDENTIFIERS, **wanted}, touched), None))
        touched.setdefault(_CONSENT, fhir_touched.root())
        self._zone = site.timezone
        self._own_types = tuple(view["resource"] for view in own)
        self.resource_types = tuple(touched)
        irregular = IrregularResources(report)
        self._decoder = LineDecoder(
            touched, self._lines, irregular=irregular, bundles=True, whole=frozenset({_CONSENT})
        )
        self._runners: list[tuple[ViewRunner, EventShaper | None]] = []

    def batches(self, streams: Iterable[IO[bytes]], scope: Scope) -> Iterator[pa.RecordBatch]:
        """The events of the streams, one after the other; rows go on counting from call to call.

        Raises:
            ClinicalError: A stream is damaged or beyond the limits, or a view gives several values where one belongs.
        """
        if not self._runners:
            self._open()
        held: list[pa.RecordBatch] = []
        try:
            for name, part in fhir_run.ahead(
                self._parts(streams, _prefilter(scope, (*_SEEN, _CONSENT, *self._own_types)))
            ):
                if name == _CONSENT and (told := self._consents(part)):
                    held.append(told)
                for runner, shaper in self._runners:
                    if runner.resource != name:
                        continue
                    for table in runner.numbered(self._decoder, part):
                        if shaper is None:
                            self._links.append(table)
                        else:
                            held.append(shaper.batch(table, scope))
                if sum(one.num_rows for one in held) >= _BATCH_ROWS:
                    yield _together(held)
                    held = []
            if any(one.num_rows for one in held):
                yield _together(held)
        finally:
            self._count()

    def links(self) -> Iterator[tuple[str, str]]:
        """Pairs of names that mean one patient, (former, present), of all that was read."""
        for table in self._links:
            for row in table.to_pylist():
                merged = _MERGED.get(row["type"] or "")
                if merged is None or row["id"] is None or row["other"] is None:
                    continue
                former, present = (row[end] for end in merged)
                if row["type"] == "identifier":
                    yield self._prefix + former, present
                elif former != present:
                    yield self._prefix + former, self._prefix + present

    def _consents(self, part: Part) -> pa.RecordBatch | None:
        rows: list[tuple[int, str | None, fhir_consent.ConsentRow]] = []
        for text, row in zip(part.texts, part.rows, strict=True):
            resource = msgspec.json.decode(text)
            if offence := fhir_consent.consent_offence(resource):
                self._report.refuse(offence)
            name = resource.get("id")
            key = f"{_CONSENT}/{name}" if isinstance(name, str) and name else None
            rows += [(row, key, one) for one in fhir_consent.consent_rows(resource, zone=self._zone)]
        if not rows:
            return None
        self._report.events += len(rows)
        columns = {
            "patient": [self._prefix + one.patient for _, _, one in rows],
            "time_us": [one.time_us for _, _, one in rows],
            "system": [PATIENT] * len(rows),
            "code": [one.code for _, _, one in rows],
            "value": [one.value for _, _, one in rows],
            "order_key": [key for _, key, _ in rows],
            "row": [row for row, _, _ in rows],
        }
        return event_batch(columns, source=self._report.source)

    def _open(self) -> None:
        database = memory_database.open_memory_database(memory_limit_bytes=_READING_BYTES, threads=2)
        for plan, shaper in self._views:
            self._runners.append((ViewRunner(plan, database, report=self._lines, limits=self._limits), shaper))

    def _parts(self, streams: Iterable[IO[bytes]], prefilter: Prefilter | None) -> Iterator[tuple[str, Part]]:
        """Resources by type, so many at once that a statement pays."""
        held: dict[str, Part] = {}
        waiting = 0
        for stream in streams:
            for batch in fhir_lines.batches(stream, self._lines, limits=self._limits, documents=True):
                for name, part in self._decoder.parts(batch, prefilter).items():
                    held.setdefault(name, Part()).extend(part)
                # The few lines that are wanted would else keep the memory around them in use.
                waiting = (waiting + 1) % _MOST_BATCHES
                whole = not waiting or sum(part.size for part in held.values()) >= self._limits.batch_bytes
                for name, part in list(held.items()):
                    if part.texts and (whole or len(part.texts) >= self._limits.batch_lines):
                        yield name, held.pop(name)
        yield from ((name, part) for name, part in held.items() if part.texts)

    def _count(self) -> None:
        lines, report = self._lines, self._report
        report.read += lines.resources + lines.other_types + lines.malformed
        report.refuse("malformed line", lines.malformed)
        report.refuse("resource of too many rows", lines.exploding)
        report.note("resource that no view reads", lines.other_types)
        report.note("field of another shape", lines.misfits)
        if lines.malformed_lines:
            report.snapshot["malformed lines"] = ", ".join(map(str, lines.malformed_lines))
        lines.resources = lines.other_types = lines.malformed = lines.exploding = lines.misfits = 0


def stream_of(lines: Iterable[bytes]) -> IO[bytes]:
    """Resources, each as its JSON, as one stream."""
    return io.BytesIO(b"\n".join(line.replace(b"\n", b" ") for line in lines))


def _own_views(settings: FhirReading, site: Site) -> list[dict[str, Any]]:
    found = list(settings.views)
    path = site.path(settings.views_path) if settings.views_path else None
    files = [] if path is None else sorted(path.glob("*.json")) if path.is_dir() else [path]
    for file in files:
        try:
            with file.open("rb") as opened:
                text = opened.read(_LARGEST_VIEW)
            document = msgspec.json.decode(text)
        except OSError as error:
            raise ConfigError(f"the view {file.name!r} cannot be read ({type(error).__name__})") from None
        except (msgspec.DecodeError, RecursionError):
            raise ConfigError(f"the view {file.name!r} is not JSON, or is too long") from None
        found += document if isinstance(document, list) else [document]
    if len(found) > MOST_VIEWS:
        raise ConfigError(f"source {settings.name!r}: more than {MOST_VIEWS} views")
    return found


def _plan(view: dict[str, Any], touched: dict[str, fhir_touched.Field]) -> Plan:
    definition = fhir_view.read(view)
    root = touched.setdefault(definition.resource, fhir_touched.root())
    return fhir_plan.compile_view(definition, touched=root)


def _check_columns(plan: Plan, source: str) -> None:
    where = f"source {source!r}, a view of {plan.resource}"
    names = {column.name for column in plan.columns}
    if unknown := names - fhir_event_views.COLUMNS:
        raise ConfigError(f"{where}: events have no columns {sorted(unknown)}")
    if absent := {"patient", "system", "code"} - names:
        raise ConfigError(f"{where}: it needs columns {sorted(absent)}")
    for column in plan.columns:
        kinds = fhir_event_views.KINDS.get(column.name, fhir_event_views.TEXTS)
        if column.collection or column.kind not in {*kinds, Kind.NOTHING}:
            raise ConfigError(f"{where}: column {column.name!r} is one {' or '.join(kind.value for kind in kinds)}")


def _prefilter(scope: Scope, always: tuple[str, ...]) -> Prefilter | None:
    """Lines that hold a wanted code somewhere, or are of a type that always matters; one may be in it for nothing."""
    if scope.codes is None:
        return None
    codes = {code for system, wanted in scope.codes.items() if system != PATIENT for code in wanted}
    if len(codes) > _MOST_CODES or not all(map(_PLAIN.fullmatch, codes)):
        return None
    signs = [f'"{re.escape(code)}"' for code in sorted(codes) if not code.endswith("*")]
    signs += [f'"{re.escape(code[:-1])}' for code in sorted(codes) if code.endswith("*")]
    signs += [f'"{name}"' for name in always]
    # In a text with escapes a code may be spelled otherwise.
    pattern = "|".join([*signs, r"\\u", r"\\/"])

    def matters(lines: list[bytes]) -> list[bool]:
        found: list[bool] = []
        for start in range(0, len(lines), _SLICE):
            slice_of_lines = pa.array(lines[start : start + _SLICE], pa.binary())
            found += pc.match_substring_regex(slice_of_lines, pattern).to_pylist()
        return found

    return matters


def _together(held: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(held, EVENT).combine_chunks().to_batches()[0]
