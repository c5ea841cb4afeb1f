"""What a run found beside its model, as documents for people and programs."""

from wardround import analysis
from wardround.codec import canonical
from wardround.errors import CodecError
from wardround.protocol.plan import Plan

__all__ = ["analysis_results", "file_name"]

_NAMES = ("summaries", "analyses", "appraisal")


def file_name(name: str) -> str:
    """The name of a finding, which becomes that of a file.

    Raises:
        CodecError: There is no such finding.
    """
    if name not in _NAMES:
        raise CodecError("the hub sent a finding of an unknown name")
    return name


def analysis_results(plan: Plan, states: bytes) -> bytes:
    """What the plan's analyses say, from what they have come to: a canonical JSON list.

    Raises:
        CodecError: Not the states of this plan's analyses.
    """
    known = analysis.states(plan.analyses, plan.data, states)
    least = plan.secure.least_count if plan.secure else 1
    return canonical.encode(analysis.results(plan.analyses, known, plan.data, least_count=least))
