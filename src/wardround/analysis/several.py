"""All analyses of a plan together: one list of fits, and one vector of sums in each round."""

from collections.abc import Sequence
from fractions import Fraction

from wardround.analysis.iteration import result, start, step
from wardround.analysis.terms import Analysis, Fit, KaplanMeier, length
from wardround.clinical.contract import DataContract
from wardround.codec import canonical
from wardround.errors import CodecError

__all__ = ["advance", "fits", "results", "rounds"]


def rounds(analyses: Sequence[Analysis]) -> int:
    """The most rounds that the analyses can take."""
    return max((1 if isinstance(one, KaplanMeier) else one.iterations for one in analyses), default=0)


def fits(analyses: Sequence[Analysis], contract: DataContract, data: bytes) -> list[Fit]:
    """What the analyses have come to, from canonical bytes; what they start from, where there are none.

    Raises:
        CodecError: Not the fits of as many analyses.
    """
    if not data:
        return [start(one, contract) for one in analyses]
    found = canonical.decode(data, list[Fit])
    if len(found) != len(analyses):
        raise CodecError(f"expected {len(analyses)} fits, found {len(found)}")
    return found


def advance(
    analyses: Sequence[Analysis],
    known: Sequence[Fit],
    sums: Sequence[Fraction],
    contract: DataContract,
    *,
    least_count: int,
) -> list[Fit]:
    """The fits after a round with these sums; those that are done stay as they are."""
    after, place = [], 0
    for one, fit in zip(analyses, known, strict=True):
        stop = place + length(one, contract)
        part = sums[place:stop]
        after.append(fit if fit.is_done else step(one, fit, part, contract, least_count=least_count))
        place = stop
    return after


def results(
    analyses: Sequence[Analysis], known: Sequence[Fit], contract: DataContract, *, least_count: int
) -> list[dict[str, object]]:
    """What each analysis says, JSON-able."""
    return [result(one, fit, contract, least_count=least_count) for one, fit in zip(analyses, known, strict=True)]
