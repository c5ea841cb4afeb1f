"""What a plan says about learning: rounds, local work and its algorithm, and how the hub moves the model.

Local algorithms are functions over the training loop (`wardround.training.local`); where each may be used is
checked here:

    algorithm   what a local step follows beside the loss's gradient    needs
    fedprox     strength * (w - base)
    scaffold    the hub's control variate less the site's own           equal steps, plain sgd, synchronous rounds, mean
    feddyn      strength * (w - base) less the site's own gradient      synchronous rounds, mean

The last two have a part at the hub, so the server rule is theirs (`wardround.aggregation.server_rule`). FedDyn was
chosen beside SCAFFOLD, and not MOON: it takes any module and adds nothing to what is sent, while MOON compares
representations, which only some modules have.

References:
    Li et al. Federated Optimization in Heterogeneous Networks. MLSys 2020. arXiv:1812.06127 (FedProx).
    Karimireddy et al. SCAFFOLD. ICML 2020. arXiv:1910.06378.
    Acar et al. Federated Learning Based on Dynamic Regularization. ICLR 2021. arXiv:2111.04263 (FedDyn).
    Wang et al. Tackling the Objective Inconsistency Problem. NeurIPS 2020. arXiv:2007.07481 (FedNova).
    Li et al. FedBN. ICLR 2021. arXiv:2102.07623.
    Li et al. Ditto. ICML 2021. arXiv:2012.04221.
"""

import math
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from wardround.aggregation.staleness import Staleness
from wardround.codec.tensors import Manifest
from wardround.errors import CodecError

__all__ = ["Asynchronous", "Local", "Optimizer", "ServerRule", "Training", "check", "kept_columns", "sites_share"]

_MOST_EPOCHS = 1000
_MOST_STEPS = 1_000_000


class Optimizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The local optimizer, made anew in each round."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0


class ServerRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the hub moves the model along the aggregated update (Reddi et al., arXiv:2003.00295)."""

    name: Literal["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi"] = "fedavg"
    learning_rate: float = 1.0
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3


class Local(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a site does otherwise than plain local steps, and what it keeps to itself.

    Attributes:
        algorithm: "plain", or one of the above, with its `strength` (FedProx's mu, FedDyn's alpha).
        normalized_steps: FedNova: an update is scaled to what so many steps would have done; 0 leaves it as it is.
        kept: Name patterns (``norm*``) of arrays that stay at the site and differ between sites: FedBN, a local head.
        personal: Ditto's lambda: a second model of the site's own is trained beside, drawn to the global one. 0: none.
        finetune_epochs: Passes over the site's records, from the last global model, at the end.
        divergence: Whether each site says how far its last update lay from what the round made of all of them.
    """

    algorithm: Literal["plain", "fedprox", "scaffold", "feddyn"] = "plain"
    strength: float = 0.0
    normalized_steps: int = 0
    kept: tuple[str, ...] = ()
    personal: float = 0.0
    finetune_epochs: int = 0
    divergence: bool = False

    @property
    def remembers(self) -> bool:
        """Whether a site's work in a round hangs on its work in earlier ones."""
        return self.algorithm in {"scaffold", "feddyn"} or self.is_personal or self.divergence

    @property
    def is_personal(self) -> bool:
        """Whether a site ends with a model of its own."""
        return bool(self.kept or self.personal or self.finetune_epochs)


