"""Gradient boosted trees by summed histograms: the trees of all records together, whichever site holds which.

One round grows one level of one tree. With g and h the first and second derivative of a record's loss at the
margin of the trees before (logistic loss: p - y and p (1 - p); squared loss: margin - y and 1), a site sends

    records, loss | per node of the level, column and bin: sum of g | sum of h | records

where the last bin of a column holds its missing values. The hub gives each node the best of all splits by

    gain = GL^2 / (HL + l2) + GR^2 / (HR + l2) - G^2 / (H + l2),    leaf = -learning_rate G / (H + l2)

A record goes left if its value is below the threshold; a missing one goes where the gain is larger, and where none
was seen, with the more records. A column also offers "is it present at all". Each side keeps at least
`min_child_records`, and never fewer than the least count. Before the first tree, one round gives the
log-odds or the mean, and for a number a second one its spread. After the last, one gives its loss.

Exact: every number is a whole multiple of a public unit (2^-30; for a number, of the labels' spread), record by
record, so that sums have no rounding up to 2^23 records, and any split into sites gives the same trees.
The unit is also the least h. A leaf moves log-odds by at most 10 before the learning rate (XGBoost's max_delta_step).

Hazard: leaves of several trees together can single out few records, as in any boosted model, and a leaf of one
class says so. The hub sees histograms whose bins may hold few records; only sums over sites, but it does.

References:
    Chen, Guestrin. XGBoost: A Scalable Tree Boosting System. KDD, 2016 (gain, leaves, missing values).
    Friedman. Greedy Function Approximation: A Gradient Boosting Machine. Annals of Statistics, 2001.
"""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from wardround.analysis import trees
from wardround.analysis.trees import Tree
from wardround.clinical import contract as data_contract
from wardround.clinical.contract import DataContract
from wardround.clinical.table import StudyTable
from wardround.errors import CodecError

__all__ = [
    "BoostedState",
    "BoostedTrees",
    "check_offence",
    "length",
    "predict",
    "result",
    "rounds",
    "site_sums",
    "start",
    "step",
]

_Vector = npt.NDArray[np.float64]
_Columns = npt.NDArray[np.float32]
_MAX_NUMBERS = 20_000
_MAX_NODES = 20_000
_MAX_DEPTH = 8
_MAX_BINS = 256
_HEAD = 2
_LOSS_UNIT = 2.0**-20
_LIMBS = (2.0**36, 2.0**11, 2.0**-14, 2.0**-39, 2.0**-64)
_LARGEST_LABEL = 2.0**40
_LARGEST_RESIDUAL = 2.0**10
_LARGEST_MARGIN = 30.0
_LARGEST_STEP = 10.0
_LEAST_SCALE = 2.0**-60

_Status = Literal["running", "done", "too few records", "one class", "constant"]
_WORDS: dict[_Status, str] = {
    "running": "The trees are not complete.",
    "done": "The trees are complete.",
    "too few records": "There are too few records, or too few of one class.",
    "one class": "All records are of one class.",
    "constant": "All labels are the same number.",
}


class BoostedTrees(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="boosted-trees", kw_only=True):
    """Gradient boosted trees for a label that is binary (log-odds) or a number (its unit).

    `columns` are names of feature columns of the study table. `edges` are rising candidates for thresholds of each
    of them, in its unit; none for a number: `bins` of equal width between the plausible bounds; none for
    an indicator: 0.5. `l2` is added to the sums of h; each leaf keeps at least `min_child_records`.
    """

    columns: tuple[str, ...]
    trees: int = 50
    depth: int = 3
    learning_rate: float = 0.1
    bins: int = 32
    edges: tuple[tuple[float, ...], ...] = ()
    l2: float = 1.0
    min_child_records: int = 20


class BoostedState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="boosted-trees", kw_only=True):
    """The public state: the trees so far, and the nodes whose histograms are wanted next.

    Attributes:
        iteration: Rounds of sums taken in so far.
        is_done: No further round is wanted.
        status: How it stands.
        records: Records that took part in the last round.
        base: The margin before the first tree: log-odds, or the mean.
        scale: A power of two, the unit in which a number is computed; 1 for a binary label.
        trees: The last one may still grow.
        frontier: Nodes of the last tree that may be split in the next round; none: the last round, for the loss.
        level: Their distance from the root.
        gains: Sum of gains of each column.
        splits: Number of splits of each column.
        losses: Mean log-loss, or mean squared error, before the first tree and after each.
    """

    iteration: int = 0
    is_done: bool = False
    status: _Status = "running"
    records: int = 0
    base: float = 0.0
    scale: float = 1.0
    trees: tuple[Tree, ...] = ()
    frontier: tuple[int, ...] = ()
    level: int = 0
    gains: tuple[float, ...] = ()
    splits: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()


