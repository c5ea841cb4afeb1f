"""The rounds of an analysis, whichever it is: start, a site's sums, the next state, the result."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from wardround.analysis import cox, glm, survival
from wardround.analysis.terms import Analysis, Cox, Fit, Glm, KaplanMeier, length, terms_of
from wardround.clinical.contract import DataContract
from wardround.clinical.table import StudyTable
from wardround.errors import CodecError

__all__ = ["result", "site_sums", "start", "step"]


def start(analysis: Analysis, contract: DataContract) -> Fit:  # noqa: ARG001 - each step of an analysis is asked alike
    """The public state before the first round."""
    match analysis:
        case Glm():
            return glm.start(analysis)
        case Cox():
            return cox.start(analysis)
        case KaplanMeier():
            return survival.start()


def site_sums(analysis: Analysis, fit: Fit, table: StudyTable, contract: DataContract) -> npt.NDArray[np.float64]:
    """One site's numbers for the next round: float64 ``(length,)``, always finite, to be added over sites.

    Raises:
        CodecError: The state is none of this analysis.
    """
    if isinstance(analysis, KaplanMeier):
        return survival.site_sums(analysis, table, contract)
    is_known = len(fit.coefficients) == len(terms_of(analysis)) and all(map(math.isfinite, fit.coefficients))
    if not is_known:
        raise CodecError("the state of an analysis has a finite coefficient for each of its terms")
    if isinstance(analysis, Glm):
        return glm.site_sums(analysis, fit, table, contract)
    return cox.site_sums(analysis, fit, table, contract)


def step(analysis: Analysis, fit: Fit, sums: Sequence[Fraction], contract: DataContract, *, least_count: int) -> Fit:
    """The next public state, from the numbers added over all sites; the same sums always give the same state.

    Raises:
        CodecError: There are not as many sums as the analysis has numbers.
        ValueError: The analysis is done.
    """
    if fit.is_done:
        raise ValueError("an analysis that is done takes no further sums")
    if len(sums) != length(analysis, contract):
        raise CodecError(f"the analysis has {length(analysis, contract):,} sums, not {len(sums):,}")
    match analysis:
        case Glm():
            return glm.step(analysis, fit, sums, contract, least_count=least_count)
        case Cox():
            return cox.step(analysis, fit, sums, contract, least_count=least_count)
        case KaplanMeier():
            return survival.step(analysis, fit, sums, least_count=least_count)


def result(analysis: Analysis, fit: Fit, contract: DataContract, *, least_count: int) -> dict[str, object]:  # noqa: ARG001
    """What a state says: values that JSON holds, None where one is undefined or not to be shown.

    A count below `least_count` is None. `status` and `detail` say in words how the analysis ended.
    """
    match analysis:
        case Glm():
            return glm.result(analysis, fit, least_count=least_count)
        case Cox():
            return cox.result(analysis, fit, least_count=least_count)
        case KaplanMeier():
            return survival.result(analysis, fit)
