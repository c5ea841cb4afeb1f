"""How bad a world is, and what is studied in it: drawn from the seed before anything happens."""

from dataclasses import dataclass, field

import msgspec
from tests.simulation import fakes
from tests.simulation.fakes import T0

from wardround.protocol.plan import Asynchronous, Privacy, SecureAggregation


@dataclass
class Weather:
    """How much goes wrong, drawn from the seed; all of it ends at `until`."""

    until: float = T0
    loss: float = 0.0
    repeat: float = 0.0
    delay: float = 0.0
    storage: float = 0.0
    hub_kills: int = 0
    node_kills: int = 0
    partitions: int = 0
    longest: float = 5.0
    zombie: bool = False
    uploads: bool = False
    hostile: frozenset = field(default_factory=frozenset)
    gone: dict = field(default_factory=dict)
    verdicts: dict = field(default_factory=dict)
    withdrawals: dict = field(default_factory=dict)
    researcher: tuple = ()
    skew: dict = field(default_factory=dict)
    liar: str = ""
    """Which step the hub changes when it tells members of it, if any."""


def draw_weather(kind, rng, sites, plan_count):
    """The faults of one world."""
    weather = Weather(uploads=rng.random() < 0.3)
    if kind == "calm":
        return weather
    weather.until = T0 + rng.choice([60, 150, 400])
    weather.loss, weather.repeat, weather.delay = (rng.choice([0, 0, 0.05, 0.2, 0.4]) for _ in range(3))
    weather.storage = rng.choice([0, 0, 0.02, 0.1])
    weather.hub_kills, weather.node_kills = rng.choice([0, 0, 1, 3]), rng.choice([0, 0, 1, 4])
    if kind == "rain":
        return weather
    weather.partitions = rng.choice([0, 0, 1, 3])
    weather.longest = rng.choice([5.0, 30.0, 120.0])
    weather.zombie = rng.random() < 0.2
    if rng.random() < 0.45:
        weather.hostile = frozenset(rng.sample(sites, rng.choice([1, 1, 2])))
    if rng.random() < 0.3:
        weather.gone = {rng.choice(sites): T0 + rng.uniform(5, 200)}
    for site in sites:
        weather.skew[site] = rng.choice([0.0, 0.0, rng.uniform(-20, 20)])
        for study in range(plan_count):
            luck = rng.random()
            if luck < 0.06:
                weather.verdicts[site, study] = "refuse" if luck < 0.03 else "never"
            elif luck > 0.94:
                weather.withdrawals[site, study] = T0 + rng.uniform(1, 150)
    if rng.random() < 0.25:
        weather.researcher = (rng.choice(["start", "withdraw"]), T0 + rng.uniform(5, 120))
    weather.liar = rng.choice(["", "", "Invitation", "Delivery", "Survivors", "Agreements"])
    return weather


def draw_plans(kind, rng, sites):
    """One or two studies."""
    found = []
    for salt in range(1 + (kind == "storm" and rng.random() < 0.15)):
        chosen = sites if salt == 0 else sorted(rng.sample(sites, max(2, len(sites) - 1)))
        name = rng.choice(["fedavg", "fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"])
        patient = {"round_timeout_seconds": 5000.0, "absence_seconds": 4000.0, "patience": 5, "max_records": 1000}
        hasty = {
            "round_timeout_seconds": rng.choice([40.0, 90.0]),
            "absence_seconds": rng.choice([12.0, 25.0]),
            "patience": rng.choice([1, 2, 3]),
            "max_records": rng.choice([20, 1000]),
        }
        found.append(
            fakes.make_plan(
                sites=chosen,
                quorum=rng.randint(1, len(chosen)) if rng.random() < 0.3 else max(1, len(chosen) - 1),
                rounds=rng.choice([1, 2, 2, 3]),
                scaling=rng.choice(["federated", "none"]),
                server={"name": name, "learning_rate": rng.choice([1.0, 0.5])},
                limits=hasty if kind == "storm" else patient,
                expires=T0 + (rng.choice([50, 1500, 3000, 3000, 3000]) if kind == "storm" else 90_000),
                salt=salt + 2 * rng.randrange(50),
            )
        )
    return found


def draw_secure_plans(kind, rng, sites):
    """The same studies under secure aggregation, with crowds of three at least."""
    found = []
    for plan in draw_plans(kind, rng, sites):
        if len(plan.participants) < 3:
            continue
        secure = SecureAggregation(
            roster=fakes.ROSTER,
            clip=rng.choice([1.0, 8.0]),
            max_weight=rng.choice([10, 1000]),
            site_metrics=rng.random() < 0.2,
            stage_seconds=30.0 if kind == "storm" else 5000.0,
            group_size=3 if len(plan.participants) == 6 and rng.random() < 0.5 else 0,
        )
        quorum = 3 if secure.group_size else max(3, plan.min_participants)
        found.append(msgspec.structs.replace(plan, secure=secure, min_participants=quorum))
    return found


def made_private(plan):
    """The same study with differential privacy, where its statistics allow that without noise of their own."""
    if plan.data.scaling != "none":
        return plan
    training = msgspec.structs.replace(plan.training, epochs=0, steps=1)
    return msgspec.structs.replace(plan, training=training, privacy=Privacy(delta=1e-3, noise_multiplier=4.0))


def draw_late(kind, rng, plan):
    """The same study with asynchronous training, and without groups."""
    if plan.secure is not None:
        plan = msgspec.structs.replace(plan, secure=msgspec.structs.replace(plan.secure, group_size=0))
    most = rng.choice([0, 1, 2, 10])
    late = Asynchronous(
        buffer=rng.randint(plan.min_participants, len(plan.participants)),
        staleness=rng.choice(["constant", "hinge", "polynomial"]),
        slope=rng.choice([0.5, 1.0]),
        grace=rng.choice([0, 1]),
        max_staleness=most,
        agreement=False,
    )
    rounds = plan.training.rounds * (2 if kind == "storm" else 3)
    return msgspec.structs.replace(
        plan, training=msgspec.structs.replace(plan.training, rounds=rounds, asynchronous=late)
    )
