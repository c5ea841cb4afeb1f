"""Where a tensor comes from: one record for each, in canonical form, chained to the record before it.

    tensor    Merkle root (RFC 9162, 2.1.1, with HMAC-SHA256 in place of SHA-256) over the columns, each leaf
              canonical(role, name, dtype, records) || newline || little-endian bytes
    record    canonical JSON; its SHA-256 is the `previous` of the next one, and zeros stand before the first

The same events, contract, mapping and plan give the same tensor, whatever engine ran them: values that compare equal
have equal bytes here (one NaN, no negative zero). What changes is who asked, and when.

A record holds digests, counts, names of columns, sources, codes and reasons, and who confirmed which mapping: no value
of a patient. A reason that reads as a value (a long run of digits, a long text) is refused; of a source's report, it is
counted under another name.

Hazard: records are a site's own and stay there; a mapping's codes and queries tell which systems it has. The root of a
few records with a label of two values can be found by trying them all: give the site's key, so that it cannot.
"""

import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from wardround.codec import canonical
from wardround.errors import ClinicalError, CodecError, DigestMismatchError
from wardround.harmonization.events import SourceReport
from wardround.ids import Digest

__all__ = [
    "FIRST",
    "Confirmation",
    "FeatureLineage",
    "LineageRecord",
    "SourceLineage",
    "check_chain",
    "decode",
    "encode",
    "of_source",
    "packages",
    "tensor_digest",
]

FIRST: Final = Digest("0" * 64)
"""What stands for the record before the first."""

_DIGITS: Final = re.compile(r"\d{6}")
_LONGEST_REASON: Final = 120
_OTHER_REASON: Final = "a reason that may hold a value"
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Counts = dict[str, _Count]
_Named = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class SourceLineage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was read of one source; see `wardround.harmonization.events.SourceReport`."""

    name: str
    read: _Count = 0
    events: _Count = 0
    refused: _Counts = {}
    noted: _Counts = {}
    snapshot: dict[str, str] = {}


class FeatureLineage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What became of one feature's events: how many came, had their code mapped, their unit converted, were dropped."""

    name: str
    rows: _Count = 0
    mapped: _Count = 0
    converted: _Count = 0
    dropped: _Counts = {}
    records: _Count = 0


class Confirmation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A person's word that a site's own code means a concept; `at` as that person's tool wrote it."""

    local: str
    concept: str
    by: str
    at: str = ""


class LineageRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How one tensor was made.

    Attributes:
        study: The plan that asked for it.
        contract: Digest of the plan's data contract.
        mapping: Digest of the site's mapping.
        plan: Digest of the plan of computation, whatever engine it is compiled for.
        engine: What ran it, with its version.
        sql: The statements that were run, in their order.
        terminology: Version of each code system.
        packages: Version of each package that matters.
        left_out: Records that a gate left out, by its name.
        tensor: See `tensor_digest`.
        at: When it was made, RFC 3339 in UTC.
        previous: Digest of the record before.
    """

    version: Literal[1] = 1
    site: str
    study: _Named
    contract: _Named
    mapping: _Named
    plan: _Named
    engine: str
    sql: tuple[str, ...] = ()
    sources: tuple[SourceLineage, ...]
    features: tuple[FeatureLineage, ...]
    confirmations: tuple[Confirmation, ...] = ()
    terminology: dict[str, str] = {}
    packages: dict[str, str] = {}
    records: _Count
    left_out: _Counts = {}
    tensor: _Named
    at: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z\Z")]
    previous: _Named = FIRST


def of_source(report: SourceReport) -> SourceLineage:
    """What a source reports, once it was read to its end."""
    return SourceLineage(
        name=report.source,
        read=report.read,
        events=report.events,
        refused=_renamed(report.refused),
        noted=_renamed(report.noted),
        snapshot=dict(report.snapshot),
    )


def packages(names: Sequence[str]) -> dict[str, str]:
    """The installed version of each package; empty where it is not installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = ""
    return versions


def encode(record: LineageRecord) -> bytes:
    """The record's canonical bytes.

    Raises:
        ClinicalError: A field is not what it should be, a reason reads as a value, or the record is too large.
    """
    data = canonical.encode(record)
    try:
        msgspec.json.decode(data, type=LineageRecord)
    except msgspec.ValidationError:
        raise ClinicalError("a lineage record has a digest, time or count that is none") from None
    for counts in _reasons(record):
        for reason in counts:
            if _reads_as_value(reason):
                raise ClinicalError("a reason in a lineage record reads as a value: reasons are fixed, short texts")
    if len(data) > canonical.MAX_DOCUMENT_BYTES:
        raise ClinicalError(f"a lineage record may have {canonical.MAX_DOCUMENT_BYTES} bytes: shorten its SQL")
    return data