def check_offence(analysis: BoostedTrees, contract: DataContract) -> str:
    """What is wrong with the analysis under this contract, in words; empty if nothing is."""
    if contract.label.outcome not in {"binary", "number"}:
        return f"it needs a label whose outcome is binary or number, not {contract.label.outcome}"
    if not (1 <= analysis.depth <= _MAX_DEPTH and 2 <= analysis.bins <= _MAX_BINS):
        return f"its depth must be 1 to {_MAX_DEPTH}, and bins 2 to {_MAX_BINS}"
    if analysis.trees < 1 or analysis.trees * 2 ** (analysis.depth + 1) > _MAX_NODES:
        return f"it needs at least one tree, and at most {_MAX_NODES:,} nodes; fewer trees or less depth"
    if not (0 < analysis.learning_rate <= 1 and 0 <= analysis.l2 < math.inf and analysis.min_child_records >= 1):
        return "its learning rate must lie in (0, 1], l2 be at least 0, and a leaf keep at least 1 record"
    if not analysis.columns or len(set(analysis.columns)) != len(analysis.columns):
        return "it needs at least one column, and each once"
    if analysis.edges and len(analysis.edges) != len(analysis.columns):
        return "its edges are given for each of its columns, or not at all"
    for name, edges in _given(analysis):
        if offence := _column_offence(name, edges, analysis.bins, contract):
            return offence
    if length(analysis, contract) > _MAX_NUMBERS:
        return f"it has {length(analysis, contract):,} numbers in a round, more than {_MAX_NUMBERS:,}"
    return ""


def rounds(analysis: BoostedTrees) -> int:
    """The most rounds that it may take: two to begin, one for each level of each tree, and one for the last loss."""
    return 3 + analysis.trees * analysis.depth


def start(analysis: BoostedTrees, contract: DataContract) -> BoostedState:  # noqa: ARG001 - each is asked alike
    """The state before the first round."""
    count = len(analysis.columns)
    return BoostedState(gains=(0.0,) * count, splits=(0,) * count)


def length(analysis: BoostedTrees, contract: DataContract) -> int:
    """How many numbers a site sends in each round: two, and three for each node of a level, column and bin."""
    bins = sum(cuts.size + 2 for cuts in _all_cuts(analysis, contract))
    return _HEAD + (3 * bins << (analysis.depth - 1))


def site_sums(analysis: BoostedTrees, state: BoostedState, table: StudyTable, contract: DataContract) -> _Vector:
    """One site's numbers for the next round: float64 ``(length,)``, finite; whole numbers once there is a tree.

    Raises:
        CodecError: The state is none of this analysis.
    """
    if not _is_sound(analysis, state):
        raise CodecError("the state of the boosted trees does not fit its analysis")
    labels = table.labels.astype(np.float64)
    kept = ~table.held_out & (np.abs(labels) <= _LARGEST_LABEL)
    values, labels = _columns(analysis, table.features[kept], contract), labels[kept]
    is_binary = contract.label.outcome == "binary"
    sums = np.zeros(length(analysis, contract))
    sums[0] = labels.size
    if not state.trees:
        limbs = [float((labels > 0).sum())]
        if not is_binary:
            limbs = _limbs(labels if state.iteration == 0 else np.abs(labels - state.base))
        sums[1 : 1 + len(limbs)] = limbs
        return sums
    margins = trees.margins(state.base, state.trees[:-1] if state.frontier else state.trees, values)
    derivatives = _derivatives(margins, labels > 0) if is_binary else _residuals(margins - labels, state.scale)
    gradient, hessian, loss = derivatives
    sums[1] = np.rint(loss / _LOSS_UNIT).sum()
    if state.frontier:
        weights = np.rint(gradient / trees.UNIT), np.maximum(np.rint(hessian / trees.UNIT), 1.0)
        nodes, all_cuts = trees.leaves(state.trees[-1], values), _all_cuts(analysis, contract)
        rows = trees.histograms(nodes, state.frontier, values, all_cuts, weights)
        sums[_HEAD : _HEAD + rows.size] = rows.ravel()
    return sums


