"""Help with planning a private study: what its guarantee is, what a steward must grant, what another would take.

All figures follow from the plan: nothing is asked of any site, and nothing spent. What a guarantee may cost in
utility is tried in `wardround.sdk.utility`.

References:
    Mironov. Rényi Differential Privacy. CSF 2017. arXiv:1702.07476 (what budgets are kept in).
    Dwork, Roth. The Algorithmic Foundations of Differential Privacy. 2014: theorems 2.2 and 3.16 (two records).
    Jayaraman, Evans. Evaluating Differentially Private Machine Learning in Practice. USENIX Security 2019 (how little
    large epsilons promise).
"""

import math
from dataclasses import dataclass

import msgspec

from wardround.errors import ConfigError
from wardround.privacy import accounting, calibration, mechanisms, rdp
from wardround.privacy.ledger_entry import RELATIONS
from wardround.privacy.mechanisms import Laplace, Mechanism, SampledGaussian
from wardround.protocol import private
from wardround.protocol.plan import Plan, Privacy

__all__ = ["MOST_EPSILON", "Figures", "Part", "Target", "figures", "noise_for", "privacy_words"]

MOST_EPSILON = 100.0
"""Above this a guarantee promises nothing, and tight figures take minutes."""


@dataclass(frozen=True, slots=True)
class Part:
    """A kind of round: one round's mechanism, how many there are, their epsilon alone, and their share of the cost.

    The share is of the Rényi cost at the order of a ledger that was granted the least: what is taken from a budget.
    """

    kind: str
    mechanism: Mechanism
    rounds: int
    epsilon: float
    share: float


@dataclass(frozen=True, slots=True)
class Target:
    """What another epsilon takes: the least of the plan's `setting`, by each accountant, and within a grant of it.

    None where no noise in this setting is enough, because the other rounds cost more.
    """

    epsilon: float
    setting: str
    noise: float | None
    tight_noise: float | None
    granted_noise: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """A private plan in numbers, the same at every site that takes part in all rounds.

    Attributes:
        unit: "patient" or "site".
        relation: In what neighbouring data sets differ.
        sampling: What is assumed about who takes part in a step; empty where nothing is.
        delta: The plan's.
        epsilon: By Rényi costs, which budgets are kept in; infinite where no order bounds it.
        tight_epsilon: By privacy loss distributions; None without dp-accounting, and far above what is useful.
        two_sites: Epsilon and delta for whoever is in two units: a patient treated at two of the sites, or two sites.
        least_grant: The least epsilon at `delta` that a steward must grant for this study alone.
        parts: What each kind of round costs.
        target: What another epsilon takes, if one was asked for.
    """

    unit: str
    relation: str
    sampling: str
    delta: float
    epsilon: float
    tight_epsilon: float | None
    two_sites: tuple[float, float]
    least_grant: float
    parts: tuple[Part, ...]
    target: Target | None = None


def figures(plan: Plan, target: float | None = None) -> Figures | None:
    """A plan's privacy in numbers; None without a [privacy] section.

    Args:
        plan: A checked plan.
        target: Another epsilon, whose noise is wanted.

    Raises:
        ConfigError: `target` is not finite and above 0, or the plan has no privacy and so no noise to choose.
    """
    if target is not None and not (math.isfinite(target) and target > 0):
        raise ConfigError(f"a target epsilon is finite and above 0, not {target:g}")
    privacy = plan.privacy
    if privacy is None:
        if target is not None:
            raise ConfigError("the plan has no [privacy] section, so there is no noise to choose for an epsilon")
        return None
    uses, delta, epsilon = private.uses(plan), privacy.delta, private.epsilon(plan)
    costs = {kind: [value * count for value in rdp.cost(one)] for kind, (one, count) in uses.items()}
    sums = [math.fsum(parts) for parts in zip(*costs.values(), strict=True)] if costs else [0.0] * len(rdp.ORDERS)
    least = calibration.least_grant(sums, delta)
    place = rdp.ORDERS.index(calibration.order_of(least, delta)) if math.isfinite(least) else 0
    sampled = [one for one, _ in uses.values() if isinstance(one, SampledGaussian)]
    return Figures(
        unit=privacy.unit,
        relation=RELATIONS[privacy.unit],
        sampling=mechanisms.assumptions(sampled[0]).partition("; ")[2] if sampled else "",
        delta=delta,
        epsilon=epsilon,
        tight_epsilon=_tight(plan, privacy) if 0 < epsilon <= MOST_EPSILON else None,
        two_sites=_two(privacy, epsilon),
        least_grant=least,
        parts=tuple(
            Part(kind, one, count, rdp.epsilon(costs[kind], delta), costs[kind][place] / (sums[place] or 1.0))
            for kind, (one, count) in uses.items()
        ),
        target=_target(plan, privacy, target) if target is not None else None,
    )


def privacy_words(plan: Plan, target: float | Figures | None = None) -> list[str]:
    """The same as `figures` in plain words, for whoever decides about a plan; raises as it does.

    Args:
        plan: A checked plan.
        target: Another epsilon, whose noise is wanted; or the plan's figures, where they are known already.
    """
    found = target if isinstance(target, Figures) else figures(plan, target)
    if plan.privacy is None or found is None:
        return ["Nothing is noised: the plan has no differential privacy."]
    return _words(plan.privacy, found)


