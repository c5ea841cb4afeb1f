"""What may be asked of an iterated analysis, and the public state that it keeps between its rounds.

An analysis runs by rounds. In each, every site sends a vector of `length` numbers, which are added
over sites; from the sums alone the hub makes the next state:

    start ──▶ Fit ──▶ site_sums at every site ──▶ sum ──▶ step ──▶ Fit ──▶ ... until `is_done` ──▶ result

Every record of a site takes part, held out or not, that has every value that the analysis needs.

Hazard: a `Fit` is public. What is computed from fewer than the least count must not enter it.
"""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from wardround.clinical import contract as data_contract
from wardround.clinical.contract import DataContract
from wardround.clinical.table import StudyTable

__all__ = [
    "MAX_ITERATIONS",
    "MAX_NUMBERS",
    "Analysis",
    "Cox",
    "Curve",
    "Fit",
    "Glm",
    "KaplanMeier",
    "Status",
    "is_indicator",
    "length",
    "offence",
    "terms_of",
    "unknown",
    "usable_records",
]

MAX_ITERATIONS = 100
"""Rounds that an analysis may ask for."""
MAX_NUMBERS = 20_000
"""Numbers that a site may have to send in one round of all analyses together."""

Status = Literal[
    "running",
    "converged",
    "separated",
    "singular",
    "not converged",
    "too few records",
    "no events",
    "done",
]
"""How an analysis stands; all but the first are final."""

_Vector = npt.NDArray[np.float64]


class Glm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="glm", kw_only=True):
    """A generalized linear model with canonical link: identity, logit or log, and an intercept.

    `columns` are names of feature columns of the study table; `iterations` is the most rounds it may take.
    """

    family: Literal["gaussian", "binomial", "poisson"]
    columns: tuple[str, ...]
    iterations: int = 25


class Cox(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="cox", kw_only=True):
    """A proportional hazards model, stratified by site: each site has a baseline hazard of its own."""

    columns: tuple[str, ...]
    ties: Literal["efron", "breslow"] = "efron"
    iterations: int = 25


class KaplanMeier(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="kaplan-meier", kw_only=True):
    """Survival on a grid of times, of all records or of two groups, with the log-rank test between those.

    `edges` are rising times above 0 in the unit of the label. `group` names an indicator among the feature
    columns (a boolean column, or ``column=value`` of a category column); empty: no groups.
    """

    edges: tuple[float, ...]
    group: str = ""


Analysis: TypeAlias = Glm | Cox | KaplanMeier


