"""A site's training patients as bags of records, and the pieces in which a step goes through some of them.

A patient is one item whatever the number of records: its gradient is the mean over at most `patient_records` of them,
the first in the table's order. Pieces hold at most so many patients that their sums may be added in floating point
(`wardround.privacy.noising.PIECE`), and at most so many records that memory stays small.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from wardround.clinical.table import StudyTable, public_count
from wardround.privacy import noising
from wardround.protocol.plan import Plan

__all__ = ["Bags", "weight"]

_PIECE_RECORDS = 4096


class Bags:
    """Bags of the records that are not held out.

    Args:
        patients: int, shape=(records,): whose record it is, of the training records alone, in their order.
        most: The most records of one patient that count.
    """

    def __init__(self, patients: npt.NDArray[np.integer], most: int) -> None:
        _, first, own, counts = np.unique(patients, return_index=True, return_inverse=True, return_counts=True)
        order = np.argsort(own, kind="stable")
        starts = np.concatenate([[0], np.cumsum(counts)])
        self._rows, self._starts, self._counts = order, starts, np.minimum(counts, most)
        self.patients, self.most_records = len(first), int(self._counts.max(initial=1))

    @property
    def most_pieces(self) -> int:
        """How many pieces a step has at most."""
        per_piece = max(1, min(noising.PIECE, _PIECE_RECORDS // self.most_records))
        return -(-self.patients // per_piece) + 1

    def pieces(self, chosen: npt.NDArray[np.bool_]) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]]:
        """The chosen patients, those with the fewest records first.

        Yields:
            rows: int, shape=(patients, m): places of records among the training records; padded with any.
            weights: float32, shape=(patients, m): one over a patient's number of records, and 0 for what is padded.
        """
        places = np.flatnonzero(chosen)
        places = places[np.argsort(self._counts[places], kind="stable")]
        start = 0
        while start < len(places):
            stop = min(start + noising.PIECE, len(places))
            while stop - start > 1 and (stop - start) * self._counts[places[stop - 1]] > _PIECE_RECORDS:
                stop = start + (stop - start) // 2
            yield self._piece(places[start:stop])
            start = stop

    def _piece(self, places: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
        counts = self._counts[places][:, None]
        within = np.arange(int(counts.max()))[None, :]
        is_real = within < counts
        rows = self._rows[np.where(is_real, self._starts[places][:, None] + within, self._starts[places][:, None])]
        return rows, np.where(is_real, 1.0 / counts, 0.0).astype(np.float32)


def weight(plan: Plan, table: StudyTable, *, held_out: bool = False) -> int:
    """For how much a site counts: its training or held-out records; in a private plan patients, or 1 as a whole."""
    if plan.privacy is None:
        return int(np.count_nonzero(table.held_out == held_out))
    return 1 if plan.privacy.unit == "site" else public_count(table, plan.data, held_out=held_out)
