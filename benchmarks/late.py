"""One of eight sites ten times slower: how long until the model is good, synchronous and asynchronous."""

import time
from statistics import mean

import msgspec
import numpy as np

from benchmarks.federation import federation, names
from wardround.clinical.contract import Column, DataContract, Label
from wardround.protocol.plan import Aggregation, Asynchronous, BuiltinModel, Limits, Optimizer, Training
from wardround.sdk import study as studies

__all__ = ["straggler"]

_NODES, _BUFFER, _SECONDS = 8, 7, 0.2
_SLOW = "site-07"


def straggler(rounds: int = 60) -> dict[str, float]:
    """Seconds to the target, and between steps, of three runs."""
    late = Asynchronous(buffer=_BUFFER)
    calm = _run(late, slow="", rounds=rounds)
    delayed = _run(late, slow=_SLOW, rounds=rounds)
    waiting = _run(None, slow=_SLOW, rounds=rounds // 3)
    found = {
        "asynchronous, none slow": calm["target"],
        "asynchronous, one slow": delayed["target"],
        "synchronous, one slow": waiting["target"],
        "ratio": delayed["target"] / calm["target"],
        "synchronous_over_asynchronous": waiting["target"] / delayed["target"],
    }
    return found | {"step_ratio": delayed["step"] / calm["step"], "slow_updates": delayed["slow"]}


def _run(late, *, slow, rounds):
    """Time until the mean Brier score of the sites is at the target, and seconds per step of the hub."""
    with federation(_NODES, process=("benchmarks.late_node", str(_SECONDS), slow)) as running:
        for place, name in enumerate(names(_NODES)):
            _write_records(running.place / name / "records.csv", place)
        status = running.complete(_study(late, rounds))
    events = status.events
    opened = {event["number"]: event["at"] for event in events if event["event"] == "round-opened"}
    start = opened[2]  # Before that, eight processes on two cores import their learning library.
    scores = {}
    for event in events:
        if event["event"] == "update-accepted" and event["evaluation"]:
            scores.setdefault(event["trained"] or event["number"], []).append(event["evaluation"]["metrics"]["brier"])
    best = min(mean(found) for found in scores.values())
    first = min(number for number, found in scores.items() if mean(found) <= 0.150)
    combined = [event["at"] for event in events if event["event"] == "round-combined"]
    others = (combined[-2] - combined[2]) / (len(combined) - 4)
    slow_updates = sum(event["event"] == "update-accepted" and event["site"] == _SLOW for event in events)
    print(f"{'late' if late else 'sync'} slow={slow!r} best={best:.4f} round={first} step={others:.3f}", flush=True)
    return {"target": opened[first] - start, "step": others, "slow": slow_updates}


def _write_records(path, place):
    generator = np.random.default_rng(place)
    x = generator.standard_normal(400)
    y = generator.random(400) < 1 / (1 + np.exp(-(2.5 * x - 1.0)))
    path.write_text("x,y\n" + "".join(f"{a:.6f},{int(b)}\n" for a, b in zip(x, y, strict=True)))


def _study(late, rounds):
    return studies.declare(
        title="one slow site",
        purpose="measure",
        legal_basis="none",
        researcher="ada",
        participants=names(_NODES),
        min_participants=4 if late else _NODES,
        data=DataContract(columns=(Column(name="x"),), label=Label(name="y"), scaling="none"),
        model=BuiltinModel(name="logistic"),
        training=Training(rounds=rounds, epochs=0, steps=2, optimizer=Optimizer(learning_rate=0.25), asynchronous=late),
        aggregation=Aggregation(),
        limits=msgspec.structs.replace(Limits(), absence_seconds=60.0),
        expires=int(time.time()) + 86400,
    )
