"""The study table: what a contract describes, filled with one site's records, in memory only."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from wardround.clinical.contract import DataContract
from wardround.errors import ClinicalError

__all__ = ["LoadReport", "StudyTable", "check_patients", "public_count"]

_EACH_ITS_OWN = np.empty(0, dtype=np.int32)
_ALL = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What loading did, in counts only: safe to show to a steward, and never sent to the hub.

    `patients` have records that are used; `owners` are all whose records were read, whatever was dropped of them, and
    0 where that is not known.
    """

    read: int
    used: int
    dropped: int
    implausible: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    patients: int = 0
    owners: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class StudyTable:
    """Records as arrays. It has no repr: a patient's value must not reach a log.

    Attributes:
        features: float32 ``(records, width)``; NaN where the contract says that the federated mean stands in.
        labels: float32 ``(records,)``: 0/1, a class's index, or a number; survival ``(records, 2)``: time, event.
        held_out: bool ``(records,)``; true for records that only evaluate.
        report: How the records were read.
        patients: int32 ``(records,)``: whose record it is, numbered from 0 without a gap. Left out, each record is
            a patient of its own.
        rows: int64 ``(records,)``: each record's place among those that were read. Left out, nothing was dropped.

    Raises:
        ClinicalError: The patients are not so numbered.
    """

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]
    held_out: npt.NDArray[np.bool_]
    report: LoadReport
    patients: npt.NDArray[np.int32] = field(default_factory=lambda: _EACH_ITS_OWN)
    rows: npt.NDArray[np.int64] = field(default_factory=lambda: _ALL)

    def __post_init__(self) -> None:
        """Number the patients where nobody has."""
        records = len(self.held_out)
        if self.patients is _EACH_ITS_OWN:
            object.__setattr__(self, "patients", np.arange(records, dtype=np.int32))
        if self.rows is _ALL:
            object.__setattr__(self, "rows", np.arange(records))
        check_patients(self.patients, records)


def public_count(table: StudyTable, contract: DataContract, *, held_out: bool) -> int:
    """How many patients train, or are held out, as a number that no value of a record changes.

    A contract's plausible ranges choose whose records are used, so how many these are would be an answer to whatever
    question they ask. This counts all patients of the source, and divides them by the contract's share; tables
    that do not come from a source count the patients that they have.
    """
    total = table.report.owners
    if not total or contract.holdout_column:
        return total or len(np.unique(table.patients[table.held_out == held_out]))
    apart = min(round(contract.holdout * total), total - 1)
    return apart if held_out else total - apart


def check_patients(patients: npt.NDArray[np.int32], records: int) -> None:
    """Refuse what are not the patients of so many records: another form, or numbers with a gap.

    Raises:
        ClinicalError: Says which.
    """
    if patients.dtype != np.int32 or patients.shape != (records,):
        raise ClinicalError("the patients' numbers are not one int32 for each record")
    if records and (patients.min() < 0 or patients.max() >= records or not np.bincount(patients).all()):
        raise ClinicalError("the patients are not numbered from 0 without a gap")
