"""Differencing: two cohorts that differ by a few patients give away those few, however many each of them has.

A cohort is the set of its patients' marks: 64-bit pseudonyms under the site's key, the same in every study, sorted. Of
a present and a past cohort, those only in the present one and those only in the past one must each be none at all, or
at least k: so that the difference of two answers is never about fewer than k. Equal cohorts do no harm.

One definition at two times is two cohorts. Records grow: a study that comes again with three new patients would give
away the three. It is refused until there are k of them; or, with `settled`, the new ones are set aside and the past
cohort answers again. Where some left (a consent withdrawn), as many more are set aside as make k together. Those are
the patients with the lowest marks, which nobody without the key can foretell, and the same ones each time.

Not protected: what three cohorts or more give away together (A and B, B and C, A and C each differ by k or more, and
inclusion and exclusion still isolates one); what anyone knows of the k themselves; one patient whom the site knows by
two identifiers. Noise, with a budget over all answers, is what bounds those.

References:
    Denning, Schlörer. A fast procedure for finding a tracker in a statistical database. ACM TODS, 1980.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Difference", "checked", "difference", "settled"]

Marks = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Difference:
    """How many patients are in one of two cohorts only."""

    only_present: int
    only_past: int

    def isolates(self, least: int) -> bool:
        """Whether either side is somebody, and fewer than `least`."""
        return 0 < self.only_present < least or 0 < self.only_past < least


def checked(marks: Marks) -> Marks:
    """The marks sorted, each once.

    Raises:
        ValueError: They are no column of uint64.
    """
    if marks.dtype != np.uint64 or marks.ndim != 1:
        raise ValueError("a cohort's marks are one column of uint64")
    return np.unique(marks)


def difference(present: Marks, past: Marks) -> Difference:
    """How two cohorts differ; both are `checked`."""
    common = int(_within(present, past).sum())
    return Difference(len(present) - common, len(past) - common)


def settled(present: Marks, past: Marks, least: int) -> Marks:
    """The present cohort less those whom its difference from a past one would isolate; both are `checked`.

    Nobody is left where that cannot be: where the past cohort itself has fewer than `least` patients.
    """
    found = difference(present, past)
    is_common = _within(present, past)
    if 0 < found.only_present < least:
        present, is_common = present[is_common], is_common[is_common]
    if 0 < found.only_past < least:
        more = least - found.only_past
        present = np.delete(present, np.flatnonzero(is_common)[:more])
    return present[:0] if difference(present, past).isolates(least) else present


def _within(present: Marks, past: Marks) -> npt.NDArray[np.bool_]:
    if not len(past):
        return np.zeros(len(present), dtype=np.bool_)
    places = np.searchsorted(past, present)
    return np.asarray(past[np.minimum(places, len(past) - 1)] == present)
