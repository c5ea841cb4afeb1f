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
Where sites have models of their own, these are trained first, and in the same vector. In a private plan the gradients
are those of `wardround.training.private`, and nothing else of the records leaves the vector or the evaluation.
"""

import hashlib
from collections.abc import Callable, Iterator

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
from wardround.protocol.plan import CodePackage, Plan, Privacy
from wardround.training import local, metrics, models, optimizer, package
from wardround.training.appraised import appraised
from wardround.training.channel import Assignment, Done
from wardround.training.flat import FlatModel, read
from wardround.training.local import Memory
from wardround.training.private import PrivateTraining, clip_update, private_metrics

__all__ = ["Learner", "round_seeds"]

_EVALUATION_BATCH = 512
_Gradients = Callable[[torch.Tensor], Iterator[None]]
"""Puts one step's gradient after another into a flat vector, and waits for the step."""


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
        self._module = _module(assignment)
        if models.manifest_of(self._module) != self._plan.manifest:
            raise TensorMismatchError("the module's arrays are not those of the plan's manifest")
        self._arrays = FlatModel(self._module, self._plan, assignment.vector)
        self._flat, self._params, self._runs = self._arrays.flat, self._arrays.params, self._arrays.runs
        travelling = {id(tensor) for tensor in models.arrays(self._module).values()}
        self._resting = [
            (tensor, tensor.clone())
            for tensor in self._module.state_dict(keep_vars=True).values()
            if isinstance(tensor, torch.Tensor) and id(tensor) not in travelling and not tensor.is_floating_point()
        ]
        self._memory = Memory(self._plan, assignment.memory)
        self._kept = [slice(*place) for place in kept_columns(self._plan.training.local, self._plan.manifest)]
        self._private = self._patients_apart()
        self._loss = models.loss_of(self._plan.data.label.outcome)
        self._labels = torch.from_numpy(assignment.labels[~assignment.held_out])
        self._held_out_labels = assignment.labels[assignment.held_out]
        classes = models.outputs(self._plan.data)
        self._predicted = np.empty((0, classes)[: 1 + (classes > 1)], np.float32)
        self._scale(b"")

    def perform(
        self,
        number: int,
        kind: Kind,
        base: int,
        standardization: bytes,
        control: int | None = None,
        *,
        seed: bytes = b"",
    ) -> Done:
        """Evaluate the model in the open file `base`; when `kind` is "train", leave the update in the vector.

        In a private plan `seed` is 32 bytes of the node's own, and the evaluation has noise or is empty.

        Raises:
            TensorMismatchError: `standardization` is not the contract's statistics.
        """
        if standardization != self._scaled_by:
            self._scale(standardization)
        generator = self._begin(number, base)
        evaluation, divergence, personal = self._measured(kind, seed), self._diverged(), {}
        predicted = self._predicted
        if self._memory.place("personal") is not None:
            personal = self._own_model(kind, generator)
            generator = self._begin(number, base)
        if kind == "train":
            self._train_from(base, self._control(control), generator, seed)
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
        self._arrays.read(base)
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
                self._plain(_batches(len(self._features), self._plan, generator)),
                lambda gradients: local.draw(settings.personal, self._params, gradients, towards),
            )
        elif settings.finetune_epochs:
            tuned = msgspec.structs.replace(training, epochs=settings.finetune_epochs, steps=0)
            plan = msgspec.structs.replace(self._plan, training=tuned)
            self._train(self._plain(_batches(len(self._features), plan, generator)))
            self._arrays.collect()
            found = self._evaluate()
        self._arrays.collect()
        own.copy_(self._flat)
        return found

    def _patients_apart(self) -> PrivateTraining | None:
        privacy = self._plan.privacy
        if privacy is None or privacy.unit == "site" or not self._plan.training.rounds:
            return None
        patients = self._assignment.patients[~self._assignment.held_out]
        width = self._assignment.features.shape[1]
        return PrivateTraining(
            self._plan, self._module, self._arrays.trained, len(self._flat), patients, width, self._assignment.counted
        )

    def _measured(self, kind: Kind, seed: bytes) -> dict[str, float | None]:
        """What may leave of how the model does."""
        if self._plan.privacy is None:
            return self._evaluate()
        if kind != "evaluate" or not self._plan.privacy.evaluation_noise:
            return dict.fromkeys(metrics.NAMES[self._plan.data.label.outcome])
        self._evaluate()
        patients = self._assignment.patients[self._assignment.held_out]
        return private_metrics(self._plan, self._held_out_labels, self._predicted, patients, seed)

    def _train_from(self, base: int, control: torch.Tensor | None, generator: torch.Generator, seed: bytes) -> None:
        """The round's training by the plan's algorithm: the update lies in the vector, the rest in the memory."""
        settings, memory, privacy = self._plan.training.local, self._memory, self._plan.privacy
        if self._private is not None and privacy is not None and privacy.noise != "local":
            self._sum(self._private, seed)
            return
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

        steps = self._train(self._gradients(generator, seed), changed)
        self._arrays.collect()
        if own is not None:
            self._remember_control(anchor, hubs, steps)
        self._remember_kept()
        self._arrays.subtract(base)
        if settings.normalized_steps and steps:
            self._flat.mul_(settings.normalized_steps / local.effective_steps(self._plan.training, steps))
        for place in self._kept:
            self._flat[place] = 0.0
        if privacy is not None:
            self._make_private(privacy, seed)
        self._remember_update(base)

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

    def _remember_update(self, base: int) -> None:
        sent, before = self._memory.place("own"), self._memory.place("base")
        if sent is not None and before is not None:
            sent.copy_(self._flat)
            self._arrays.copy_base(base, before)

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
            read(file, vector.view(np.uint8).data, 0)
        return torch.from_numpy(vector)

    def _scale(self, standardization: bytes) -> None:
        contract, held_out = self._plan.data, self._assignment.held_out
        mean, std = map(np.array, data_contract.range_scaling(contract))
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

    def _sum(self, private: PrivateTraining, seed: bytes) -> None:
        """Leave in the vector what one step is over this site's patients, for noise that is added elsewhere."""
        update = torch.zeros_like(self._flat)
        self._module.train()
        private.sum_without_noise(self._features, self._labels, seed, update)
        self._flat.copy_(update)

    def _make_private(self, privacy: Privacy, seed: bytes) -> None:
        """Leave nothing in the update that no noise covers."""
        if privacy.unit == "site":
            clip_update(self._flat, privacy, seed)
        ends = [0, *[bound for run in self._runs for bound in (run.start, run.stop)], len(self._flat)]
        for start, stop in zip(ends[::2], ends[1::2], strict=True):
            self._flat[start:stop] = 0.0

    def _gradients(self, generator: torch.Generator, seed: bytes) -> _Gradients:
        if self._private is None:
            return self._plain(_batches(len(self._features), self._plan, generator))
        private, clip = self._private, self._memory.place("clip")
        return lambda flat: private.steps(self._features, self._labels, seed, flat, clip)

    def _plain(self, batches: Iterator[torch.Tensor]) -> _Gradients:
        """Gradients of the mean loss of one batch after another."""

        def fill(flat: torch.Tensor) -> Iterator[None]:
            # Backward adds into a gradient that is there, so each parameter's is a view of the flat vector.
            views = [(param, flat[place].view(param.shape)) for param, place in self._arrays.trained]
            for param, gradient in views:
                param.grad = gradient
            for rows in batches:
                for run in self._runs:
                    flat[run].zero_()
                torch.autograd.backward(self._loss(self._module(self._features[rows]).float(), self._labels[rows]))
                for param, gradient in views:
                    if param.grad is not gradient:  # study code put another tensor there, or took it away
                        _ = gradient.zero_() if param.grad is None else gradient.copy_(param.grad)
                        param.grad = gradient
                yield
            for param, _ in views:
                param.grad = None

        return fill

    def _train(self, fill: _Gradients, changed: Callable[[list[torch.Tensor]], None] = lambda _: None) -> int:
        """Train in place; `changed` does to the gradients what the algorithm asks for. The number of steps."""
        self._module.train()
        flat = torch.zeros_like(self._flat)
        gradients = [flat[run] for run in self._runs]
        step = optimizer.make(self._plan.training.optimizer, self._params, gradients)
        steps = 0
        for steps, _ in enumerate(fill(flat), 1):  # noqa: B007, counted
            changed(gradients)
            step()
        return steps


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
