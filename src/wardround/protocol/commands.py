"""What a run is told: the commands that `wardround.protocol.run.decide` takes."""

from dataclasses import dataclass, field
from typing import TypeAlias

from wardround.ids import SiteId
from wardround.protocol.messages import Contribution, Evaluation
from wardround.protocol.plan import BlobRef

__all__ = [
    "CohortLost",
    "CohortReady",
    "Combined",
    "Command",
    "Contributed",
    "Failed",
    "Left",
    "Ticked",
    "Withdrawn",
]


@dataclass(frozen=True, slots=True)
class Contributed:
    """A site answered; `flaw` is what the hub found wrong with the bytes, or empty."""

    site: SiteId
    contribution: Contribution
    flaw: str = ""


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed; `present` are the sites that the hub has heard of lately."""

    present: frozenset[SiteId]


@dataclass(frozen=True, slots=True)
class Combined:
    """The aggregate of round `number` has been computed and stored; `set_aside` says who is not in it, and why."""

    number: int
    model: BlobRef
    standardization: BlobRef | None
    server_state: tuple[BlobRef, ...]
    present: frozenset[SiteId]
    evaluation: Evaluation | None = None
    findings: dict[str, BlobRef] = field(default_factory=dict)
    set_aside: dict[SiteId, str] = field(default_factory=dict)
    norm: float | None = None
    skipped: int = 0
    is_aggregated: bool = True


@dataclass(frozen=True, slots=True)
class CohortReady:
    """The masks of a cohort's sum can be taken off; `blamed` gave shares that were wrong."""

    number: int
    cohort: int
    survivors: tuple[SiteId, ...]
    blamed: dict[SiteId, str]


@dataclass(frozen=True, slots=True)
class CohortLost:
    """A cohort failed, and why."""

    number: int
    cohort: int
    reason: str
    blamed: dict[SiteId, str]


@dataclass(frozen=True, slots=True)
class Failed:
    """Round `number` cannot be combined; `reason` names who must act."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Left:
    """A site took its approval back."""

    site: SiteId
    reason: str


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The researcher or operator ends the run."""

    reason: str


Command: TypeAlias = Contributed | Ticked | CohortReady | CohortLost | Combined | Failed | Left | Withdrawn
