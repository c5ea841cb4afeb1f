"""What the demo compares: each hospital's own model, the federated one, and one on pooled records.

The pooled model is for reference only: it needs what hospitals may not do. Own and pooled models are
trained by the same study over one site, so nothing differs but the records.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from wardround.clinical.table import LoadReport, StudyTable
from wardround.ids import SiteId
from wardround.sdk.predict import predict
from wardround.sdk.simulate import Simulated, simulate
from wardround.sdk.study import Study
from wardround.training import metrics

__all__ = ["Comparison", "Score", "compare"]

_SEED = 1


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
    """Per hospital, and over all of them (key "all"): metric → model → score; models are own, federated, pooled."""

    on_own_patients: dict[str, dict[str, dict[str, Score]]]
    on_all_patients: dict[str, dict[str, Score]]


def compare(study: Study, tables: Mapping[str, StudyTable], federated: tuple[bytes, bytes]) -> Comparison:
    """Score every model on the held-out records of each hospital and of all together."""
    pooled = _alone(study, _joined(list(tables.values())))
    own = {name: _alone(study, table) for name, table in tables.items()}
    everyone = _joined(list(tables.values()))
    on_own: dict[str, dict[str, dict[str, Score]]] = {}
    for name, table in tables.items():
        models = {"own": own[name], "federated": federated, "pooled": pooled}
        on_own[name] = {model: _scores(study, files, table) for model, files in models.items()}
    on_all = {f"{name} alone": _scores(study, files, everyone) for name, files in own.items()}
    on_all |= {"federated": _scores(study, federated, everyone), "pooled": _scores(study, pooled, everyone)}
    return Comparison(on_own, on_all)


def _alone(study: Study, table: StudyTable) -> tuple[bytes, bytes]:
    plan = msgspec.structs.replace(study.plan, participants=(SiteId("alone"),), min_participants=1)
    result: Simulated = simulate(Study(plan, study.initial, study.package), {"alone": table})
    return result.model, result.standardization


def _joined(tables: list[StudyTable]) -> StudyTable:
    records = sum(len(table.labels) for table in tables)
    return StudyTable(
        np.concatenate([table.features for table in tables]),
        np.concatenate([table.labels for table in tables]),
        np.concatenate([table.held_out for table in tables]),
        LoadReport(records, records, 0),
    )


def _scores(study: Study, files: tuple[bytes, bytes], table: StudyTable) -> dict[str, Score]:
    outputs = predict(study.plan, *files, table.features[table.held_out]).astype(np.float64)
    labels: npt.NDArray[np.float64] = table.labels[table.held_out].astype(np.float64)
    found: dict[str, Score] = {}
    for name, metric in (("accuracy", metrics.accuracy), ("AUC", metrics.auc)):
        interval = metrics.bootstrap_interval(metric, labels, outputs, _SEED)
        found[name] = Score(metric(labels, outputs), *(interval or (None, None)))
    return found
