"""The clipped sum of per-patient gradients, for DP-SGD: exact, and as fast as a processor can.

    sum over patients p of  min(1, clip / |g_p|) g_p,    g_p = gradient of  sum over records r of  weight[p, r] loss(r)

A patient is a bag of records. A record of weight 0 is padding: it is left out, whatever it holds. So are patients
without a record, and those whose gradient is not finite. Three methods find the same sum:

    book-keeping   One forward that remembers the layers' inputs, one backward for the gradients of their outputs and
                   for nothing else; the rest is `wardround.training.layer_gradients`. About the cost of a step
                   without privacy.
    vmap           The model over many patients at once, each with its own copy of the parameters, so that backward
                   leaves a gradient per patient; a piece of the patients at a time, to bound memory.
    loop           One patient after another, for what neither can take.

Book-keeping would be wrong, in silence, for a model that mixes records or orders them anew inside, that uses a
parameter twice or behind its layer's back. So the constructor tries the model (`wardround.training.separable`): each
layer's input must depend on the same row's record only, and the sum must be that of plain backward. A model that does
not pass is computed by vmap, where patients cannot meet, if that finds what the loop finds. This catches mistakes; it
does not stop study code that means to mix patients, which runs in this very process.

References:
    Abadi et al. Deep Learning with Differential Privacy. arXiv:1607.00133.
    Bu, Wang, Zha, Karypis. Differentially Private Optimization on Large Model at Small Cost. arXiv:2210.00038.
    Charles et al. Fine-Tuning Large Language Models with User-Level Differential Privacy. arXiv:2407.07737.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from wardround.errors import TrainingError
from wardround.training import clipping, layer_gradients, separable
from wardround.training.clipping import Grouping, Part
from wardround.training.layer_gradients import Places

__all__ = ["PatientGradients"]

Method = Literal["book-keeping", "vmap", "loop"]
_Model = Callable[[torch.Tensor], torch.Tensor]

_VMAP_BYTES = 64 << 20
"""Per-patient gradients that vmap makes at a time."""
_TRIED = (3, 5)
"""Records of the trials; two numbers, so that a layer's other dimension is not taken for them."""
_FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, TrainingError)
"""What a model raises that does not take a trial."""

_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "binary": lambda output, labels: functional.binary_cross_entropy_with_logits(
        output.reshape(labels.shape), labels, reduction="none"
    ),
    "multiclass": lambda output, labels: functional.cross_entropy(output, labels.long(), reduction="none"),
    "number": lambda output, labels: functional.mse_loss(output.reshape(labels.shape), labels, reduction="none"),
}


