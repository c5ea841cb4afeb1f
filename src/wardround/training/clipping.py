"""Parts of a clipped sum: what each parameter adds, once the patients' norms are known.

The squared norm of a patient's ``sum of g a^T`` over L positions (see `wardround.training.layer_gradients`) comes from
the cheapest of

    L = 1      |g|^2 |a|^2
    Gram       sum over pairs of positions of  (a_i . a_j) (g_i . g_j), without the gradient itself
    in full    the gradient, made for a few patients at a time

and the clipped sum is then one product, ``sum of (factor g) a^T``. Where the patients' gradients together take no more
memory than what they are made from (convolutions of few channels), they are kept instead, and added.

Hazard: that product rounds, and the records of one patient may cancel one another: then what is left may be smaller
than its rounding error. Gram matrices are therefore made in float64, and each factor is ``clip / (norm + margin)``,
with a margin of few units in the last place of what was summed: 1e-6 of the norm, and more only for a patient whose
records do cancel one another. No share is longer than `clip` for all that rounding does.

References:
    Goodfellow. Efficient Per-Example Gradient Computations. arXiv:1510.01799.
    Li et al. Large Language Models Can Be Strong Differentially Private Learners. arXiv:2110.05679 (Gram matrices).
    Bu, Wang, Zha, Karypis. Differentially Private Optimization on Large Model at Small Cost. arXiv:2210.00038.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

__all__ = ["Grouping", "OuterProducts", "Part", "add_clipped", "kept", "pieces_of", "squares_of", "wide_dtype"]

_PIECE = 1 << 18
"""Elements worked on at a time: 1 MiB of float32 stays in the processor's cache."""
_RUN = 1024
"""Elements whose squares are summed in float32, sixteen sums at a time; beyond, in float64."""
_LEAST, _MOST = 1e-12, 1e18
"""Between these no square of a float32 that matters underflows, and none overflows."""
_UNITS = 8
"""Units in the last place by which a sum of outer products may be off, of the summed norms of its summands."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """Which records make up a patient: neighbours, in groups of patients with equally many.

    Attributes:
        patients: How many; each has a record.
        records: How many, of all.
        groups: The first patient, the first record, how many patients, how many records of each.
        counts: ``(patients,)`` int64.
    """

    patients: int
    records: int
    groups: tuple[tuple[int, int, int, int], ...]
    counts: torch.Tensor

    @staticmethod
    def of(counts: torch.Tensor) -> "Grouping":
        """From ``(patients,)`` int64, positive; equal counts are neighbours."""
        sizes, runs = torch.unique_consecutive(counts, return_counts=True)
        groups, patient, record = [], 0, 0
        for size, run in zip(sizes.tolist(), runs.tolist(), strict=True):
            groups.append((patient, record, run, size))
            patient, record = patient + run, record + run * size
        return Grouping(patient, record, tuple(groups), counts)

    def of_records(self, values: torch.Tensor) -> torch.Tensor:
        """``(patients,)`` as ``(records,)``: each record has its patient's value."""
        return values if self.records == self.patients else torch.repeat_interleave(values, self.counts)

    def sums(self, rows: torch.Tensor) -> torch.Tensor:
        """``(records, width)`` as ``(patients, width)``."""
        if self.records == self.patients:
            return rows
        found = torch.empty(self.patients, rows.shape[1], dtype=wide_dtype(rows))
        for patient, record, run, size in self.groups:
            part = rows[record : record + run * size].view(run, size, -1)
            torch.sum(part, 1, dtype=found.dtype, out=found[patient : patient + run])
        return found

    def runs(self, most: int) -> Iterator[tuple[int, int, int]]:
        """The first and last record of at most so many patients at a time, and how many each of these has."""
        for _, record, run, size in self.groups:
            for start in range(0, run, most):
                yield record + start * size, record + min(run, start + most) * size, size

    def pieces(self, elements: Callable[[int], int]) -> Iterator[tuple[slice, slice, int]]:
        """Patients, their records and how many each has, in pieces; `elements` is what one of so many records takes."""
        for patient, record, run, size in self.groups:
            step = max(1, _PIECE // elements(size))
            for start in range(0, run, step):
                stop = min(run, start + step)
                records = slice(record + start * size, record + stop * size)
                yield slice(patient + start, patient + stop), records, size


@dataclass(frozen=True, slots=True)
class Part:
    """What one parameter adds.

    Attributes:
        squares: ``(patients,)`` float64, squared norms of the patients' gradients.
        reach: ``(patients,)`` float64, squares of the summed norms of their summands; None where nothing is
            rounded after the norm was taken.
        add: Given the flat vector, ``(patients,)`` factors in float64 and which patients to leave out (bool, or
            None), adds the weighted sum of the gradients.
    """

    squares: torch.Tensor
    reach: torch.Tensor | None
    add: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], None]


