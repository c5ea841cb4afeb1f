"""What a site's releases show of records, by attacks on made-up ones: an unprotected gradient, and what the plan sends.

    control     the plain gradient of one record, at the audited model: the attack must rebuild the record
    private     one clipped and noised step of this software, of 1 record and of 8, all of which take part
                (noise that is added elsewhere is added to the same sum: what a hub, or all others together, see)
    site        the update of one step, clipped and noised as a whole
    otherwise   one plain step over the fewest records that a plan lets a site train on; under secure aggregation
                over those of the fewest sites that are ever summed

The attack is the analytic one, whose answer is exact, and for small perceptrons the search beside it; it knows the
labels, which are those that the model expects least. A first layer with an intercept is what it needs: for other models
the report says that nothing was tried. Records are of standard normal features, as a model sees them; a record counts
as rebuilt when it comes within a tenth of a standard deviation, and nearer than to any of 200 others.

References: `wardround.training.inversion`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from wardround.clinical import contract as data_contract
from wardround.privacy import gate, noising
from wardround.privacy.gate import Check
from wardround.protocol import private
from wardround.protocol.plan import BuiltinModel, Plan, Privacy
from wardround.sdk.audit_page import Inverted
from wardround.training import inversion, models
from wardround.training.inversion import Inversion
from wardround.training.private import PrivateTraining, clip_update

__all__ = ["GradientAudit", "audit_gradients"]

_Released = list[torch.Tensor]
_Release = Callable[[torch.Tensor, torch.Tensor, bytes], _Released]
"""From features, labels and a seed to what leaves, one tensor per parameter."""

_ATTACKED = ("logistic", "linear", "mlp")
_TRIALS = 8
_BATCHES = (1, 8)
_OTHERS = 200
_NEAR = 0.1
_SEARCH = Inversion(steps=300)
_MOST_SEARCHED = 200_000
"""Parameters of a model beyond which the search would take minutes."""


@dataclass(frozen=True, slots=True)
class GradientAudit:
    """What the attacks rebuilt; `note` says why there is nothing, where there is nothing."""

    checks: tuple[Check, ...] = ()
    inversions: tuple[Inverted, ...] = ()
    note: str = ""


def audit_gradients(plan: Plan, module: nn.Module, seed: bytes) -> GradientAudit:
    """Attack gradients of made-up records.

    Args:
        plan: The study's plan.
        module: With the audited model's parameters; they are left as they are.
        seed: Of the records, the noise and the search.
    """
    if not isinstance(plan.model, BuiltinModel) or plan.model.name not in _ATTACKED:
        kind = plan.model.name if isinstance(plan.model, BuiltinModel) else "study code"
        return GradientAudit(note=f"gradient inversion was not tried: no attack is known to work on {kind} models")
    attack = _Attack(plan, module.float(), seed)
    control = attack.rate("control", 1, attack.plain)
    control_check, _ = gate.inversion_checks(control, 0.0)
    checks, found = [control_check], [Inverted("plain gradient of one record", released=False, match_rate=control)]
    for name, records, release in attack.releases():
        share = attack.rate(name, records, release)
        _, check = gate.inversion_checks(control, share)
        checks.append(replace(check, name=f"{check.name}, {name}"))
        found.append(Inverted(name, released=True, match_rate=share))
    return GradientAudit(tuple(checks), tuple(found))


class _Attack:
    def __init__(self, plan: Plan, module: nn.Module, seed: bytes) -> None:
        self._plan, self._module, self._seed = plan, module.train(), seed
        self._width = data_contract.width(plan.data)
        self._loss = models.loss_of(plan.data.label.outcome)
        self._columns = sum(parameter.numel() for parameter in module.parameters())

    def releases(self) -> Iterator[tuple[str, int, _Release]]:
        """What the plan sends: a name, of how many records, and how it is made."""
        privacy, secure = self._plan.privacy, self._plan.secure
        if privacy is None:
            sites = (secure.group_size or self._plan.min_participants) if secure else 1
            records = max(1, self._plan.data.min_records) * sites
            of = f"{records} records" + f" of {sites} sites" * (sites > 1)
            yield f"one step over {of}", records, self.plain
            return
        release = self._private if privacy.unit == "patient" else self._site
        for records in _BATCHES:
            yield f"one private step over {records} record{'s' * (records > 1)}", records, release

    def rate(self, name: str, records: int, release: _Release) -> float:
        """The share of records that the attack rebuilds, over several batches."""
        shares = []
        for trial in range(_TRIALS):
            drawn = gate.generator(self._seed, f"{name} {trial}")
            features = torch.from_numpy(drawn.standard_normal((records, self._width)).astype(np.float32))
            others = drawn.standard_normal((_OTHERS, self._width))
            labels = self._surprising(features)
            released = release(features, labels, noising.derive(self._seed, name, trial))
            rebuilt = self._rebuilt(released, labels, is_searched=not trial and records <= max(_BATCHES))
            shares.append(inversion.match_rate(rebuilt, features.numpy(), _NEAR, others))
        return float(np.mean(shares))

    def _surprising(self, features: torch.Tensor) -> torch.Tensor:
        """Labels that the model does not expect: what it has learned already moves no gradient."""
        with torch.no_grad():
            outputs: torch.Tensor = self._module(features).reshape(len(features), -1)
        match self._plan.data.label.outcome:
            case "binary":
                return (outputs[:, 0] < 0).float()
            case "multiclass":
                return outputs.argmin(dim=1).float()
            case _:
                return outputs[:, 0] + 1.0

    def plain(self, features: torch.Tensor, labels: torch.Tensor, seed: bytes) -> _Released:
        """What nothing protects."""
        del seed
        return inversion.gradient(self._module, self._loss, features, labels)

    def _private(self, features: torch.Tensor, labels: torch.Tensor, seed: bytes) -> _Released:
        """One step of private training in which all take part."""
        trained, start = [], 0
        for parameter in self._module.parameters():
            trained.append((parameter, slice(start, start + parameter.numel())))
            start += parameter.numel()
        plan = self._one_step()
        records = len(features)
        engine = PrivateTraining(plan, self._module, trained, start, np.arange(records), self._width, records)
        gradient = torch.zeros(start)
        next(engine.steps(features, labels, seed, gradient))
        return inversion.split(self._module, gradient)

    def _site(self, features: torch.Tensor, labels: torch.Tensor, seed: bytes) -> _Released:
        """A site's update of one step."""
        rate = self._plan.training.optimizer.learning_rate
        parts = self.plain(features, labels, seed)
        update = torch.cat([part.reshape(-1) for part in parts]) * -rate
        clip_update(update, self._local(), seed)
        return inversion.split(self._module, update / -rate)

    def _local(self) -> Privacy:
        """The plan's privacy with the noise where it can be seen: on the sum."""
        privacy = self._plan.privacy
        if privacy is None:
            raise ValueError("a plan without privacy has no private step")
        noise = private.gradient_noise(privacy)
        return msgspec.structs.replace(privacy, noise="local", noise_multiplier=noise, clip_quantile=0.0)

    def _one_step(self) -> Plan:
        privacy = msgspec.structs.replace(self._local(), sampling="poisson", sampling_rate=1.0, band=1)
        training = msgspec.structs.replace(self._plan.training, steps=1, epochs=0)
        return msgspec.structs.replace(self._plan, training=training, privacy=privacy)

    def _rebuilt(self, released: _Released, labels: torch.Tensor, *, is_searched: bool) -> npt.NDArray[np.float64]:
        rows = [inversion.analytic(self._module, released)]
        is_perceptron = isinstance(self._plan.model, BuiltinModel) and self._plan.model.name == "mlp"
        if is_searched and is_perceptron and self._columns <= _MOST_SEARCHED:
            found = inversion.invert(self._module, released, labels, self._loss, self._width, settings=_SEARCH)
            rows.append(found.features)
        return torch.cat(rows).double().numpy()
