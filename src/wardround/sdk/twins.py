"""Synthetic twins: made-up records of a contract's shape, for plans that are tried before any record is asked.

Nothing here comes from a record: it is a made-up task of this shape, not your data, and only says how a plan fares on
an easy problem of as many columns.

    number      normal around the middle of its plausible range, a quarter of the range wide, within it; one bound: a
                half normal from there; none: standard normal
    category    any with the same chance, others too; boolean: half of them true
    patients    where the contract has them 3 records each on average, which have half of their variance in common
    label       a teacher of up to ten columns, and of half of them at most where there are many:
                binary, multiclass   so much noise that nobody can be right more often than 84 % of the time
                number               four fifths of the variance can be explained
                survival             exponential times, about two fifths of them censored
    sites       all alike, and without gaps: real ones differ, and are harder
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wardround.clinical import contract as data_contract
from wardround.clinical.contract import Column, DataContract
from wardround.clinical.table import LoadReport, StudyTable
from wardround.protocol.plan import Plan

__all__ = ["fresh", "twins"]

_KNOWN = 4000
_MOST_COLUMNS = 10
_RIGHT = 0.84
_EXPLAINED = 0.8
_RECORDS_EACH = 3
_HAZARD = 1.2
_CENSORING = 0.5

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, repr=False)
class _Task:
    """A teacher: ``(features - centre) / spread @ weights + shift`` is a logit, a log-risk or a number."""

    contract: DataContract
    centre: Floats
    spread: Floats
    weights: Floats
    shift: Floats

    def scores(self, features: Floats) -> Floats:
        return (features - self.centre) / self.spread @ self.weights + self.shift


def twins(plan: Plan, records: int, seed: int) -> dict[str, StudyTable]:
    """Made-up records for each participant: the same plan, number and seed give the same ones.

    Args:
        plan: Whose contract says what columns there are.
        records: At each site, 1 or more, held-out ones among them.
        seed: Also of the teacher.

    Raises:
        ValueError: There are no records.
    """
    if records < 1:
        raise ValueError("a twin has at least one record")
    task = _task(plan.data, seed)
    return {site: _table(task, records, (seed, 2 + place)) for place, site in enumerate(plan.participants)}


def fresh(plan: Plan, records: int, seed: int) -> StudyTable:
    """Further records of the same teacher, of no site: to test on."""
    return _table(_task(plan.data, seed), records, (seed, 1))


def _generator(*seed: int) -> np.random.Generator:  # noqa: TID251, made from a seed
    return np.random.default_rng(seed)  # noqa: TID251, the seed is passed


def _task(contract: DataContract, seed: int) -> _Task:
    generator = _generator(seed, 0)
    features = _features(contract, np.arange(_KNOWN), generator)
    centre, spread = features.mean(axis=0), features.std(axis=0)
    spread[spread < 1e-9] = 1.0
    width, outputs = features.shape[1], len(contract.label.classes) or 1
    telling = np.flatnonzero(features.std(axis=0) >= 1e-9)
    chosen = generator.permutation(telling)[: max(2, min(_MOST_COLUMNS, -(-width // 2)))]
    weights = np.zeros((width, outputs))
    size = generator.uniform(0.5, 1.0, (len(chosen), outputs)) * generator.choice([-1.0, 1.0], (len(chosen), outputs))
    weights[chosen] = size
    task = _Task(contract, centre, spread, weights, np.zeros(outputs))
    scores = task.scores(features)
    scale = 1 / max(float(scores.std()), 1e-9)
    if contract.label.outcome in {"binary", "multiclass"}:
        scale *= _scale((scores - np.median(scores, axis=0)) * scale)
    shift = -np.median(scores, axis=0) * scale
    return _Task(contract, centre, spread, weights * scale, shift)


def _scale(scores: Floats) -> float:
    """With what to multiply logits so that the likeliest class is right as often as it should be."""
    low, high = 0.0, 100.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _chances(scores * middle).max(axis=1).mean() < _RIGHT else (low, middle)
    return high


def _chances(scores: Floats) -> Floats:
    """Probabilities of each class, of a binary label of both."""
    logits = np.column_stack([np.zeros(len(scores)), scores]) if scores.shape[1] == 1 else scores
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Floats = powers / powers.sum(axis=1, keepdims=True)
    return found


def _table(task: _Task, records: int, seed: tuple[int, int]) -> StudyTable:
    generator, contract = _generator(*seed), task.contract
    patients = np.arange(records)
    if contract.patient:
        patients = np.repeat(patients, 1 + generator.poisson(_RECORDS_EACH - 1, records))[:records]
    features = _features(contract, patients, generator)
    people = int(patients[-1]) + 1
    order = generator.permutation(people)
    held_out = np.isin(patients, order[: math.floor(people * contract.holdout)])
    return StudyTable(
        features.astype(np.float32),
        _labels(contract, task.scores(features), generator).astype(np.float32),
        held_out,
        LoadReport(records, records, 0, patients=people),
        patients.astype(np.int32),
    )


def _labels(contract: DataContract, scores: Floats, generator: np.random.Generator) -> Floats:  # noqa: TID251, as above
    records, score = len(scores), scores[:, 0]
    match contract.label.outcome:
        case "binary" | "multiclass":
            reached = np.cumsum(_chances(scores), axis=1) < generator.random((records, 1))
            found: Floats = np.minimum(reached.sum(axis=1), max(1, scores.shape[1] - 1)).astype(np.float64)
            return found
        case "number":
            return score + math.sqrt(1 / _EXPLAINED - 1) * generator.standard_normal(records)
        case "survival":
            times = generator.exponential(1.0, records) * np.exp(-_HAZARD * score)
            censored = generator.exponential(1 / _CENSORING, records)
            return np.column_stack([np.minimum(times, censored), times <= censored])


def _features(contract: DataContract, patients: npt.NDArray[np.intp], generator: np.random.Generator) -> Floats:  # noqa: TID251, as above
    return np.column_stack([_column(column, contract, patients, generator) for column in contract.columns])


def _column(
    column: Column,
    contract: DataContract,
    patients: npt.NDArray[np.intp],
    generator: np.random.Generator,  # noqa: TID251, as above
) -> Floats:
    records, people = len(patients), int(patients[-1]) + 1
    found = np.zeros((records, len(data_contract.column_features(column))))
    if column.kind == "category":
        values = len(column.categories) + column.other
        found[np.arange(records), generator.integers(0, values, people)[patients]] = 1.0
        return found
    whose = generator.standard_normal(people)[patients]
    if column.kind == "boolean":
        found[:, 0] = whose > 0
        return found
    if contract.patient:
        whose = math.sqrt(0.5) * (whose + generator.standard_normal(records))
    found[:, 0] = _plausible(column, whose)
    return found


def _plausible(column: Column, normal: Floats) -> Floats:
    low, high = column.minimum, column.maximum
    if low is not None and high is not None:
        values: Floats = np.clip((low + high) / 2 + (high - low) / 4 * normal, low, high)
        return values
    if low is not None:
        return low + max(abs(low), 1.0) * np.abs(normal)
    if high is not None:
        return high - max(abs(high), 1.0) * np.abs(normal)
    return normal
