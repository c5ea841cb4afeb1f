"""Between reading and training: quality, disclosure, past cohorts and lineage, before any number is computed.

In this order, and each fails closed:

1. The share of wrong events is within the contract's limits (`clinical.quality`).
2. Enough patients and classes, and k-anonymity, l-diversity and t-closeness over the quasi-identifiers; records that
   would break these are left out, up to the contract's share (`clinical.disclosure`).
3. The cohort differs from every cohort that this node has answered for by nobody, or by at least k patients
   (`storage.past_cohorts`); who would be isolated is set aside.
4. A lineage record is written and durable (`storage.lineage_log`).

The site's people read every reason; what leaves the site is the error's code.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hmac import digest as hmac_digest
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from wardround.clinical import contract as contracts
from wardround.clinical import disclosure, quality
from wardround.clinical.contract import DataContract
from wardround.clinical.derivation import Disclosure
from wardround.clinical.quality import QualityReport
from wardround.clinical.table import StudyTable
from wardround.codec import canonical
from wardround.errors import PolicyError, TooFewRecordsError
from wardround.harmonization import lineage
from wardround.harmonization.harmonize import Harmonized
from wardround.ids import Digest
from wardround.sources.harmonized import HarmonizedSource
from wardround.storage.lineage_log import LineageLog
from wardround.storage.past_cohorts import PastCohorts

__all__ = ["COHORTS", "LINEAGE", "Admitted", "admit", "admit_events", "quality_of", "rules_of"]

COHORTS: Final = "cohorts"
LINEAGE: Final = "lineage.jsonl"

_COHORT_KEY: Final = b"wardround past cohorts 1"
_PACKAGES: Final = ("wardround", "duckdb", "ibis-framework", "numpy", "pyarrow", "pint", "ucumvert")
_MAPPED: Final = {
    "no_value": "missing_value",
    "unknown_unit": "unknown_unit",
    "too_low": "below_minimum",
    "too_high": "above_maximum",
    "duplicate": "duplicate",
    "future": "in_future",
}
"""What the feature plan left out, and the quality check that it fails."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Admitted:
    """A table that may be computed on, what was left out of it by gate, and its lineage record's digest, if any."""

    table: StudyTable
    left_out: dict[str, int]
    lineage: Digest | None = None


def admit(table: StudyTable, contract: DataContract) -> Admitted:
    """Pass a table through the contract's gates.

    Raises:
        PolicyError: A rule does not hold; says which.
    """
    found = disclosure.admission(table, contract, contract.disclosure)
    if found.refusals:
        raise PolicyError("the site's records do not meet the disclosure rules: " + "; ".join(found.refusals))
    return Admitted(table=_kept(table, found.keep), left_out=_count("anonymity", ~found.keep))


def admit_events(
    source: HarmonizedSource, contract: DataContract, *, site: str, study: str, state: Path | None
) -> Admitted:
    """Read a site's events for `contract`, and pass them through every gate.

    Args:
        source: The site's events.
        contract: The study's.
        site: The site's name, for the lineage.
        study: The plan that asks; the contract's digest where there is none yet.
        state: Where the node remembers past cohorts and lineage; None neither compares nor writes.

    Raises:
        ClinicalError: A source cannot be read, or its values do not fit.
        PolicyError: The events are worse than the contract allows, too few, break a disclosure rule, or would isolate
            patients of a past cohort; which of these does not leave the site.
    """
    # What share of the local codes nobody has confirmed shows only to who reads them all.
    harmonized = source.read(contract, restricted=contract.quality.unmapped_max >= 1.0)
    if refusals := quality.check(quality_of(harmonized, contract), contract.quality):
        raise PolicyError("the site's events are not good enough for this study: " + "; ".join(refusals))
    rules = rules_of(contract, source.mapping.disclosure)
    try:
        table = harmonized.table()
    except TooFewRecordsError as error:
        # One code for whatever refuses a cohort, or the code would count it.
        raise PolicyError(str(error)) from None
    admitted = admit(table, msgspec.structs.replace(contract, disclosure=rules))
    if state is None:
        return admitted
    table, left_out = admitted.table, dict(admitted.left_out)
    if rules.k > 1:
        definition = canonical.digest(canonical.encode([contract.cohort, contract.value_sets, contract.consent]))
        key = hmac_digest(source.key, _COHORT_KEY, "sha256")
        allowed = PastCohorts(state / COHORTS, key).settle(definition, harmonized.marks_of(table), rules.k)
        keep = harmonized.within(table, allowed)
        left_out |= _count("would be isolated by a past cohort", ~keep)
        table = _kept(table, keep)
        if not disclosure.admission(table, contract, rules).keep.all():
            raise PolicyError("without the patients whom a past cohort would isolate, the disclosure rules do not hold")
    if len(table.held_out) < contract.min_records:
        raise PolicyError(f"{len(table.held_out)} records are left, and the contract asks for more")
    record = _record(source, harmonized, contract, table, left_out, site=site, study=study)
    written = LineageLog(state / LINEAGE).append(record)
    return Admitted(table=table, left_out=left_out, lineage=written)


