"""Workers of hostile sites, for simulations: they train as they should, and hand over something else."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np

from wardround.clinical.table import StudyTable
from wardround.codec import canonical, tensors
from wardround.ids import SiteId
from wardround.ports import Trained, Worker
from wardround.protocol.messages import Kind
from wardround.protocol.plan import BlobRef, Plan
from wardround.training import attacks
from wardround.training.attacks import Attack, DataAttack

__all__ = ["Collusion", "HostileWorker", "hostile_table"]


@dataclass(slots=True)
class Collusion:
    """What hostile sites know together: who they are, and the honest updates of the round."""

    plan: Plan
    attacks: Mapping[SiteId, Attack]
    number: int = 0
    honest: list[np.ndarray] = field(default_factory=list)

    def learn(self, number: int, update: np.ndarray) -> None:
        """Note an honest update."""
        if number != self.number:
            self.number, self.honest = number, []
        self.honest.append(update)


class HostileWorker:
    """Fills `wardround.ports.Worker` around another: an honest site's is overheard, a hostile one's update replaced."""

    def __init__(self, inner: Worker, site: SiteId, collusion: Collusion) -> None:
        self._inner, self._site, self._collusion = inner, site, collusion
        self._head = tensors.header(collusion.plan.manifest)

    @property
    def memory(self) -> int | None:
        """See `wardround.ports.Worker`."""
        return self._inner.memory

    def perform(
        self, number: int, kind: Kind, base: str, standardization: bytes, control: str = "", *, seed: bytes = b""
    ) -> Trained:
        """See `wardround.ports.Worker`."""
        trained = self._inner.perform(number, kind, base, standardization, control, seed=seed)
        if trained.update is None or trained.ref is None:
            return trained
        dtype = tensors.flat_dtype(self._collusion.plan.manifest)
        stored = np.frombuffer(os.pread(trained.update, trained.ref.size, 0)[len(self._head) :], dtype)
        own = stored.astype(np.float32)
        attack = self._collusion.attacks.get(self._site)
        if attack is None:
            self._collusion.learn(number, own)
            return trained
        if attack in get_args(DataAttack):
            return trained
        plan = self._collusion.plan
        drawn = [plan.seed, number, plan.participants.index(self._site)]
        sent = attacks.hostile_update(
            attack,  # type: ignore[arg-type]
            own,
            self._collusion.honest if self._collusion.number == number else [],
            sites=len(plan.participants),
            hostile=len(self._collusion.attacks),
            generator=np.random.default_rng(drawn),  # noqa: TID251, the seed follows from the plan's
        )
        data = self._head + sent.astype(dtype).tobytes()
        os.pwrite(trained.update, data, 0)
        return replace(trained, ref=BlobRef(canonical.digest(data), len(data)))

    def close(self) -> None:
        """See `wardround.ports.Worker`."""
        self._inner.close()


def hostile_table(table: StudyTable, attack: Attack, seed: int) -> StudyTable:
    """The records as a hostile site trains on them; those held out stay as they are.

    The backdoor's trigger is a first column three standard deviations above all that the site has.
    """
    if attack not in get_args(DataAttack):
        return table
    training = ~table.held_out
    first = table.features[:, 0]
    trigger = [(0, float(np.nanmax(first) + 3.0 * np.nanstd(first)))]
    features, labels = table.features.copy(), table.labels.copy()
    features[training], labels[training] = attacks.poisoned(
        attack,  # type: ignore[arg-type]
        features[training],
        labels[training],
        trigger=trigger,
        target=1.0,
        generator=np.random.default_rng(seed),  # noqa: TID251, the seed is passed
    )
    return StudyTable(features, labels, table.held_out, table.report, table.patients)
