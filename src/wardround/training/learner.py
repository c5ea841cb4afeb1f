"""Local training with PyTorch, in one flat vector.

All of a module's arrays are made views of one vector, which is the body of the update's file:

    vector := base        read from the base's file
    vector := trained     parameters are views of it, so training happens in place
    vector := vector - base, piece by piece, reading the base's file again

So no second copy of the model is ever held; training itself adds one gradient (a second flat vector, and
one array's more while it is computed), and what the optimizer remembers. The same plan, site, round,
records and base give the same bytes: one thread, deterministic operations, batches shuffled (and dropout
drawn) from

    sha256(plan seed, site, round)

and buffers that do not travel put back to their first value before each round.

A batch never asks torch for more than forward, backward and one step (`wardround.training.optimizer`); what the
plan's local algorithm does between them, and what is remembered from round to round, is in `wardround.training.local`.
Where sites have models of their own, these are trained first, and in the same vector.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase

import msgspec
import numpy as np
import torch
from torch import nn

from wardround.aggregation import standardization as scaling
from wardround.clinical import contract as data_contract
from wardround.codec import tensors
from wardround.errors import TensorMismatchError
from wardround.ids import SiteId
from wardround.protocol import plan as study_plan
from wardround.protocol.learning import kept_columns
from wardround.protocol.messages import Divergence, Kind
from wardround.protocol.plan import CodePackage, Plan
from wardround.training import local, metrics, models, optimizer, package
from wardround.training.appraised import appraised
from wardround.training.channel import Assignment, Done
from wardround.training.local import Memory

__all__ = ["Learner", "round_seeds"]

_PIECE = 1 << 18
_EVALUATION_BATCH = 512


def round_seeds(seed: int, site: SiteId, number: int) -> tuple[int, int]:
    """Two seeds of one round at one site: for the order of records, and for what the model itself draws."""
    drawn = hashlib.sha256(f"wardround round 1\n{seed}\n{site}\n{number}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") >> 1, int.from_bytes(drawn[8:16], "big") >> 1


class Learner:
    """One run's model, in the vector of its `Assignment`, and the site's records as tensors.

    Raises:
        CodecError: The plan's model or package cannot be loaded.
        TensorMismatchError: The module's arrays are not the plan's.
    """

    def __init__(self, assignment: Assignment) -> None:
        torch.set_num_threads(1)
        # The same as use_deterministic_algorithms(True), without loading torch's compiler.
        torch.set_deterministic_debug_mode("error")
        self._assignment = assignment
        self._plan = assignment.plan
        self._offset = len(tensors.header(self._plan.manifest))
        self._module = _module(assignment)
        if models.manifest_of(self._module) != self._plan.manifest:
            raise TensorMismatchError("the module's arrays are not those of the plan's manifest")
        self._place_arrays()
        travelling = {id(tensor) for tensor in models.arrays(self._module).values()}
        self._resting = [
            (tensor, tensor.clone())
            for tensor in self._module.state_dict(keep_vars=True).values()
            if isinstance(tensor, torch.Tensor) and id(tensor) not in travelling and not tensor.is_floating_point()
        ]
        self._memory = Memory(self._plan, assignment.memory)
        self._kept = [slice(*place) for place in kept_columns(self._plan.training.local, self._plan.manifest)]
        self._loss = models.loss_of(self._plan.data.label.outcome)
        self._labels = torch.from_numpy(assignment.labels[~assignment.held_out])
        self._held_out_labels = assignment.labels[assignment.held_out]
        classes = models.outputs(self._plan.data)
        self._predicted = np.empty((0, classes)[: 1 + (classes > 1)], np.float32)
        self._scale(b"")

    def perform(self, number: int, kind: Kind, base: int, standardization: bytes, control: int | None = None) -> Done:
        """Evaluate the model in the open file `base`; when `kind` is "train", leave the update in the vector.

        Raises:
            TensorMismatchError: `standardization` is not the contract's statistics.
        """
        if standardization != self._scaled_by:
            self._scale(standardization)
        generator = self._begin(number, base)
        evaluation, divergence, personal = self._evaluate(), self._diverged(), {}
        predicted = self._predicted
        if self._memory.place("personal") is not None:
            personal = self._own_model(kind, generator)
            generator = self._begin(number, base)
        if kind == "train":
            self._train_from(base, self._control(control), generator)
        self._memory.keep()
        if kind != "evaluate" or self._plan.appraisal is None:
            return Done(evaluation, personal, divergence)
        features = self._assignment.features[self._assignment.held_out]
        return Done(
            evaluation, personal, divergence, *appraised(self._plan, self._held_out_labels, predicted, features)
        )

    def _begin(self, number: int, base: int) -> torch.Generator:
        """Put the vector, what stays at the site and every seed where the round begins."""
        order_seed, model_seed = round_seeds(self._plan.seed, self._assignment.site, number)
        torch.manual_seed(model_seed)
        for tensor, first in self._resting:
            tensor.copy_(first)
        _read(base, self._assignment.vector.view(np.uint8).data, self._offset)
        own = self._memory.place("kept")
        if own is not None and not self._memory.is_fresh:
            start = 0
            for place in self._kept:
                part = self._flat[place]
                part.copy_(own[start : start + len(part)])
                start += len(part)
        return torch.Generator().manual_seed(order_seed)

    def _diverged(self) -> Divergence | None:
        own, base = self._memory.place("own"), self._memory.place("base")
        if own is None or base is None or self._memory.is_fresh:
            return None
        now = self._flat
        if self._kept:
            now = now.clone()
            for place in self._kept:
                now[place] = base[place]
        return local.diverged(own, base, now)

    def _own_model(self, kind: Kind, generator: torch.Generator) -> dict[str, float | None]:
        """Train the site's own model, at the end or where it goes along, and say how it does before and at the end."""
        settings, training = self._plan.training.local, self._plan.training
        own, found = self._memory.place("personal"), {}
        if own is None or (kind == "train" and not settings.personal):
            return {}
        anchor = self._flat.clone()
        if settings.personal:
            if not self._memory.is_fresh:
                self._flat.copy_(own)
            found = self._evaluate()
        if kind == "train":
            towards = [anchor[run] for run in self._runs]
            self._train(
                _batches(len(self._features), self._plan, generator),
                lambda gradients: local.draw(settings.personal, self._params, gradients, towards),
            )
        elif settings.finetune_epochs:
            tuned = msgspec.structs.replace(training, epochs=settings.finetune_epochs, steps=0)
            plan = msgspec.structs.replace(self._plan, training=tuned)
            self._train(_batches(len(self._features), plan, generator))
            self._collect()
            found = self._evaluate()
        self._collect()
        own.copy_(self._flat)
        return found

    def _train_from(self, base: int, control: torch.Tensor | None, generator: torch.Generator) -> None:
        """The round's training by the plan's algorithm: the update lies in the vector, the rest in the memory."""
        settings, memory = self._plan.training.local, self._memory
        anchor = self._flat.clone() if settings.algorithm != "plain" else self._flat
        towards = [anchor[run] for run in self._runs]
        own = memory.place("control")
        ours = [own[run] for run in self._runs] if own is not None else []
        hubs = [control[run] for run in self._runs] if control is not None else []

        def changed(gradients: list[torch.Tensor]) -> None:
            match settings.algorithm:
                case "fedprox":
                    local.draw(settings.strength, self._params, gradients, towards)
                case "feddyn":
                    local.draw(settings.strength, self._params, gradients, towards)
                    local.add(gradients, ours, -1.0)
                case "scaffold":
                    local.add(gradients, ours, -1.0)
                    local.add(gradients, hubs, 1.0)
                case _:
                    pass

        steps = self._train(_batches(len(self._features), self._plan, generator), changed)
        self._collect()
        if own is not None:
            self._remember_control(anchor, hubs, steps)
        self._remember_kept()
        self._subtract(base)
        if settings.normalized_steps and steps:
            self._flat.mul_(settings.normalized_steps / local.effective_steps(self._plan.training, steps))
        for place in self._kept:
            self._flat[place] = 0.0
        sent, before = memory.place("own"), memory.place("base")
        if sent is not None and before is not None:
            sent.copy_(self._flat)
            self._read_base(base, before)

    def _remember_control(self, anchor: torch.Tensor, hubs: list[torch.Tensor], steps: int) -> None:
        settings, rate = self._plan.training.local, self._plan.training.optimizer.learning_rate
        own = self._memory.place("control")
        if own is None or not steps:
            return
        is_dynamic = settings.algorithm == "feddyn"
        scale = settings.strength if is_dynamic else 1.0 / (steps * rate)
        for place, run in enumerate(self._runs):
            if hubs:
                own[run].sub_(hubs[place])
            moved = self._flat[run] - anchor[run]
            if self._plan.secure is not None:
                moved.clamp_(-self._plan.secure.clip, self._plan.secure.clip)  # what the hub will have of it
            own[run].sub_(moved, alpha=scale)
        for stretch in self._kept:
            own[stretch] = 0.0  # the hub knows no control of what stays here

    def _remember_kept(self) -> None:
        own, start = self._memory.place("kept"), 0
        if own is None:
            return
        for place in self._kept:
            part = self._flat[place]
            own[start : start + len(part)].copy_(part)
            start += len(part)

    def _control(self, file: int | None) -> torch.Tensor | None:
        """The hub's control variate; zeros before there is one."""
        if self._plan.training.local.algorithm != "scaffold":
            return None
        vector = np.zeros(len(self._flat), np.float32)
        if file is not None:
            _read(file, vector.view(np.uint8).data, 0)
        return torch.from_numpy(vector)

    def _place_arrays(self) -> None:
        flat = models.flat_tensor(self._assignment.vector)
        self._views: dict[str, torch.Tensor] = {}
        self._trained: list[tuple[torch.Tensor, slice]] = []
        runs: list[list[int]] = []  # [start, stop) of neighbouring parameters, merged
        start, local_names = 0, self._plan.training.local.kept
        sent = self._plan.secure.arrays if self._plan.secure else ()
        # An array that is neither sent nor the site's own rests: else what is sent would lean on what nobody has.
        resting = {
            spec.name
            for spec in self._plan.manifest
            if sent and spec.name not in sent and not any(fnmatchcase(spec.name, pattern) for pattern in local_names)
        }
        for name, tensor in models.arrays(self._module).items():
            stop = start + tensor.numel()
            tensor.data = self._views[name] = flat[start:stop].view(tensor.shape)
            if name in resting:
                tensor.requires_grad_(False)
            if tensor.requires_grad:
                self._trained.append((tensor, slice(start, stop)))
                if runs and runs[-1][1] == start:
                    runs[-1][1] = stop
                else:
                    runs.append([start, stop])
            start = stop
        self._flat, self._runs = flat, [slice(start, stop) for start, stop in runs]
        self._params = [flat[run] for run in self._runs]

    def _scale(self, standardization: bytes) -> None:
        contract, held_out = self._plan.data, self._assignment.held_out
        mean = np.zeros(data_contract.width(contract))
        std = np.ones_like(mean)
        if standardization:
            sums = tensors.unpack(standardization, study_plan.statistics_manifest(contract))
            mean, std = scaling.mean_and_std(sums)
        scaled = []
        for chosen in (~held_out, held_out):
            rows = self._assignment.features[chosen]
            filled = scaling.impute(rows, mean) if contract.scaling == "none" else scaling.apply(rows, mean, std)
            scaled.append(torch.from_numpy(filled).to(self._flat.dtype))
        self._features, self._held_out_features = scaled
        self._scaled_by = standardization

    def _evaluate(self) -> dict[str, float | None]:
        outcome = self._plan.data.label.outcome
        if not len(self._held_out_features):
            return dict.fromkeys(metrics.NAMES[outcome])
        self._module.eval()
        with torch.no_grad():
            outputs = [
                self._module(self._held_out_features[start : start + _EVALUATION_BATCH])
                for start in range(0, len(self._held_out_features), _EVALUATION_BATCH)
            ]
        predictions = torch.cat(outputs).float().numpy()
        classes = models.outputs(self._plan.data)
        records = len(self._held_out_labels)
        shape = (records,) if classes == 1 else (records, classes)
        self._predicted = predictions.reshape(shape)
        return metrics.evaluate(outcome, self._held_out_labels, self._predicted)

    def _train(
        self, batches: Iterator[torch.Tensor], changed: Callable[[list[torch.Tensor]], None] = lambda _: None
    ) -> int:
        """Train in place; `changed` does to the gradients what the algorithm asks for. The number of steps."""
        module, loss = self._module.train(), self._loss
        # Backward adds into a gradient that is there, so each parameter's is a view of one flat vector.
        flat = torch.zeros_like(self._flat)
        views = [(param, flat[place].view(param.shape)) for param, place in self._trained]
        for param, gradient in views:
            param.grad = gradient
        gradients = [flat[run] for run in self._runs]
        step = optimizer.make(self._plan.training.optimizer, self._params, gradients)
        steps = 0
        for steps, rows in enumerate(batches, 1):  # noqa: B007, counted
            for run in gradients:
                run.zero_()
            torch.autograd.backward(loss(module(self._features[rows]).float(), self._labels[rows]))
            for param, gradient in views:
                if param.grad is not gradient:  # study code put another tensor there, or took it away
                    _ = gradient.zero_() if param.grad is None else gradient.copy_(param.grad)
                    param.grad = gradient
            changed(gradients)
            step()
        for param, _ in views:
            param.grad = None
        return steps

    def _collect(self) -> None:
        # Study code may have put other tensors in place of the views; what they hold is the model all the same.
        found = models.arrays(self._module)
        if found.keys() != self._views.keys():
            raise TensorMismatchError("training changed the module's arrays")
        for name, view in self._views.items():
            if found[name].shape != view.shape:
                raise TensorMismatchError("training changed the shape of an array")
            if found[name].data_ptr() != view.data_ptr():
                view.copy_(found[name].detach())
                found[name].data = view

    def _read_base(self, base: int, target: torch.Tensor) -> None:
        vector = self._assignment.vector
        piece = np.empty(min(_PIECE, len(vector)), vector.dtype)
        for start in range(0, len(vector), _PIECE):
            part = piece[: len(vector) - start]
            _read(base, part.view(np.uint8).data, self._offset + vector.itemsize * start)
            target[start : start + len(part)] = models.flat_tensor(part)

    def _subtract(self, base: int) -> None:
        vector = self._assignment.vector
        piece = np.empty(min(_PIECE, len(vector)), vector.dtype)
        for start in range(0, len(vector), _PIECE):
            part, before = vector[start : start + _PIECE], piece[: len(vector) - start]
            _read(base, before.view(np.uint8).data, self._offset + vector.itemsize * start)
            np.subtract(part, before, out=part)


def _module(assignment: Assignment) -> nn.Module:
    plan = assignment.plan
    torch.manual_seed(0)  # what a factory draws is replaced by the base, but should not differ between sites
    if not isinstance(plan.model, CodePackage):
        return models.build(plan.model, plan.data)
    factory = package.load(package.read(assignment.package, plan.model.package), plan.model.factory)
    made = factory(data_contract.width(plan.data), models.outputs(plan.data))
    return models.normalized(made, plan.model.normalization)


def _batches(records: int, plan: Plan, generator: torch.Generator) -> Iterator[torch.Tensor]:
    # Whole passes in a new order each; with `steps`, as many batches as that, over as many passes as it takes.
    training = plan.training
    steps = training.steps or training.epochs * -(-records // training.batch_size)
    while steps > 0 and records:
        order = torch.randperm(records, generator=generator)
        for start in range(0, min(records, steps * training.batch_size), training.batch_size):
            yield order[start : start + training.batch_size]
            steps -= 1


def _read(file: int, target: memoryview, offset: int) -> None:
    done = 0
    while done < len(target):
        count = os.preadv(file, [target[done:]], offset + done)
        if count == 0:
            raise EOFError("the base's file is too short")
        done += count
