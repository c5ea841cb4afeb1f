"""How good a site's events are: counts by check and feature, what a study's limits say of them, what a hub may see.

The report is filled from one grouped aggregate over the events, ``GROUP BY feature``, and the cohort's own counts:

    feature   the contract's column that the event counts for; '' for events that no column takes
    rows      events
    missing_value, missing_time, unmapped, invalid_code, unparseable, unknown_unit, below_minimum, above_maximum,
    in_future, before_birth, after_death, duplicate, implausible_sex
              events that fail the check of this name, see `CHECKS`; an event may fail several
    implausible   events that fail at least one check of plausibility (values and times, not units), each counted once

and, apart from it, `covered`: for each feature the cohort's records that have a value in the end. A column that is left
out of the aggregate counts as 0. The checks follow Kahn's categories and, where there is one, OHDSI's Data Quality
Dashboard check, which is named in its `dqd`.

The report is the site's. `summary` is what a hub may see of it: counts are rounded to multiples of `small_cell` and
hidden below it (a zero too), so that no count, and no difference of two, tells of fewer than about so many events;
drift is a word. Hazard: a report asked for again after one record was added may cross a step.

An impossible sex is for a steward to look at: of people whose recorded sex is not the one of their organs, it is true.

References:
    Kahn et al. A harmonized data quality assessment terminology. eGEMs, 2016.
    Blacketer et al. Increasing trust in real-world evidence through evaluation of observational data quality.
    JAMIA, 2021.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from wardround.clinical import disclosure
from wardround.clinical.derivation import Quality
from wardround.errors import ClinicalError

__all__ = [
    "CHECKS",
    "SEX_SPECIFIC",
    "Check",
    "Drift",
    "FeatureQuality",
    "FeatureSummary",
    "QualityReport",
    "QualitySummary",
    "check",
    "drift",
    "filled",
    "sex_of",
    "summary",
]


@dataclass(frozen=True, slots=True)
class Check:
    """Which of Kahn's categories a check belongs to, and its name in OHDSI's Data Quality Dashboard, if it is there."""

    category: Literal["conformance", "completeness", "plausibility"]
    dqd: str = ""


CHECKS: Final[Mapping[str, Check]] = {
    "missing_value": Check("completeness", "measureValueCompleteness"),
    "missing_time": Check("conformance", "isRequired"),
    "unmapped": Check("completeness", "standardConceptRecordCompleteness"),
    "invalid_code": Check("conformance", "isStandardValidConcept"),
    "unparseable": Check("conformance", "cdmDatatype"),
    "duplicate": Check("conformance", "isPrimaryKey"),
    "unknown_unit": Check("plausibility", "plausibleUnitConceptIds"),
    "below_minimum": Check("plausibility", "plausibleValueLow"),
    "above_maximum": Check("plausibility", "plausibleValueHigh"),
    "in_future": Check("plausibility"),
    "before_birth": Check("plausibility", "plausibleAfterBirth"),
    "after_death": Check("plausibility", "plausibleBeforeDeath"),
    "implausible_sex": Check("plausibility", "plausibleGenderUseDescendants"),
    "implausible": Check("plausibility"),
}
"""Every check by the name of its column in the aggregate."""

_MALE_ICD10: Final = (
    *(f"C{number}" for number in range(60, 64)),
    "D29",
    "D40",
    "E29",
    *(f"N{number}" for number in range(40, 52)),
    *(f"Q{number}" for number in range(53, 56)),
)
_FEMALE_ICD10: Final = (
    *(f"C{number}" for number in range(51, 59)),
    "D06",
    *(f"D{number}" for number in range(25, 29)),
    "D39",
    "E28",
    *(f"N{number}" for number in (*range(70, 78), *range(80, 99))),
    "O",
    *(f"Q{number}" for number in range(50, 53)),
    *(f"Z{number}" for number in range(32, 37)),
)
_MALE_ICD9: Final = ("185", "186", "187", "222", "233.4", "236.4", "236.5", "257", "60", "752.5")
_FEMALE_ICD9: Final = (
    *(str(number) for number in (*range(179, 185), *range(218, 222), 256, *range(614, 620), *range(62, 68))),
    *("233.1", "233.2", "233.3", "236.0", "236.1", "236.2", "236.3", "752.0", "752.1", "752.2", "752.3", "752.4"),
    *("V22", "V23", "V24", "V27", "V28"),
)
_ICD10: Final = {**dict.fromkeys(_MALE_ICD10, "male"), **dict.fromkeys(_FEMALE_ICD10, "female")}
SEX_SPECIFIC: Final[Mapping[str, Mapping[str, str]]] = {
    "icd10": _ICD10,
    "icd10cm": {**_ICD10, "N52": "male", "N53": "male"},
    "icd9cm": {**dict.fromkeys(_MALE_ICD9, "male"), **dict.fromkeys(_FEMALE_ICD9, "female")},
}
"""By system, how codes begin that are about the organs of one sex. No code here begins as another one does."""

_Count = Annotated[int, msgspec.Meta(ge=0)]
_SOME, _LARGE = 0.1, 0.25  # The customary limits of the population stability index.


class Drift(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a feature's histogram lies from that of all sites: population stability index, Kolmogorov-Smirnov."""

    psi: float
    ks: float


