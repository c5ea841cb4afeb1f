"""All analyses of a plan together: one list of states, and one vector of sums in each round.

Every kind has the same five steps; here each analysis is sent to the module that knows it.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from wardround.analysis import boosting, iteration, quantiles, terms
from wardround.analysis.boosting import BoostedState, BoostedTrees
from wardround.analysis.quantiles import Quantiles, QuantileState
from wardround.analysis.terms import MAX_NUMBERS, Cox, Fit, Glm, KaplanMeier
from wardround.clinical.contract import DataContract
from wardround.clinical.table import StudyTable
from wardround.codec import canonical
from wardround.errors import CodecError

__all__ = ["Analysis", "State", "advance", "check", "describe", "length", "results", "rounds", "site_sums", "states"]

Analysis: TypeAlias = Glm | Cox | KaplanMeier | Quantiles | BoostedTrees
State: TypeAlias = Fit | QuantileState | BoostedState
_Vector = npt.NDArray[np.float64]


def check(analyses: Sequence[Analysis], contract: DataContract) -> None:
    """Refuse analyses that the contract's columns or label cannot give.

    Raises:
        CodecError: Says which, and why.
    """
    for place, one in enumerate(analyses, 1):
        match one:
            case Quantiles():
                offence = quantiles.check_offence(one, contract)
            case BoostedTrees():
                offence = boosting.check_offence(one, contract)
            case _:
                offence = terms.offence(one, contract)
        if offence:
            raise CodecError(f"analysis {place} ({one.__struct_config__.tag}): {offence}")
    if length(analyses, contract) > MAX_NUMBERS:
        raise CodecError(f"the analyses have more than {MAX_NUMBERS:,} numbers")


def describe(one: Analysis, contract: DataContract) -> str:
    """An analysis in a few words, with every column that it reads, for whoever approves it."""
    if isinstance(one, KaplanMeier):
        return f"survival curves{f' by {one.group}' * bool(one.group)} on {len(one.edges)} times"
    kind = f"{one.family} {one.__struct_config__.tag}" if isinstance(one, Glm) else str(one.__struct_config__.tag)
    label = "" if isinstance(one, Quantiles) else f"{contract.label.name} on "
    return f"{kind} of {label}{', '.join(one.columns)}"


def rounds(analyses: Sequence[Analysis]) -> int:
    """The most rounds that the analyses can take."""
    return max((_rounds(one) for one in analyses), default=0)


def length(analyses: Sequence[Analysis], contract: DataContract) -> int:
    """How many numbers a site sends in each round."""
    return sum(_length(one, contract) for one in analyses)


def states(analyses: Sequence[Analysis], contract: DataContract, data: bytes) -> list[State]:
    """What the analyses have come to, from canonical bytes; what they start from, where there are none.

    Raises:
        CodecError: Not the states of these analyses.
    """
    begun = [_start(one, contract) for one in analyses]
    if not data:
        return begun
    found = canonical.decode(data, list[State])
    if [type(one) for one in found] != [type(one) for one in begun]:
        raise CodecError("these are not the states of the plan's analyses")
    return found


def site_sums(
    analyses: Sequence[Analysis], known: Sequence[State], table: StudyTable, contract: DataContract
) -> _Vector:
    """One site's numbers: float64, shape=(length(analyses, contract),), finite; zeros for what is done.

    Raises:
        CodecError: A state is none of its analysis.
    """
    parts = [
        np.zeros(_length(one, contract)) if state.is_done else _sums(one, state, table, contract)
        for one, state in zip(analyses, known, strict=True)
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def advance(
    analyses: Sequence[Analysis],
    known: Sequence[State],
    sums: Sequence[Fraction],
    contract: DataContract,
    *,
    least_count: int,
) -> list[State]:
    """The states after a round with these sums; those that are done stay as they are.

    Raises:
        CodecError: The sums are none that records can give.
    """
    after: list[State] = []
    place = 0
    for one, state in zip(analyses, known, strict=True):
        stop = place + _length(one, contract)
        part = sums[place:stop]
        try:
            after.append(state if state.is_done else _step(one, state, part, contract, least_count))
        except (ArithmeticError, ValueError):
            raise CodecError("the sums of an analysis are none that records can give") from None
        place = stop
    return after


def results(
    analyses: Sequence[Analysis], known: Sequence[State], contract: DataContract, *, least_count: int
) -> list[dict[str, object]]:
    """What each analysis says, JSON-able."""
    return [_result(one, state, contract, least_count) for one, state in zip(analyses, known, strict=True)]


def _rounds(one: Analysis) -> int:
    match one:
        case KaplanMeier():
            return 1
        case Quantiles():
            return quantiles.rounds(one)
        case BoostedTrees():
            return boosting.rounds(one)
        case _:
            return one.iterations


def _length(one: Analysis, contract: DataContract) -> int:
    match one:
        case Quantiles():
            return quantiles.length(one, contract)
        case BoostedTrees():
            return boosting.length(one, contract)
        case _:
            return terms.length(one, contract)


def _start(one: Analysis, contract: DataContract) -> State:
    match one:
        case Quantiles():
            return quantiles.start(one, contract)
        case BoostedTrees():
            return boosting.start(one, contract)
        case _:
            return iteration.start(one, contract)


def _sums(one: Analysis, state: State, table: StudyTable, contract: DataContract) -> _Vector:
    match one, state:
        case Quantiles(), QuantileState():
            return quantiles.site_sums(one, state, table, contract)
        case BoostedTrees(), BoostedState():
            return boosting.site_sums(one, state, table, contract)
        case ((Glm() | Cox() | KaplanMeier()), Fit()):
            return iteration.site_sums(one, state, table, contract)
        case _:
            raise _mismatch()


def _step(one: Analysis, state: State, sums: Sequence[Fraction], contract: DataContract, least_count: int) -> State:
    match one, state:
        case Quantiles(), QuantileState():
            return quantiles.step(one, state, sums, contract, least_count=least_count)
        case BoostedTrees(), BoostedState():
            return boosting.step(one, state, sums, contract, least_count=least_count)
        case ((Glm() | Cox() | KaplanMeier()), Fit()):
            return iteration.step(one, state, sums, contract, least_count=least_count)
        case _:
            raise _mismatch()


def _result(one: Analysis, state: State, contract: DataContract, least_count: int) -> dict[str, object]:
    match one, state:
        case Quantiles(), QuantileState():
            return quantiles.result(one, state, contract, least_count=least_count)
        case BoostedTrees(), BoostedState():
            return boosting.result(one, state, contract, least_count=least_count)
        case ((Glm() | Cox() | KaplanMeier()), Fit()):
            return iteration.result(one, state, contract, least_count=least_count)
        case _:
            raise _mismatch()


def _mismatch() -> CodecError:
    return CodecError("the state is not one of this analysis")
