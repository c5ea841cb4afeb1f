"""The study table: what a contract describes, filled with one site's records, in memory only."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["LoadReport", "StudyTable"]


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What loading did, in counts only: safe to show to a steward, and never sent to the hub."""

    read: int
    used: int
    dropped: int
    implausible: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, repr=False)
class StudyTable:
    """Records as arrays. It has no repr: a patient's value must not reach a log.

    Attributes:
        features: float32 ``(records, width)``; NaN where the contract says that the federated mean stands in.
        labels: float32 ``(records,)``: 0/1, a class's index, or a number; survival ``(records, 2)``: time, event.
        held_out: bool ``(records,)``; true for records that only evaluate.
        report: How the records were read.
    """

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]
    held_out: npt.NDArray[np.bool_]
    report: LoadReport
