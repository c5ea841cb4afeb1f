"""Analyses that take rounds of sums over sites: regression models, and curves of survival."""

from wardround.analysis.iteration import result, site_sums, start, step
from wardround.analysis.several import advance, fits, results, rounds
from wardround.analysis.terms import Analysis, Cox, Curve, Fit, Glm, KaplanMeier, Status, check, length

__all__ = [
    "Analysis",
    "Cox",
    "Curve",
    "Fit",
    "Glm",
    "KaplanMeier",
    "Status",
    "advance",
    "check",
    "fits",
    "length",
    "result",
    "results",
    "rounds",
    "site_sums",
    "start",
    "step",
]