class FeatureQuality(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One feature: its events, those that fail each check, and the cohort's records that have a value of it."""

    rows: _Count = 0
    counts: dict[str, _Count] = {}
    covered: _Count = 0
    drift: Drift | None = None


class QualityReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the site sees. `other` are the events that no feature takes; `records` and `patients` are the cohort's."""

    records: _Count
    patients: _Count
    features: dict[str, FeatureQuality]
    other: FeatureQuality = FeatureQuality()

    def total(self, name: str) -> int:
        """How many events fail a check; ``rows``: how many there are."""
        every = [*self.features.values(), self.other]
        return sum(one.rows if name == "rows" else one.counts.get(name, 0) for one in every)


class FeatureSummary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a hub may see of one feature; None is fewer than `small_cell`."""

    rows: int | None
    covered: int | None
    counts: dict[str, int | None]
    drift: Literal["unknown", "none", "some", "large"]


class QualitySummary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a hub may see; every count is rounded to a multiple of `small_cell`."""

    small_cell: int
    records: int | None
    features: dict[str, FeatureSummary]
    totals: dict[str, int | None]


def filled(
    grouped: Mapping[str, Mapping[str, int]],
    covered: Mapping[str, int],
    *,
    records: int,
    patients: int,
    drifts: Mapping[str, Drift] | None = None,
) -> QualityReport:
    """The report from the aggregate's rows by feature; `covered` names every feature.

    Raises:
        ClinicalError: A feature or column that is unknown, or counts that cannot be.
    """
    drifts = drifts or {}
    if unknown := {*grouped, *drifts} - {*covered, ""}:
        raise ClinicalError(f"the quality report has no feature {min(unknown)!r}")
    features = {
        name: _feature(name, grouped.get(name, {}), covered[name], records, drifts.get(name)) for name in covered
    }
    if min(records, patients) < 0 or patients > records:
        raise ClinicalError("the quality report needs at least one record of every patient of the cohort")
    other = _feature("", grouped.get("", {}), 0, records, None)
    return QualityReport(records=records, patients=patients, features=features, other=other)


def check(report: QualityReport, limits: Quality) -> list[str]:
    """Why the load is refused, for the site to read; empty where it is not.

    Each limit holds for every feature, and for all events together.
    """
    refusals = []
    for name, feature in report.features.items():
        share = feature.covered / report.records if report.records else 0.0
        if share < limits.min_coverage:
            refusals.append(
                f"feature {name!r}: {feature.covered} of {report.records} records have a value, and min_coverage is "
                f"{limits.min_coverage:g}"
            )
    for column, limit in _limits(limits).items():
        found = [
            refusal
            for name, feature in report.features.items()
            for refusal in _exceeding(f"feature {name!r}", column, feature.counts.get(column, 0), feature.rows, limit)
        ]
        refusals += found or _exceeding("all events", column, report.total(column), report.total("rows"), limit)
    return refusals


def summary(report: QualityReport, small_cell: int) -> QualitySummary:
    """The report as a hub may see it."""
    step = max(small_cell, 1)

    def told(count: int) -> int | None:
        return None if count < step else int(disclosure.rounded(count, step))

    features = {
        name: FeatureSummary(
            rows=told(one.rows),
            covered=told(one.covered),
            counts={column: told(one.counts.get(column, 0)) for column in CHECKS},
            drift=_word(one.drift) if min(one.covered, report.records) >= step else "unknown",
        )
        for name, one in report.features.items()
    }
    totals = {column: told(report.total(column)) for column in ("rows", *CHECKS)}
    return QualitySummary(small_cell=step, records=told(report.records), features=features, totals=totals)


def drift(counts: Sequence[int], reference: Sequence[int]) -> Drift:
    """How far a histogram lies from another one over the same bins, half a record added to each bin for the index.

    Raises:
        ValueError: The bins differ, or there are none.
    """
    here, there = np.asarray(counts, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if here.shape != there.shape or here.ndim != 1 or not len(here) or min(here.min(), there.min()) < 0:
        raise ValueError("two histograms need the same bins, and no count below 0")
    near, far = _shares(here + 0.5), _shares(there + 0.5)
    psi = float(((near - far) * np.log(near / far)).sum())
    if not (here.any() and there.any()):
        return Drift(psi, 0.0 if here.any() == there.any() else 1.0)
    return Drift(psi, float(np.abs(np.cumsum(_shares(here)) - np.cumsum(_shares(there))).max()))


def sex_of(system: str, code: str) -> str | None:
    """The sex whose organs a code is about, or None where it may be anyone's."""
    prefixes = SEX_SPECIFIC.get(system, {})
    return next((prefixes[code[:size]] for size in range(1, len(code) + 1) if code[:size] in prefixes), None)


def _feature(name: str, row: Mapping[str, int], covered: int, records: int, found: Drift | None) -> FeatureQuality:
    where = f"feature {name!r}" if name else "events of no feature"
    if unknown := set(row) - {"rows", *CHECKS}:
        raise ClinicalError(f"{where}: the quality report has no check {min(unknown)!r}")
    rows = int(row.get("rows", 0))
    counts = {column: int(row.get(column, 0)) for column in CHECKS}
    if not all(0 <= count <= rows for count in counts.values()) or not 0 <= covered <= records:
        raise ClinicalError(f"{where}: a check fails for more events than there are, or for fewer than none")
    return FeatureQuality(rows=rows, counts=counts, covered=covered, drift=found)


def _limits(limits: Quality) -> dict[str, float]:
    return {
        "unmapped": limits.unmapped_max,
        "unknown_unit": limits.unknown_unit_max,
        "unparseable": limits.unparseable_max,
        "implausible": limits.implausible_max,
    }


def _exceeding(where: str, column: str, count: int, rows: int, limit: float) -> list[str]:
    if not rows or count / rows <= limit:
        return []
    return [f"{where}: {column.replace('_', ' ')} in {count} of {rows} events, and {column}_max is {limit:g}"]


def _word(found: Drift | None) -> Literal["unknown", "none", "some", "large"]:
    if found is None:
        return "unknown"
    return "none" if found.psi < _SOME else "some" if found.psi < _LARGE else "large"


def _shares(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(counts / counts.sum())