class Asynchronous(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Buffered asynchronous training (FedBuff): `buffer` updates, each of another site, make a step.

    A site trains on the newest model whenever it is free, and its update counts however late it comes, up to
    `max_staleness` steps; what its lateness leaves of it is said by `staleness` with `slope` and `grace` (see
    `wardround.aggregation.staleness`). With `agreement` a late update that is not masked is scaled, too, by how
    far it agrees with where the model has gone since. A buffer of one is FedAsync.
    """

    buffer: int
    staleness: Staleness = "polynomial"
    slope: float = 0.5
    grace: int = 4
    max_staleness: int = 10
    agreement: bool = True


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rounds and local work; exactly one of `epochs` and `steps` is positive.

    With `asynchronous`, a round is one step of the hub, of a buffer of updates.
    """

    rounds: int
    epochs: int = 1
    steps: int = 0
    batch_size: int = 32
    optimizer: Optimizer = Optimizer()
    server: ServerRule = ServerRule()
    local: Local = Local()
    asynchronous: Asynchronous | None = None


def check(training: Training, manifest: Manifest, *, least_rounds: int = 1) -> None:
    """Refuse training that no run could follow.

    Raises:
        CodecError: Says which setting.
    """
    if not least_rounds <= training.rounds <= 100_000:
        raise CodecError("training needs 1 to 100,000 rounds; rounds = 0 is for a study that has analyses and no model")
    if (training.epochs > 0) == (training.steps > 0):
        raise CodecError("training needs either epochs or steps, and the other 0")
    if training.batch_size < 1 or min(training.epochs, training.steps) < 0:
        raise CodecError("batch_size must be positive, epochs and steps not negative")
    rates = (training.optimizer.learning_rate, training.server.learning_rate, training.server.tau)
    if min(rates) <= 0:
        raise CodecError("learning rates and tau must be positive")
    betas = (training.server.momentum, training.server.beta1, training.server.beta2, training.optimizer.momentum)
    if not all(0 <= beta < 1 for beta in betas) or training.optimizer.weight_decay < 0:
        raise CodecError("momentum and betas must lie in [0, 1), weight_decay be at least 0")
    _check_local(training, manifest)


def kept_columns(local: Local, manifest: Manifest) -> list[tuple[int, int]]:
    """Columns of the model's flat vector that stay at the site, as ranges ``[start, stop)`` in order."""
    ranges: list[tuple[int, int]] = []
    start = 0
    for spec in manifest:
        stop = start + math.prod(spec.shape)
        if any(fnmatchcase(spec.name, pattern) for pattern in local.kept):
            if ranges and ranges[-1][1] == start:
                ranges[-1] = (ranges[-1][0], stop)
            else:
                ranges.append((start, stop))
        start = stop
    return ranges


def sites_share(local: Local) -> bool:
    """Whether sites work from the server rule's first state vector, too."""
    return local.algorithm == "scaffold"


def _check_local(training: Training, manifest: Manifest) -> None:
    local = training.local
    if not all(math.isfinite(value) and value >= 0 for value in (local.strength, local.personal)):
        raise CodecError("strength and personal must be finite and not negative")
    if (local.algorithm in {"fedprox", "feddyn"}) != (local.strength > 0):
        raise CodecError("fedprox and feddyn need a positive strength, and nothing else takes one")
    if local.normalized_steps < 0 or not 0 <= local.finetune_epochs <= _MOST_EPOCHS:
        raise CodecError(f"normalized_steps must not be negative, and finetune_epochs lie between 0 and {_MOST_EPOCHS}")
    pull = local.strength * training.optimizer.learning_rate if local.algorithm == "fedprox" else 0.0
    if local.normalized_steps > _MOST_STEPS or (local.normalized_steps and pull >= 1):
        raise CodecError(
            f"normalized_steps is at most {_MOST_STEPS:,}; with fedprox strength * learning_rate is below 1"
        )
    for pattern in local.kept:
        if not any(fnmatchcase(spec.name, pattern) for spec in manifest):
            names = ", ".join(spec.name for spec in manifest[:20])
            raise CodecError(f"kept: the pattern {pattern!r} matches none of the model's arrays ({names})")
    if kept_columns(local, manifest) == [(0, sum(math.prod(spec.shape) for spec in manifest))]:
        raise CodecError("kept: every array would stay at the site, so nothing would be learned together")
    if local.algorithm in {"scaffold", "feddyn"}:
        _check_correction(training)


def _check_correction(training: Training) -> None:
    name, server, optimizer = training.local.algorithm, training.server, training.optimizer
    if server != ServerRule(learning_rate=server.learning_rate) or training.local.normalized_steps:
        raise CodecError(f"{name} has a server rule of its own: leave the server at fedavg, and normalized_steps at 0")
    if name == "feddyn" and server.learning_rate != 1.0:
        raise CodecError("feddyn has no learning rate at the server: leave it at 1")
    if training.asynchronous is not None:
        raise CodecError(f"{name} needs synchronous rounds: its corrections are of one model version")
    if name == "scaffold" and not (training.steps and optimizer.name == "sgd" and not optimizer.momentum):
        raise CodecError("scaffold needs steps instead of epochs, as many at every site, and sgd without momentum")