def step(
    analysis: BoostedTrees, state: BoostedState, sums: Sequence[Fraction], contract: DataContract, *, least_count: int
) -> BoostedState:
    """The next state, from the sums over all sites; the same sums always give the same state.

    Raises:
        CodecError: There are not as many sums as the analysis has numbers.
        ValueError: The analysis is done.
    """
    if state.is_done:
        raise ValueError("an analysis that is done takes no further sums")
    if len(sums) != length(analysis, contract):
        raise CodecError(f"the analysis has {length(analysis, contract):,} sums, not {len(sums):,}")
    records = int(sums[0])
    state = msgspec.structs.replace(state, iteration=state.iteration + 1, records=records)
    if records < max(least_count, 1):
        return _finished(state, "too few records")
    if not state.trees:
        return _begun(state, sums, contract, least_count)
    if state.level == 0:
        loss = float(sums[1] / records) * _LOSS_UNIT * state.scale**2
        state = msgspec.structs.replace(state, losses=(*state.losses, loss))
    if not state.frontier:
        return _finished(state, "done")
    return _grown(analysis, state, sums[_HEAD:], contract, max(analysis.min_child_records, least_count))


def predict(
    analysis: BoostedTrees, state: BoostedState, features: npt.NDArray[np.float32], contract: DataContract
) -> _Vector:
    """Margins of records by the trees so far: log-odds, or the label's unit.

    Args:
        analysis: The one that was asked.
        state: Its state after any round.
        features: float32 ``(records, width)`` as in a study table; NaN is missing.
        contract: The study's.

    Returns:
        float64 ``(records,)``.
    """
    return trees.margins(state.base, state.trees, _columns(analysis, features, contract))


def result(
    analysis: BoostedTrees, state: BoostedState, contract: DataContract, *, least_count: int
) -> dict[str, object]:
    """The trees, what each column gained, and the loss: values that JSON holds.

    A split is ``{column, below, missing, left, right}``; `below` is None where all values go left, and only missing
    ones right. A leaf is ``{value}``. Values include the learning rate, and add to `base`. `gain` is in squared
    units of the label (binary: of log-likelihood, twice), and `share` is of all gains.
    """
    total = sum(state.gains)
    return {
        "kind": "boosted-trees",
        "outcome": contract.label.outcome,
        "status": state.status,
        "detail": _WORDS[state.status],
        "iterations": state.iteration,
        "records": state.records if state.records >= least_count else None,
        "base": state.base if state.losses else None,
        "trees": [trees.readable(tree, analysis.columns) for tree in state.trees],
        "importances": [
            {"column": name, "gain": gain, "share": gain / total if total > 0 else 0.0, "splits": splits}
            for name, gain, splits in zip(analysis.columns, state.gains, state.splits, strict=True)
        ],
        "losses": list(state.losses),
    }


def _given(analysis: BoostedTrees) -> Iterator[tuple[str, tuple[float, ...]]]:
    return zip(analysis.columns, analysis.edges or ((),) * len(analysis.columns), strict=True)


def _column_offence(name: str, edges: Sequence[float], bins: int, contract: DataContract) -> str:
    if name not in data_contract.feature_names(contract):
        return f"the study table has no feature column {name!r}"
    for column in contract.columns:
        if not edges and column.name == name and column.kind == "number":
            low, high = column.minimum, column.maximum
            if low is None or high is None or not low < high:
                return f"column {name!r} needs edges, or a plausible minimum below a maximum in the contract"
    cuts = _cuts(name, edges, bins, contract)
    is_rising = np.isfinite(cuts).all() and (np.diff(cuts) > 0).all() and cuts[-1] < trees.PRESENT
    return "" if is_rising else f"the edges of column {name!r} must be finite and rise, in single precision"


def _cuts(name: str, edges: Sequence[float], bins: int, contract: DataContract) -> _Columns:
    # Columns are float32, and so are the thresholds that they are compared with.
    with np.errstate(over="ignore", invalid="ignore"):
        for column in contract.columns:
            if not edges and column.name == name and column.kind == "number":
                low, high = column.minimum or 0.0, column.maximum or 0.0
                return (low + (high - low) * (np.arange(1, bins) / bins)).astype(np.float32)
        return np.array(edges or (0.5,), np.float32)


def _all_cuts(analysis: BoostedTrees, contract: DataContract) -> list[_Columns]:
    return [_cuts(name, edges, analysis.bins, contract) for name, edges in _given(analysis)]


def _is_sound(analysis: BoostedTrees, state: BoostedState) -> bool:
    width, slots = len(analysis.columns), 2 ** (analysis.depth - 1)
    is_scaled = math.isfinite(state.base) and 0 < state.scale < math.inf
    if not is_scaled or len(state.trees) > analysis.trees or len(state.frontier) > slots:
        return False
    last = state.trees[-1].column if state.trees else ()
    are_leaves = all(0 <= node < len(last) and last[node] < 0 for node in state.frontier)
    return are_leaves and all(trees.is_sound(tree, width) for tree in state.trees)


