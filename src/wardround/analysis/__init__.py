"""Analyses that take rounds of sums over sites: regressions, survival curves, quantiles and boosted trees."""

from wardround.analysis.boosting import BoostedTrees
from wardround.analysis.quantiles import Quantiles
from wardround.analysis.several import (
    Analysis,
    State,
    advance,
    check,
    describe,
    length,
    results,
    rounds,
    site_sums,
    states,
)
from wardround.analysis.terms import Cox, Glm, KaplanMeier

__all__ = [
    "Analysis",
    "BoostedTrees",
    "Cox",
    "Glm",
    "KaplanMeier",
    "Quantiles",
    "State",
    "advance",
    "check",
    "describe",
    "length",
    "results",
    "rounds",
    "site_sums",
    "states",
]