def rules_of(contract: DataContract, site: Disclosure) -> Disclosure:
    """Of the study's and the site's rules the stricter; the site's quasi-identifiers count where the study has them."""
    columns = {column.name for column in contract.columns}
    known = tuple(name for name in site.quasi_identifiers if name in columns)
    return disclosure.stricter(contract.disclosure, msgspec.structs.replace(site, quasi_identifiers=known))


def quality_of(harmonized: Harmonized, contract: DataContract) -> QualityReport:
    """The data-quality report, from what the feature plan counted and what the sources remarked."""
    told, assembled = harmonized.told, harmonized.assembled
    grouped: dict[str, dict[str, int]] = {}
    covered: dict[str, int] = {}
    for column in (*(one.name for one in contract.columns), contract.label.name):
        counts = told.facts.get(column, {})
        failed = {check: counts.get(reason, 0) for reason, check in _MAPPED.items()}
        failed["before_birth"], failed["after_death"] = told.misplaced.get(column, (0, 0))
        values = ("below_minimum", "above_maximum", "in_future", "before_birth", "after_death")
        failed["implausible"] = sum(failed[check] for check in values)
        grouped[column] = {"rows": sum(counts.values()), **failed}
        covered[column] = _present(assembled.cells[column])
    missing_time = sum(told.undated.values())
    unparseable = sum(
        count
        for source in told.sources
        for remark, count in (*source.noted.items(), *source.refused.items())
        if "unparseable" in remark
    )
    unmapped = sum(told.unmapped.values())
    invalid = sum(told.invalid.values())
    others = {"unmapped": unmapped, "unparseable": unparseable, "invalid_code": invalid, "missing_time": missing_time}
    grouped[""] = {"rows": sum(others.values()), **others}
    return quality.filled(grouped, covered, records=assembled.records, patients=harmonized.patients)


def _present(cells: npt.NDArray[np.generic]) -> int:
    if cells.dtype == object:
        return sum(cell is not None for cell in cells.tolist())
    gaps = np.isnan(cells)
    return int((~gaps.any(axis=tuple(range(1, gaps.ndim)))).sum())


def _kept(table: StudyTable, keep: npt.NDArray[np.bool_]) -> StudyTable:
    if keep.all():
        return table
    _, patients = np.unique(table.patients[keep], return_inverse=True)
    used = int(keep.sum())
    report = replace(
        table.report, used=used, dropped=table.report.read - used, patients=int(patients.max(initial=-1)) + 1
    )
    numbers, rows = patients.astype(np.int32), table.rows[keep]
    return StudyTable(table.features[keep], table.labels[keep], table.held_out[keep], report, numbers, rows)


def _count(name: str, gone: npt.NDArray[np.bool_]) -> dict[str, int]:
    return {name: int(gone.sum())} if gone.any() else {}


def _record(
    source: HarmonizedSource,
    harmonized: Harmonized,
    contract: DataContract,
    table: StudyTable,
    left_out: dict[str, int],
    *,
    site: str,
    study: str,
) -> lineage.LineageRecord:
    of_contract = canonical.digest(canonical.encode(contract))
    statements = [f"{name}: {sql}" for name, sql in harmonized.statements.items()]
    return lineage.LineageRecord(
        site=site,
        study=Digest(study or of_contract),
        contract=of_contract,
        mapping=source.digest,
        plan=canonical.digest(canonical.encode(statements)),
        engine=harmonized.engine,
        sql=tuple(statements),
        sources=tuple(lineage.of_source(report) for report in harmonized.told.sources),
        features=tuple(_feature(harmonized, contract)),
        confirmations=source.confirmed,
        terminology=contract.terminology,
        packages=lineage.packages(_PACKAGES),
        records=len(table.held_out),
        left_out={**harmonized.told.left_out, **left_out},
        tensor=lineage.tensor_digest(
            table.features,
            contracts.feature_names(contract),
            table.labels,
            table.held_out,
            patients=table.patients,
            key=source.key,
        ),
        at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def _feature(harmonized: Harmonized, contract: DataContract) -> Sequence[lineage.FeatureLineage]:
    told, found = harmonized.told, []
    for name in (*(column.name for column in contract.columns), *contracts.label_columns(contract)):
        counts = told.facts.get(name, {})
        used = counts.get("used", 0)
        found.append(
            lineage.FeatureLineage(
                name=name,
                rows=sum(counts.values()),
                mapped=sum(counts.values()),
                converted=used + counts.get("duplicate", 0) + counts.get("too_low", 0) + counts.get("too_high", 0),
                dropped={reason: count for reason, count in counts.items() if reason != "used"},
                records=_present(harmonized.assembled.cells[name]),
            )
        )
    return found