def _columns(analysis: BoostedTrees, features: npt.NDArray[np.float32], contract: DataContract) -> _Columns:
    names = data_contract.feature_names(contract)
    values = np.ascontiguousarray(features[:, [names.index(name) for name in analysis.columns]].T, np.float32)
    return np.where(np.abs(values) < trees.PRESENT, values, np.float32(np.nan))


def _limbs(numbers: _Vector) -> list[float]:
    # Cut at fixed places, so that each part is a small whole number of units, and its sum has no rounding.
    parts = []
    for unit in _LIMBS:
        part = np.rint(numbers / unit) * unit
        parts.append(float(part.sum()))
        numbers = numbers - part
    return parts


def _derivatives(margins: _Vector, is_event: npt.NDArray[np.bool_]) -> tuple[_Vector, _Vector, _Vector]:
    margins = np.clip(margins, -_LARGEST_MARGIN, _LARGEST_MARGIN)
    mean = 1.0 / (1.0 + np.exp(-margins))
    return mean - is_event, mean * (1.0 - mean), np.logaddexp(0.0, np.where(is_event, -margins, margins))


def _residuals(residuals: _Vector, scale: float) -> tuple[_Vector, _Vector, _Vector]:
    # One label far out cannot overflow the sums; it pulls as one of a thousand spreads does.
    scaled = np.clip(residuals / scale, -_LARGEST_RESIDUAL, _LARGEST_RESIDUAL)
    return scaled, np.ones_like(scaled), np.square(scaled)


def _finished(state: BoostedState, status: _Status) -> BoostedState:
    return msgspec.structs.replace(state, is_done=True, status=status, frontier=(), level=0)


def _begun(state: BoostedState, sums: Sequence[Fraction], contract: DataContract, least_count: int) -> BoostedState:
    first = msgspec.structs.replace(state, trees=(Tree(),), frontier=(0,))
    if contract.label.outcome == "binary":
        classes = (int(sums[1]), state.records - int(sums[1]))
        if 0 in classes:
            return _finished(state, "one class")
        if min(classes) < max(least_count, 1):
            return _finished(state, "too few records")
        return msgspec.structs.replace(first, base=math.log(classes[0] / classes[1]))
    mean = float(sum(sums[1 : 1 + len(_LIMBS)], Fraction(0)) / state.records)
    if state.iteration == 1:
        return msgspec.structs.replace(state, base=mean)
    if mean < _LEAST_SCALE:
        return _finished(state, "constant")
    return msgspec.structs.replace(first, scale=2.0 ** math.frexp(mean)[1])


def _grown(
    analysis: BoostedTrees, state: BoostedState, sums: Sequence[Fraction], contract: DataContract, least: int
) -> BoostedState:
    all_cuts = _all_cuts(analysis, contract)
    histograms = np.array([float(number) for number in sums]).reshape(2 ** (analysis.depth - 1), -1, 3)
    histograms[..., :2] *= trees.UNIT
    tree, gains, splits, frontier = state.trees[-1], list(state.gains), list(state.splits), []
    largest = _LARGEST_STEP if contract.label.outcome == "binary" else math.inf
    for node, histogram in zip(state.frontier, histograms, strict=False):
        split = trees.best_split(histogram, all_cuts, analysis.l2, least)
        if split is None:
            continue
        gains[split.column] += split.gain * state.scale**2
        splits[split.column] += 1
        values = []
        for child, (gradient, hessian, count) in enumerate((split.left, split.right), start=len(tree.column)):
            move = min(max(gradient / (max(hessian, trees.UNIT) + analysis.l2), -largest), largest)
            values.append(float(-analysis.learning_rate * move * state.scale))
            if count >= 2 * least:
                frontier.append(child)
        tree = trees.with_split(tree, node, split, values)
    grown = msgspec.structs.replace(
        state, trees=(*state.trees[:-1], tree), gains=tuple(gains), splits=tuple(splits), frontier=(), level=0
    )
    if tree == Tree():
        return _finished(msgspec.structs.replace(state, trees=state.trees[:-1]), "done")
    if frontier and state.level + 1 < analysis.depth:
        return msgspec.structs.replace(grown, frontier=tuple(frontier), level=state.level + 1)
    if len(grown.trees) == analysis.trees:
        return grown
    return msgspec.structs.replace(grown, trees=(*grown.trees, Tree()), frontier=(0,))
