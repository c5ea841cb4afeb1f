"""Who has consented, from all that was said of it: what is not clearly a permission in force denies.

1. What takes effect after the present, or became known after it, is not heeded yet.
2. What was entered in error is as if never said. Anything else that is not final, amended or corrected, or says neither
   permit nor deny, counts as a denial.
3. A denial without a time always counts; a permission without a time never does.
4. Of the rest the latest holds, and of one instant the denial.
"""

from collections.abc import Mapping
from typing import Final

import pyarrow as pa

from wardround.harmonization.events import KEPT_STATUSES, STATUSES

__all__ = ["verdicts"]

_KEPT: Final = {STATUSES.index(status) for status in KEPT_STATUSES}
_MISTAKEN: Final = STATUSES.index("entered-in-error")


def verdicts(said: pa.Table, now_us: int | None) -> Mapping[str, bool]:
    """For each patient of whom something was said that counts, whether it permits.

    Args:
        said: Columns of `wardround.harmonization.harvest.CONSENTS`, without what a later version replaced.
        now_us: The present; None heeds everything.
    """
    latest: dict[str, tuple[float, bool]] = {}
    for row in said.to_pylist():
        if row["status"] == _MISTAKEN:
            continue
        times = [at for at in (row["time_us"], row["at"]) if at is not None]
        if now_us is not None and any(at > now_us for at in times):
            continue
        permits = row["value"] == "permit" and row["status"] in _KEPT
        if row["time_us"] is None and permits:
            continue
        when = float("inf") if row["time_us"] is None else row["time_us"]
        before = latest.get(row["patient"])
        if before is None or (when, not permits) > (before[0], not before[1]):
            latest[row["patient"]] = (when, permits)
    return {patient: permits for patient, (_, permits) in latest.items()}