def decode(data: bytes) -> LineageRecord:
    """Read a record's canonical bytes.

    Raises:
        CodecError: They are none.
    """
    return canonical.decode(data, LineageRecord)


def check_chain(records: Iterable[bytes], *, after: Digest = FIRST) -> Digest:
    """The digest of the last record, if every one names the one before.

    Raises:
        DigestMismatchError: A record was altered, removed, added or moved; says which.
    """
    for number, data in enumerate(records, 1):
        try:
            previous = decode(data).previous
        except CodecError:
            raise DigestMismatchError(f"lineage record {number} was altered: it is no record") from None
        if previous != after:
            raise DigestMismatchError(f"lineage record {number} does not follow the one before it: one was changed")
        after = canonical.digest(data)
    return after


def tensor_digest(
    features: npt.NDArray[np.float32],
    names: Sequence[str],
    labels: npt.NDArray[np.float32],
    held_out: npt.NDArray[np.bool_],
    *,
    patients: npt.NDArray[np.int32] | None = None,
    key: bytes = b"",
) -> Digest:
    """The one text that stands for a tensor: equal arrays under equal names and key, and no others, have it.

    Args:
        features: float32 ``(records, len(names))``.
        names: The feature columns'.
        labels: float32 ``(records,)`` or ``(records, n)``.
        held_out: bool ``(records,)``.
        patients: int32 ``(records,)``, where records are told apart by patient.
        key: The site's; see the module's hazard.

    Raises:
        ValueError: The arrays do not fit together.
    """
    records = len(held_out)
    if features.shape != (records, len(names)) or labels.shape[:1] != (records,) or labels.ndim > 2:
        raise ValueError("features, labels and held_out need one row for each record, and a name for each feature")
    if features.dtype != np.float32 or labels.dtype != np.float32 or held_out.dtype != np.bool_:
        raise ValueError("features and labels are float32, held_out is bool")
    columns: list[tuple[str, str, npt.NDArray[Any]]] = []
    columns += [("feature", name, _equal_bits(features[:, place])) for place, name in enumerate(names)]
    table = labels.reshape(records, -1) if records else labels.reshape(0, labels.shape[1] if labels.ndim == 2 else 1)
    columns += [("label", str(place), _equal_bits(table[:, place])) for place in range(table.shape[1])]
    columns += [("held out", "", held_out.astype("|u1"))]
    columns += [] if patients is None else [("patient", "", patients.astype("<i4"))]
    return Digest(_root([_leaf(role, name, cells, key) for role, name, cells in columns], key).hex())


def _reasons(record: LineageRecord) -> list[Mapping[str, int]]:
    found: list[Mapping[str, int]] = [record.left_out]
    found += [counts for source in record.sources for counts in (source.refused, source.noted)]
    return [*found, *(feature.dropped for feature in record.features)]


def _reads_as_value(reason: str) -> bool:
    return len(reason) > _LONGEST_REASON or not reason.isprintable() or bool(_DIGITS.search(reason))


def _renamed(counts: Mapping[str, int]) -> dict[str, int]:
    kept = {reason: count for reason, count in counts.items() if not _reads_as_value(reason)}
    if others := sum(counts.values()) - sum(kept.values()):
        kept[_OTHER_REASON] = kept.get(_OTHER_REASON, 0) + others
    return kept


def _equal_bits(column: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    equal = column.astype("<f4") + np.float32(0.0)  # -0.0 + 0.0 is 0.0
    equal[np.isnan(equal)] = np.float32(np.nan)
    return equal


def _leaf(role: str, name: str, cells: npt.NDArray[Any], key: bytes) -> bytes:
    head = canonical.encode({"role": role, "name": name, "dtype": cells.dtype.str, "records": len(cells)})
    mac = hmac.new(key, b"\x00" + head + b"\n", "sha256")
    mac.update(np.ascontiguousarray(cells).data)
    return mac.digest()


def _root(leaves: list[bytes], key: bytes) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hmac.digest(key, b"\x01" + _root(leaves[:split], key) + _root(leaves[split:], key), "sha256")