class Curve(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a survival curve is computed from, after disclosure control.

    At each of the rising `times` there are `events` among `at_risk`; `until` is how far the curve is
    known. A group of too few records has `records` 0 and no times.
    """

    records: int = 0
    times: tuple[float, ...] = ()
    at_risk: tuple[int, ...] = ()
    events: tuple[int, ...] = ()
    until: float = 0.0


class Fit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="fit", kw_only=True):
    """The public state of an analysis: all that sites need for the next round, and the hub for the result.

    Attributes:
        iteration: Rounds of sums taken in so far.
        is_done: No further round is wanted.
        status: How it stands.
        coefficients: The point at which sites evaluate next; once done, the estimate.
        previous: The last point that was accepted.
        deviance: At `previous`; for a Cox model, -2 log partial likelihood.
        null_deviance: Of the model without columns.
        scales: Standard deviation of each column as the first information shows it.
        information: Upper triangle, by rows, of the information matrix at `previous`.
        records: Records that took part in the last round.
        total: Sum of the labels of a GLM; of a Cox model, events seen.
        columns: Those at fault, where the information is singular.
        curves: Of a Kaplan-Meier analysis: one, or those of group 0 and 1.
        log_rank: Its chi-square statistic with one degree of freedom.
    """

    iteration: int = 0
    is_done: bool = False
    status: Status = "running"
    coefficients: tuple[float, ...] = ()
    previous: tuple[float, ...] = ()
    deviance: float | None = None
    null_deviance: float | None = None
    scales: tuple[float, ...] = ()
    information: tuple[float, ...] = ()
    records: int = 0
    total: float = 0.0
    columns: tuple[str, ...] = ()
    curves: tuple[Curve, ...] = ()
    log_rank: float | None = None


def offence(analysis: Analysis, contract: DataContract) -> str:
    """What is wrong with an analysis, in words; empty where nothing is."""
    if isinstance(analysis, KaplanMeier):
        return _survival_offence(contract) or _edges_offence(analysis) or _group_offence(analysis, contract)
    if not 1 <= analysis.iterations <= MAX_ITERATIONS:
        return f"iterations must be 1 to {MAX_ITERATIONS}, not {analysis.iterations}"
    if not analysis.columns or len(set(analysis.columns)) != len(analysis.columns):
        return "it needs at least one column, and each once"
    known = set(data_contract.feature_names(contract))
    for name in analysis.columns:
        if name not in known:
            return unknown(name, contract)
    if isinstance(analysis, Cox):
        return _survival_offence(contract)
    wanted = "binary" if analysis.family == "binomial" else "number"
    if contract.label.outcome != wanted:
        return f"the {analysis.family} family needs a label whose outcome is {wanted}, not {contract.label.outcome}"
    return ""


def length(analysis: Analysis, contract: DataContract) -> int:  # noqa: ARG001 - the same for all that a plan may ask
    """How many numbers a site sends in each round."""
    match analysis:
        case Glm():
            count = len(analysis.columns)
            return 4 + count + _point(count + 1)
        case Cox():
            count = len(analysis.columns)
            return 3 + count + _point(count)
        case KaplanMeier():
            return (2 if analysis.group else 1) * (2 * len(analysis.edges) + 1)


def unknown(name: str, contract: DataContract) -> str:
    """What to say of a feature column that there is not."""
    known = data_contract.feature_names(contract)
    values = [one for one in known if one.startswith(f"{name}=")]
    if values:
        return f"{name!r} is a category column: name its values, {', '.join(values[:20])}"
    more = ", …" if len(known) > 20 else ""
    return f"the study table has no feature column {name!r}; it has {', '.join(known[:20])}{more}"


def terms_of(analysis: Glm | Cox) -> tuple[str, ...]:
    """Names of the model's coefficients, in order."""
    return ("intercept", *analysis.columns) if isinstance(analysis, Glm) else analysis.columns


def is_indicator(name: str, contract: DataContract) -> bool:
    """Whether a feature column holds only 0 and 1."""
    place = data_contract.feature_names(contract).index(name)
    return not data_contract.numeric_features(contract)[place]


def usable_records(
    columns: Sequence[str], table: StudyTable, contract: DataContract
) -> tuple[_Vector, npt.NDArray[np.float32]]:
    """Features and labels of the records that lack nothing.

    Returns:
        float64 ``(records, columns)``, and the labels as in the table.
    """
    names = data_contract.feature_names(contract)
    features = table.features[:, [names.index(name) for name in columns]].astype(np.float64)
    labels = table.labels if table.labels.ndim == 2 else table.labels[:, None]
    kept = np.isfinite(features).all(axis=1) & np.isfinite(labels).all(axis=1)
    return features[kept], table.labels[kept]


def _point(size: int) -> int:
    return size + size * (size + 1) // 2


def _survival_offence(contract: DataContract) -> str:
    outcome = contract.label.outcome
    return "" if outcome == "survival" else f"it needs a label whose outcome is survival, not {outcome}"


def _edges_offence(analysis: KaplanMeier) -> str:
    edges = analysis.edges
    # Labels are float32, and so are the times that they are compared with.
    with np.errstate(over="ignore"):
        coarse = np.array((0.0, *edges), np.float32)
    if not edges or not all(map(math.isfinite, [*edges, *coarse.tolist()])) or not (np.diff(coarse) > 0).all():
        return "its edges must be finite, above 0, and rise"
    return ""


def _group_offence(analysis: KaplanMeier, contract: DataContract) -> str:
    if not analysis.group:
        return ""
    if analysis.group not in data_contract.feature_names(contract):
        return unknown(analysis.group, contract)
    if not is_indicator(analysis.group, contract):
        return f"the group {analysis.group!r} is a number; it must be a boolean column or column=value"
    return ""