def add_clipped(parts: Sequence[Part], clip: float, out: torch.Tensor) -> torch.Tensor:
    """Add the patients' clipped gradients to `out`; their norms before, ``inf`` where not finite."""
    squares = torch.stack([part.squares for part in parts]).sum(0)
    norms = squares.sqrt()
    summed = sum((part.reach for part in parts if part.reach is not None), torch.zeros((), dtype=torch.float64))
    margin = _UNITS * torch.finfo(out.dtype).eps * summed.sqrt()
    # A norm beyond float32 is that of a gradient which float32 could not hold.
    dropped = ~(norms + margin <= torch.finfo(torch.float32).max)
    factors = (clip / (norms + margin)).clamp_(max=1.0)
    factors[factors < torch.finfo(torch.float32).tiny] = 0.0  # subnormal numbers have few digits
    some = dropped if bool(dropped.any()) else None
    for part in parts:
        part.add(out, factors, some)
    return norms.masked_fill_(dropped, math.inf)


def kept(rows: torch.Tensor, place: slice, squares: torch.Tensor | None = None) -> Part:
    """A parameter of which every patient's gradient is there, as ``(patients, elements)``."""

    def add(out: torch.Tensor, factors: torch.Tensor, dropped: torch.Tensor | None) -> None:
        chosen, weights = (rows, factors) if dropped is None else (rows[~dropped], factors[~dropped])
        wide, target = wide_dtype(rows), out[place]
        weights = weights.to(wide)
        for piece in pieces_of(chosen):
            _ = _add_mv(target, chosen[piece].to(wide), weights[piece])

    return Part(squares_of(rows) if squares is None else squares, None, add)