def noise_for(plan: Plan, epsilon: float, *, tight: bool = False) -> float | None:
    """The least of the plan's noise with which all of it costs at most `epsilon`; None where there is none.

    That is `noise_multiplier`, of a plan without training `statistics_noise`. With `tight` it is by privacy loss
    distributions, and None without dp-accounting, too.
    """
    if plan.privacy is None:
        return None
    try:
        return calibration.least_noise(_noised(plan, plan.privacy), epsilon, plan.privacy.delta, tight=tight)
    except (ConfigError, ValueError):  # dp-accounting is not installed, or the other rounds cost more
        return None


def _words(privacy: Privacy, found: Figures) -> list[str]:
    trusted = {
        "local": "Noise is added at each site, so nobody outside it need be trusted.",
        "shared": "Each site adds a share of the noise under its mask, so the hub need not be trusted as long as at "
        f"most {privacy.colluding} sites tell it theirs.",
        "central": "Noise is added at the hub, so the hub must be trusted.",
    }[privacy.noise]
    sampled = f" Assumed: {found.sampling}." if found.sampling else " Nothing is assumed about sampling."
    tight = "" if found.tight_epsilon is None else f", {_up(found.tight_epsilon)} by privacy loss distributions (tight)"
    crowd = "patients at every site" if found.unit == "patient" else "sites"
    whole = f"Epsilon of the whole plan at every site: {_up(found.epsilon)} by Rényi costs (as budgets are kept){tight}"
    grant = f"epsilon {_up(found.least_grant)} at delta {found.delta:g}, with unit {found.unit}"
    words = [
        f"Privacy of each {found.unit}: {found.relation}.{sampled} {trusted}",
        f"{whole}, for delta {found.delta:g}.",
        f"Delta must be below 1 / number of {crowd}: this one is for at most {math.ceil(1 / found.delta) - 1:,}.",
        *(_part_words(part) for part in found.parts),
        f"The least grant for this study alone, by a site's steward: {grant}.",
        _two_words(found),
    ]
    if found.epsilon > MOST_EPSILON:
        words.append("An epsilon of this size promises nothing.")
    return [*words, *_target_words(found)]


def _part_words(part: Part) -> str:
    one = part.mechanism
    size = one.scale if isinstance(one, Laplace) else one.noise_multiplier
    many = f"{part.rounds} round(s)" + (f" of {one.steps} steps" if one.steps > 1 else "")
    return (
        f"{part.kind}: {many} with noise {size:.4g} take {part.share:.1%} of it; "
        f"alone they would have epsilon {_up(part.epsilon)}."
    )


def _two_words(found: Figures) -> str:
    epsilon, delta = found.two_sites
    if found.unit == "site":
        return f"Two sites together: epsilons add up, to {_up(epsilon)} with delta {delta:.2g}."
    kept = "" if delta < 1 else ", which is no promise"
    return (
        f"A patient treated at two of these hospitals is in both: epsilons add up, to {_up(epsilon)} "
        f"with delta {delta:.2g}{kept}."
    )


def _target_words(found: Figures) -> list[str]:
    target = found.target
    if target is None:
        return []
    if target.noise is None:
        return [
            f"No {target.setting} reaches epsilon {target.epsilon:g}: the other rounds cost more; more noise there."
        ]
    tight = "" if target.tight_noise is None else f", {target.tight_noise:g} would do by privacy loss distributions"
    granted = (
        f"A grant of exactly this epsilon needs {target.granted_noise:g}."
        if target.granted_noise
        else "No noise in this setting fits a grant of exactly this epsilon."
    )
    needed = f"{target.setting} = {target.noise:g} by Rényi costs{tight}"
    return [f"For epsilon {target.epsilon:g} at delta {found.delta:g}: {needed}. {granted}"]


def _up(epsilon: float) -> str:
    return f"{calibration.rounded_up(epsilon):g}" if math.isfinite(epsilon) else "infinite"


def _tight(plan: Plan, privacy: Privacy) -> float | None:
    try:
        return accounting.tight_epsilon(private.composed(plan), privacy.delta)
    except ConfigError:  # dp-accounting is not installed
        return None


def _two(privacy: Privacy, epsilon: float) -> tuple[float, float]:
    """Two units: of separate noise deltas add up, too; under one noise it is the privacy of a group of two."""
    if not math.isfinite(epsilon):
        return math.inf, 1.0
    factor = 2.0 if privacy.noise == "local" else 1 + math.exp(min(epsilon, 700.0))
    return 2 * epsilon, min(1.0, factor * privacy.delta)


def _setting(plan: Plan) -> str:
    return "noise_multiplier" if plan.training.rounds else "statistics_noise"


def _noised(plan: Plan, privacy: Privacy) -> calibration.MechanismsAt:
    def at(noise: float) -> list[Mechanism]:
        changed = msgspec.structs.replace(privacy, **{_setting(plan): noise})
        return private.composed(msgspec.structs.replace(plan, privacy=changed))

    return at


def _target(plan: Plan, privacy: Privacy, epsilon: float) -> Target:
    try:
        granted = calibration.noise_within_grant(_noised(plan, privacy), epsilon, privacy.delta)
    except ValueError:
        granted = None
    noise = noise_for(plan, epsilon)
    tight = noise_for(plan, epsilon, tight=True) if noise is not None and epsilon <= MOST_EPSILON else None
    return Target(epsilon, _setting(plan), noise, tight, granted)
