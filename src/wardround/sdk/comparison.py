"""Models beside one another, in simulation: each site's own, all sites' together, and one on pooled records.

    own           the same study over this site's records alone
    federated     what the study gave
    personal      the site's own model that the plan lets it keep, where it has one
    left out      the same study over all sites but this one: what a hospital gets that joins later
    pooled        the same study over all records as one site: for reference only, it needs what hospitals may not do

All are trained by the same study, so nothing differs but the records; each is scored on the same held-out ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from wardround.clinical.table import LoadReport, StudyTable
from wardround.codec import tensors
from wardround.ids import SiteId
from wardround.protocol.plan import Limits, Plan
from wardround.sdk.predict import predict
from wardround.sdk.simulate import Simulated, simulate
from wardround.sdk.study import Study
from wardround.training import metrics

__all__ = ["Comparison", "Score", "advice", "compare", "leading_metric", "rows"]

_SEED = 1
_LEADING = {"binary": "auc", "multiclass": "accuracy", "number": "rmse", "survival": "c_index"}
_MEASURES = {
    "accuracy": metrics.accuracy,
    "auc": metrics.auc,
    "c_index": metrics.c_index,
    "rmse": metrics.rmse,
}

Files = tuple[bytes, bytes]
"""A model's file and that of the statistics that its inputs are scaled by."""


@dataclass(frozen=True, slots=True)
class Score:
    """A metric with its 95 % bootstrap interval; None where it is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        """The value and its interval, for a table."""
        if self.value is None:
            return "undefined"
        interval = "" if self.low is None else f" ({self.low:.3f}-{self.high:.3f})"
        return f"{self.value:.3f}{interval}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Per site, and on all sites' held-out records: model → metric → score."""

    on_own_patients: dict[str, dict[str, dict[str, Score]]]
    on_all_patients: dict[str, dict[str, Score]]


def compare(
    study: Study,
    tables: Mapping[str, StudyTable],
    federated: Files,
    *,
    personal: Mapping[str, Mapping[str, object]] | None = None,
    leave_out: bool = False,
) -> Comparison:
    """Score every model on the held-out records of each site and of all together.

    Args:
        study: The study that gave `federated`.
        tables: Every participant's records.
        federated: The study's model and statistics.
        personal: Sites' own models by array name, as in `Simulated`.
        leave_out: Whether to train without each site, too: as many more runs as there are sites.
    """
    everyone = _joined(list(tables.values()))
    pooled = _trained(study, {"alone": everyone})
    own = {name: _trained(study, {name: table}) for name, table in tables.items()}
    on_own: dict[str, dict[str, dict[str, Score]]] = {}
    for name, table in tables.items():
        models = {"own": own[name], "federated": federated}
        if personal and name in personal:
            models["personal"] = _packed(study.plan, personal[name]), federated[1]
        if leave_out and len(tables) > 1:
            models["left out"] = _trained(study, {other: one for other, one in tables.items() if other != name})
        models["pooled"] = pooled
        on_own[name] = {model: _scores(study, files, table) for model, files in models.items()}
    on_all = {f"{name} alone": _scores(study, files, everyone) for name, files in own.items()}
    on_all |= {"federated": _scores(study, federated, everyone), "pooled": _scores(study, pooled, everyone)}
    return Comparison(on_own, on_all)


def leading_metric(plan: Plan) -> str:
    """By which metric a study's models are compared."""
    return _LEADING[plan.data.label.outcome]


def rows(plan: Plan, found: Comparison) -> list[dict[str, str | float | None]]:
    """The leading metric of each model on each site's held-out records: a row per site."""
    name = leading_metric(plan)
    return [
        {"site": site, "metric": name} | {model: scores[name].value for model, scores in models.items()}
        for site, models in found.on_own_patients.items()
    ]


def advice(plan: Plan, found: Comparison) -> list[str]:
    """Which sites would be better off with their own records alone, as far as their held-out ones can tell."""
    name, words = leading_metric(plan), []
    sign = -1.0 if name == "rmse" else 1.0
    for site, models in found.on_own_patients.items():
        shared = [models[model][name] for model in ("federated", "personal") if model in models]
        known = [score.value for score in shared if score.value is not None]
        alone = models["own"][name]
        if not known or alone.value is None:
            continue
        best = max(known, key=lambda value: sign * value)
        if sign * (alone.value - best) <= 0:
            continue
        low, high = alone.low, alone.high
        if low is not None and high is not None and low <= best <= high:
            continue  # its held-out records cannot tell
        words.append(
            f"{site} does better with its own records alone: {name} {alone.value:.3f}, "
            f"against {best:.3f} of the best shared or personal model."
        )
    return words


def _trained(study: Study, tables: Mapping[str, StudyTable]) -> Files:
    """The same training over other sites, in the clear: what protects sites from one another has no use here."""
    names = tuple(sorted(SiteId(name) for name in tables))
    training = msgspec.structs.replace(study.plan.training, asynchronous=None)
    plan = msgspec.structs.replace(
        study.plan,
        participants=names,
        min_participants=len(names),
        training=training,
        secure=None,
        summaries=(),
        analyses=(),
        appraisal=None,
        screening=None,
        limits=msgspec.structs.replace(study.plan.limits, max_records=Limits().max_records),
    )
    if len(names) < len(study.plan.participants):  # the rule may need more of them, or the one it trusts
        plan = msgspec.structs.replace(plan, aggregation=type(plan.aggregation)())
    result: Simulated = simulate(Study(plan, study.initial, study.package), dict(tables))
    return result.model, result.standardization


def _packed(plan: Plan, arrays: Mapping[str, object]) -> bytes:
    dtype = tensors.flat_dtype(plan.manifest)
    return tensors.pack({name: np.asarray(array).astype(dtype) for name, array in arrays.items()}, plan.manifest)


def _joined(tables: list[StudyTable]) -> StudyTable:
    records = sum(len(table.labels) for table in tables)
    starts = np.cumsum([0, *(int(table.patients.max(initial=-1)) + 1 for table in tables)])
    patients = [table.patients + start for table, start in zip(tables, starts, strict=False)]
    return StudyTable(
        np.concatenate([table.features for table in tables]),
        np.concatenate([table.labels for table in tables]),
        np.concatenate([table.held_out for table in tables]),
        LoadReport(records, records, 0),
        np.concatenate(patients).astype(np.int32),
    )


def _scores(study: Study, files: Files, table: StudyTable) -> dict[str, Score]:
    outputs = predict(study.plan, *files, table.features[table.held_out], package=study.package or b"")
    labels: npt.NDArray[np.float64] = table.labels[table.held_out].astype(np.float64)
    guess = outputs.astype(np.float64)
    outcome = study.plan.data.label.outcome
    if outcome == "multiclass":
        return {"accuracy": Score(metrics.multiclass_accuracy(labels, guess))}
    found: dict[str, Score] = {}
    for name in ("accuracy", "auc") if outcome == "binary" else (_LEADING[outcome],):
        interval = metrics.bootstrap_interval(_MEASURES[name], labels, guess, _SEED)
        found[name] = Score(_MEASURES[name](labels, guess), *(interval or (None, None)))
    return found