class PatientGradients:
    """How one module's gradients are clipped by patient; holds no data between calls.

    Args:
        module: The model; its parameters' values do not matter here. It is tried in training mode.
        trained: The parameters to train, with their places in a flat vector of `columns` elements.
        columns: The flat vector's length.
        outcome: As in `wardround.training.models.loss_of`, but not "survival".
        width: Features of a record.

    The constructor needs three times the parameters' memory for a moment.

    Raises:
        CodecError: A layer, or the outcome, lets one patient's records into the gradient of another, or into what is
            not clipped; the message names it and what to use instead.
    """

    def __init__(
        self,
        module: nn.Module,
        trained: Sequence[tuple[torch.Tensor, slice]],
        columns: int,
        outcome: str,
        width: int,
    ) -> None:
        separable.check(module, outcome)
        places = {id(parameter): place for parameter, place in trained}
        self._module, self._loss, self._columns = module, _LOSSES[outcome], columns
        self._named = {
            name: places[id(parameter)] for name, parameter in module.named_parameters() if id(parameter) in places
        }
        self._layers = _layers(module, places)
        was_training = module.training
        try:
            with torch.random.fork_rng(devices=[]), torch.enable_grad():
                self._method: Method = self._choose(module.train(), width)
        finally:
            module.train(was_training)

    @property
    def method(self) -> Method:
        """How this module's gradients are computed."""
        return self._method

    def clipped_sum(
        self, features: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, clip: float, out: torch.Tensor
    ) -> torch.Tensor:
        """Write the sum of the patients' clipped gradients into `out`, zero where nothing is trained.

        Args:
            features: ``(patients, records, width)``, in the model's dtype.
            labels: ``(patients, records)``.
            weights: ``(patients, records)`` float; 0 for padding.
            clip: The largest norm of a patient's gradient, > 0; ``inf`` does not clip.
            out: ``(columns,)`` float32 (float64 for a model of float64).

        Returns:
            ``(patients,)`` float64 norms before clipping; 0 without a record, ``inf`` where one is not finite.

        Raises:
            ValueError: `clip` is not positive, or `out` is not of the flat vector's length.
            TrainingError: The module does otherwise than when it was tried.
        """
        if not clip > 0:
            raise ValueError(f"clip must be > 0, got {clip}")
        if out.shape != (self._columns,):
            raise ValueError(f"out must have {self._columns} elements, has {tuple(out.shape)}")
        out.zero_()
        norms = torch.zeros(len(weights), dtype=torch.float64)
        order, records, counts = _sorted(weights)
        if not len(order) or not self._named:
            return norms
        rows = [values.flatten(0, 1) for values in (features, labels, weights)]
        if records is not None:
            rows = [values[records] for values in rows]
        with torch.enable_grad():
            norms[order] = self._summed(Grouping.of(counts), rows, clip, out)
        return norms

    def _summed(self, bags: Grouping, rows: Sequence[torch.Tensor], clip: float, out: torch.Tensor) -> torch.Tensor:
        if self._method == "book-keeping":
            return clipping.add_clipped(self._parts(self._module, bags, rows), clip, out)
        found = []
        for first, last, size in bags.runs(self._patients_at_once()):
            bag = [values[first:last].view(-1, size, *values.shape[1:]) for values in rows]
            made = self._gradients(self._method, bag)
            parts = [clipping.kept(gradient, self._named[name]) for name, gradient in made.items()]
            found.append(clipping.add_clipped(parts, clip, out))
        return torch.cat(found)

    def _losses(self, output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        wide = output.to(clipping.wide_dtype(output))
        return self._loss(wide, labels.to(wide.dtype))

    def _patients_at_once(self) -> int:
        if self._method == "loop":
            return 1
        return max(1, _VMAP_BYTES // sum(self._module.get_parameter(name).nbytes for name in self._named))

    # Book-keeping

    def _parts(self, model: _Model, bags: Grouping, rows: Sequence[torch.Tensor]) -> list[Part]:
        features, labels, weights = rows
        parts: list[Part] = []
        roots: list[torch.autograd.graph.GradientEdge] = []

        def seen(layer: nn.Module, places: Places, given: torch.Tensor, output: torch.Tensor) -> None:
            held = [given.detach()]  # popped, so that layers whose gradients are kept hold nothing else
            output.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: parts.extend(layer_gradients.parts(layer, held.pop(), gradient, bags, places))
            )
            if not given.requires_grad:
                roots.append(torch.autograd.graph.get_gradient_edge(output))

        with self._watched(seen):
            total = (self._losses(model(features), labels) * weights).sum()
        # Asked for the first layers' outputs only, backward passes all the layers after them on the way, and computes
        # no parameter's own gradient.
        torch.autograd.grad(total, roots)
        return parts

    @contextmanager
    def _watched(self, seen: Callable[[nn.Module, Places, torch.Tensor, torch.Tensor], None]) -> Iterator[None]:
        places = {id(layer): place for layer, place in self._layers}

        def hook(layer: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if len(given) != 1 or id(layer) not in places:
                raise TrainingError(f"a {type(layer).__name__} was called twice in one forward pass, or with keywords")
            seen(layer, places.pop(id(layer)), given[0], output)

        handles = [layer.register_forward_hook(hook) for layer, _ in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        if places:
            raise TrainingError("a layer with trained parameters was not called")

    # Each patient's gradient by itself

    def _gradients(
        self,
        method: Method,
        bag: Sequence[torch.Tensor],
        values: Mapping[str, torch.Tensor] | None = None,
        randomness: str = "different",
    ) -> dict[str, torch.Tensor]:
        """``(patients, elements)`` by name, of ``(patients, records, ..)``; by "loop" of one patient only.

        `values` are parameters and buffers to use for the module's own.
        """
        module, patients, given = self._module, len(bag[0]), values or {}
        own = {name: given.get(name, module.get_parameter(name)).detach() for name in self._named}
        if method == "vmap":
            own = {name: parameter.expand(patients, *parameter.shape) for name, parameter in own.items()}
        own = {name: parameter.requires_grad_() for name, parameter in own.items()}

        def loss(
            params: dict[str, torch.Tensor], features: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
        ) -> torch.Tensor:
            output = torch.func.functional_call(module, {**given, **params}, (features,))
            return (self._losses(output, labels) * weights).sum()

        # Not torch.func.grad, which loads torch's compiler, is no faster, and makes no difference else.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of operations that vmap takes one by one
            if method == "vmap":
                total = torch.vmap(loss, randomness=randomness)(own, *bag).sum()
            else:
                total = loss(own, *(values[0] for values in bag))
        found = torch.autograd.grad(total, list(own.values()), allow_unused=True)
        made = {
            name: gradient.to_dense().reshape(patients, -1)
            for name, gradient in zip(own, found, strict=True)
            if gradient is not None
        }
        for name, layer in module.named_modules():
            weight = f"{name}.weight".removeprefix(".")
            if isinstance(layer, nn.Embedding) and layer.padding_idx is not None and weight in made:
                # torch's rule for vmap forgets this of all patients but the first.
                made[weight].view(patients, -1, layer.embedding_dim)[:, layer.padding_idx] = 0.0
        return made

    # Trials

    def _choose(self, module: nn.Module, width: int) -> Method:
        values = separable.parameters(module)
        before = {name: (value, value._version) for name, value in values.items()}  # noqa: SLF001, autograd's own
        dtype = next((values[name].dtype for name in self._named), torch.float32)

        def model(features: torch.Tensor) -> torch.Tensor:
            torch.manual_seed(0)  # dropout takes the same in every trial
            found: torch.Tensor = torch.func.functional_call(module, values, (features,))
            return found

        made_up = separable.records(2 * max(_TRIED), width, dtype)
        records = next((each for each in made_up if _runs(model, each)), None)
        separable.check_unchanged(before, values)
        if records is None:
            return "loop"
        if self._layers and self._can_keep_books(model, values, records):
            return "book-keeping"
        if self._is_same(values, records):
            return "vmap"
        with separable.without_dropout(module):
            return "vmap" if self._is_same(values, records) else "loop"

    def _can_keep_books(self, model: _Model, values: Mapping[str, torch.Tensor], records: torch.Tensor) -> bool:
        try:
            return all(
                self._is_separate(model, records, count) and self._is_exact(model, values, records[:count])
                for count in _TRIED
            )
        except _FAILURES:
            return False

    def _is_separate(self, model: _Model, records: torch.Tensor, count: int) -> bool:
        """Whether each layer's input, and the output, has in a row nothing but the same row's record."""
        same, traces = count - min(_TRIED), []  # the first, and one in the middle
        others = records[-count:].clone()
        others[same] = records[same]
        for features in (records[:count], others):
            trace: list[torch.Tensor] = []
            with self._watched(lambda *seen, trace=trace: trace.append(seen[2].detach().clone())):
                output = model(features)
            traces.append([*trace, output.detach()])
        return all(
            len(first) == len(second) == count and torch.equal(first[same], second[same])
            for first, second in zip(*traces, strict=True)
        )

    def _is_exact(self, model: _Model, values: Mapping[str, torch.Tensor], features: torch.Tensor) -> bool:
        """Whether book-keeping's unclipped sum is the gradient of plain backward."""
        count = len(features)
        labels, weights = torch.zeros(count), torch.arange(1.0, count + 1)
        bags = Grouping.of(torch.tensor([1] * (count - 2) + [2]))
        found = torch.zeros(self._columns, dtype=clipping.wide_dtype(features))
        clipping.add_clipped(self._parts(model, bags, [features, labels, weights]), math.inf, found)
        total = (self._losses(model(features), labels) * weights).sum()
        expected = torch.autograd.grad(total, [values[name] for name in self._named], allow_unused=True)
        size = torch.linalg.vector_norm(found)
        for place, gradient in zip(self._named.values(), expected, strict=True):
            if gradient is not None:
                found[place].sub_(gradient.to_dense().flatten())
        return bool(torch.linalg.vector_norm(found) <= _tolerance(features) * size)

    def _is_same(self, values: Mapping[str, torch.Tensor], records: torch.Tensor) -> bool:
        """Whether vmap finds for each of two patients what the loop finds, when their dropout is the same.

        It is not, from the same seed, where a tensor lies otherwise in memory.
        """
        size = len(records) // 2
        bag = [records.view(2, size, -1), torch.zeros(2, size), torch.ones(2, size)]
        try:
            torch.manual_seed(0)
            both = self._gradients("vmap", bag, values, "same")
            for patient in range(2):
                torch.manual_seed(0)
                one = self._gradients("loop", [value[patient : patient + 1] for value in bag], values)
                for name, gradient in one.items():
                    off = torch.linalg.vector_norm(both[name][patient] - gradient)
                    if not off <= _tolerance(records) * torch.linalg.vector_norm(gradient) + 1e-6:
                        return False
        except _FAILURES:
            return False
        return True


def _sorted(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Patients with records, those with equally many together; their records' rows (None: all), their counts."""
    real = weights != 0
    counts, order = torch.sort(real.sum(1), stable=True)
    if bool(real.all()):
        return order[: real.numel()], None, counts  # none, where there is no record at all
    empty = int((counts == 0).sum())
    patients, places = real[order].nonzero(as_tuple=True)
    return order[empty:], order[patients] * weights.shape[1] + places, counts[empty:]


def _layers(module: nn.Module, places: Mapping[int, slice]) -> list[tuple[nn.Module, Places]]:
    """The layers for book-keeping; none when a trained parameter is not in exactly one of a known kind."""
    found: list[tuple[nn.Module, Places]] = []
    seen: set[int] = set()
    for layer in module.modules():
        own = {name: id(each) for name, each in layer.named_parameters(recurse=False) if id(each) in places}
        if not own:
            continue
        if not layer_gradients.fits(layer) or not own.keys() <= {"weight", "bias"} or not seen.isdisjoint(own.values()):
            return []
        seen.update(own.values())
        placed = {name: places[each] for name, each in own.items()}
        found.append((layer, Places(placed.get("weight"), placed.get("bias"))))
    return found


def _runs(model: _Model, features: torch.Tensor) -> bool:
    try:
        model(features)
    except _FAILURES:
        return False
    return True


def _tolerance(records: torch.Tensor) -> float:
    # Half precision rounds the gradient at each layer.
    return 5e-2 if clipping.wide_dtype(records) != records.dtype else 1e-3