class OuterProducts:
    """A weight whose gradient is a sum of outer products, of `columns`: ``(patients * groups, rows, positions)``."""

    def __init__(
        self,
        inputs: torch.Tensor,
        gradient: torch.Tensor,
        bags: Grouping,
        place: slice,
        columns: Callable[[slice, int], tuple[torch.Tensor, torch.Tensor]],
        product: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None],
        positions: int,
        groups: int,
    ) -> None:
        self._inputs, self._gradient, self._bags, self._place = inputs, gradient, bags, place
        self._columns, self._product, self._positions, self._groups = columns, product, positions, groups
        self._elements: int = place.stop - place.start
        self._outputs: int = gradient.numel() // (bags.records * positions * groups)
        self._width: int = self._elements // (self._outputs * groups)
        self._wide = wide_dtype(gradient)

    def part(self, known: torch.Tensor | None) -> Part:
        """`known`: the squared norms of the gradient's rows, where every patient has one position."""
        bags = self._bags
        room = self._inputs.numel() + self._gradient.numel()
        if self._positions * bags.records > bags.patients and bags.patients * self._elements <= room:
            return self._kept()
        if known is not None:
            squares = known * squares_of(self._inputs.reshape(bags.records, -1))
            return Part(squares, squares, self._add)
        squares = torch.empty(bags.patients, dtype=torch.float64)
        reach = torch.empty(bags.patients, dtype=torch.float64)
        for patients, records, size in bags.pieces(self._elements_of_norms):
            seen, gone = (each.to(self._wide) for each in self._columns(records, size))
            norms, summands = self._norms(seen, gone)
            squares[patients] = norms.view(-1, self._groups).sum(1)
            reach[patients] = summands.view(-1, self._groups).sum(1)
        return Part(squares, reach, self._add)

    def _kept(self) -> Part:
        bags = self._bags
        rows = torch.empty(bags.patients, self._elements, dtype=self._wide)
        for patients, records, size in bags.pieces(self._elements_of_columns):
            seen, gone = (each.to(self._wide) for each in self._columns(records, size))
            made = rows[patients].view(len(seen), gone.shape[1], seen.shape[1])
            torch.bmm(gone, seen.transpose(1, 2), out=made)
        return kept(rows, self._place)

    def _elements_of_columns(self, size: int) -> int:
        return size * self._positions * (self._width + self._outputs) * self._groups

    def _elements_of_norms(self, size: int) -> int:
        # Float64 takes twice the room.
        return 2 * self._elements_of_columns(size) + (0 if self._is_gram(size) else self._elements)

    def _is_gram(self, size: int) -> bool:
        # Float64 takes twice the time.
        return 2 * size * self._positions * (self._width + self._outputs) < self._width * self._outputs

    def _norms(self, seen: torch.Tensor, gone: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared norms of ``gone seen^T`` by batch, and the squares of the summed norms of their summands."""
        if seen.shape[2] > 1 and self._is_gram(seen.shape[2] // self._positions):
            seen, gone = seen.double(), gone.double()  # pairs of positions may cancel
            products = torch.bmm(seen.transpose(1, 2), seen).mul_(torch.bmm(gone.transpose(1, 2), gone))
            summands = products.diagonal(dim1=1, dim2=2).sqrt().sum(1).square_()
            return products.sum((1, 2)).clamp_(min=0.0), summands
        if seen.shape[2] == 1:
            summands = squares_of(seen.flatten(1)).mul_(squares_of(gone.flatten(1)))
            return summands, summands
        lengths = [torch.linalg.vector_norm(each, dim=1).double() for each in (seen, gone)]
        summands = lengths[0].mul_(lengths[1]).sum(1).square_()
        return squares_of(torch.bmm(gone, seen.transpose(1, 2)).flatten(1)), summands

    def _add(self, out: torch.Tensor, factors: torch.Tensor, dropped: torch.Tensor | None) -> None:
        inputs, gradient = self._inputs, self._gradient
        weights = self._bags.of_records(factors).to(self._wide)
        if dropped is not None:
            chosen = ~self._bags.of_records(dropped)
            inputs, gradient, weights = inputs[chosen], gradient[chosen], weights[chosen]
        shape = (-1,) + (1,) * (gradient.dim() - 1)
        for piece in pieces_of(gradient, 4 * _PIECE):
            scaled = gradient[piece].to(self._wide) * weights[piece].view(shape)
            self._product(out[self._place], scaled, inputs[piece].to(self._wide))


def squares_of(rows: torch.Tensor) -> torch.Tensor:
    """``(rows,)`` squared norms in float64, of ``(rows, elements)`` of any floating dtype and size."""
    squares = [_squares_of_run(rows[:, start : start + _RUN]) for start in range(0, rows.shape[1], _RUN)]
    return torch.stack(squares).sum(0) if len(squares) > 1 else squares[0]


def _squares_of_run(rows: torch.Tensor) -> torch.Tensor:
    norms = torch.linalg.vector_norm(rows, dim=1, dtype=wide_dtype(rows))
    least, most = torch.aminmax(norms)
    wide: torch.Tensor = norms.double()
    if not (least > _LEAST and most < _MOST):
        far = ~((norms > _LEAST) & (norms < _MOST))
        wide[far] = torch.linalg.vector_norm(rows[far].double(), dim=1)
    return wide.square_()


def pieces_of(rows: torch.Tensor, elements: int = _PIECE) -> Iterator[slice]:
    """Slices of the first dimension with about so many elements each."""
    count, total = rows.shape[0], rows.numel()
    step = max(1, count) if total <= elements else max(1, elements * count // total)
    yield from (slice(start, start + step) for start in range(0, count, step))


def wide_dtype(tensor: torch.Tensor) -> torch.dtype:
    """What to compute in: float32 at least."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _add_mv(target: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return target.addmv_(rows.t(), weights) if target.dtype == rows.dtype else target.add_(rows.t() @ weights)
