"""Which concept of a contract does a local code mean: at most five candidates, each with a score and reasons in words.

    odds(c)  = exp(bias + w · (spelling, words, embedding, specimen, fluid, unit, range, kind, method, other))
    score(c) = odds(c) / (1 + sum of odds over all concepts)

What is left over, ``1 / (1 + sum)``, is "none of them". The weights are fitted by maximum likelihood on two
dictionaries that are not the benchmark's (``benchmarks/mapping.py``); those of another fluid and of values out of range
have floors set by hand, for a right name must not outweigh them. The score orders candidates and helps a person to
decide; nothing here, or anywhere, accepts one by its score.

A unit that measures something else than the concept does is a veto: such a candidate never stands among the five, and
is listed apart with the reason, because the unit may be what is wrong.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from wardround.errors import ClinicalError
from wardround.harmonization import suggest_names, suggest_units
from wardround.harmonization.profile import Name, Profile
from wardround.harmonization.suggest_embedding import Embedder
from wardround.harmonization.suggest_names import Parts

__all__ = ["FEATURES", "MOST", "Candidate", "Suggestion", "Target", "suggest"]

MOST: Final = 5
"""How many candidates are shown for a code."""

FEATURES: Final = (
    "spelling",
    "words",
    "embedding",
    "specimen",
    "fluid",
    "unit",
    "range",
    "kind",
    "method",
    "other",
)
_WITH: Final = ((5.56, 6.98, 1.53, 1.8, 8.0, 2.32, 2.0, 3.12, 2.94, 2.81), -8.64)
_WITHOUT: Final = ((6.48, 6.93, 0.0, 1.79, 8.0, 2.28, 2.0, 3.15, 3.01, 2.83), -8.4)
_SHORTLIST: Final = 100
_MOST_TARGETS: Final = 20_000
_NEARLY_NONE: Final = 0.02
_GRAM: Final = 3

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A concept that a study asks for.

    Attributes:
        concept: ``system|code``.
        label: Its name in its terminology, or as the contract calls it; a name as LOINC's tells most.
        synonyms: Other names.
        unit: The contract's UCUM unit; empty where there is none.
        minimum: The least plausible value in that unit, and `maximum` the greatest.
        molar_mass: In g/mol, where the contract lets sites state mass or amount of substance.
    """

    concept: str
    label: str
    synonyms: tuple[str, ...] = ()
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    molar_mass: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A concept that a code may mean; `reasons` hold units and shares, and no value of a record."""

    concept: str
    label: str
    score: float
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """What one local code may mean, the likeliest first; `vetoed` are well-named candidates whose unit clashes."""

    system: str
    code: str
    candidates: tuple[Candidate, ...]
    vetoed: tuple[Candidate, ...] = ()
    embedder: str = ""


def suggest(
    profiles: Sequence[Profile], targets: Sequence[Target], *, embedder: Embedder | None = None
) -> list[Suggestion]:
    """For every profile the candidates among the targets.

    Raises:
        ClinicalError: There is no target, or there are more than 20,000, or one concept is there twice.
    """
    if not 0 < len(targets) <= _MOST_TARGETS or len({target.concept for target in targets}) < len(targets):
        raise ClinicalError(f"suggestions need 1 to {_MOST_TARGETS} concepts, each once")
    if not profiles:
        return []
    names = _Names(profiles, targets, embedder)
    return [_suggested(place, names, targets) for place in range(len(profiles))]


class _Names:
    """Everything that follows from the names alone, for all pairs."""

    def __init__(self, profiles: Sequence[Profile], targets: Sequence[Target], embedder: Embedder | None) -> None:
        self.profiles = profiles
        self.here = [_parts(profile) for profile in profiles]
        self.labels = [(place, label) for place, one in enumerate(targets) for label in (one.label, *one.synonyms)]
        self.there = [suggest_names.read(label) for _, label in self.labels]
        self.embedder = embedder.name if embedder else ""
        self.weights, self.bias = _WITH if embedder else _WITHOUT
        owner = np.asarray([place for place, _ in self.labels])
        meant = cosines([_spelled(one) for one in self.here], [_spelled(one) for one in self.there])
        written = cosines([one.text for one in self.here], [one.text for one in self.there])
        spelling = (meant + written) / 2
        words = np.asarray([[suggest_names.overlap(one, other) for other in self.there] for one in self.here])
        meaning = self._meaning(embedder, [label for _, label in self.labels])
        total = self.weights[0] * spelling + self.weights[1] * words + self.weights[2] * meaning
        self.best = np.zeros((len(profiles), len(targets)), np.int64)
        self.total = np.full((len(profiles), len(targets)), -np.inf)
        for column, target in enumerate(owner):
            better = total[:, column] > self.total[:, target]
            self.total[better, target] = total[better, column]
            self.best[better, target] = column
        self.spelling, self.words, self.meaning = spelling, words, meaning

    def _meaning(self, embedder: Embedder | None, labels: list[str]) -> _Floats:
        if embedder is None:
            return np.zeros((len(self.here), len(labels)))
        texts = [_told(profile) for profile in self.profiles]
        made: _Floats = embedder(texts).astype(np.float64) @ embedder(labels).astype(np.float64).T
        return np.clip(made, 0.0, 1.0)


def _suggested(row: int, names: _Names, targets: Sequence[Target]) -> Suggestion:
    profile = names.profiles[row]
    shortlist = np.argsort(-names.total[row], kind="stable")[:_SHORTLIST]
    found: list[Candidate] = []
    vetoed: list[Candidate] = []
    for place in shortlist:
        target, column = targets[place], int(names.best[row, place])
        fit = suggest_units.fit(
            profile,
            unit=target.unit,
            kind=names.there[column].kind,
            minimum=target.minimum,
            maximum=target.maximum,
            molar_mass=target.molar_mass,
        )
        evidence = features(names, row, column, fit)
        odds = math.exp(names.bias + float(np.dot(names.weights, evidence)))
        reasons = (fit.veto,) if fit.veto else _reasons(names, row, column, fit, evidence)
        made = Candidate(concept=target.concept, label=target.label, score=odds, reasons=reasons)
        (vetoed if fit.veto else found).append(made)
    total = 1.0 + sum(one.score for one in found)
    return Suggestion(
        system=profile.system,
        code=profile.code,
        candidates=_first(found, total),
        vetoed=_first(vetoed, total),
        embedder=names.embedder,
    )


def _first(found: list[Candidate], total: float) -> tuple[Candidate, ...]:
    best = sorted(found, key=lambda one: (-one.score, one.concept))[:MOST]
    return tuple(replace(one, score=round(one.score / max(total, 1.0 + one.score), 4)) for one in best)


def features(names: _Names, row: int, column: int, fit: suggest_units.Fit) -> _Floats:
    """The evidence for one pair, in the order of `FEATURES`."""
    profile, here, there = names.profiles[row], names.here[row], names.there[column]
    return np.asarray(
        [
            names.spelling[row, column],
            names.words[row, column],
            names.meaning[row, column],
            suggest_names.agreement(here, there),
            -float(suggest_names.is_other_fluid(here, there)),
            fit.unit,
            0.0 if fit.share is None else math.log((fit.share + _NEARLY_NONE) / (1 + _NEARLY_NONE)),
            _kind(profile, here, there),
            _method(here, there),
            -float(bool(there.others ^ here.others)),
        ]
    )


def cosines(here: Sequence[str], there: Sequence[str]) -> _Floats:
    """TF-IDF cosines of texts by their trigrams of characters; the frequencies are those of `there`."""
    grams = [_grams(text) for text in there]
    frequency = Counter(gram for one in grams for gram in one)
    number = {gram: place for place, gram in enumerate(sorted(frequency))}
    rarity = np.asarray([math.log((1 + len(there)) / (1 + frequency[gram])) + 1 for gram in number])

    def rows(counted: list[Counter[str]]) -> _Floats:
        made = np.zeros((len(counted), len(number)))
        for place, one in enumerate(counted):
            for gram, times in one.items():
                if gram in number:
                    made[place, number[gram]] = (1 + math.log(times)) * rarity[number[gram]]
        return made

    left, right = rows([_grams(text) for text in here]), rows(grams)
    # What the targets have no gram for still makes a name longer, and so less like them.
    strange = [sum(gram not in number for gram in _grams(text)) for text in here]
    usual = float(rarity.max(initial=1.0))
    lengths = np.sqrt((left * left).sum(axis=1) + np.asarray(strange) * usual**2)
    return np.asarray(left @ right.T / np.outer(np.maximum(lengths, 1e-9), np.maximum(_lengths(right), 1e-9)))


def _lengths(rows: _Floats) -> _Floats:
    return np.asarray(np.linalg.norm(rows, axis=1))


def _grams(text: str) -> Counter[str]:
    padded = [f" {word} " for word in text.split()]
    return Counter(word[place : place + _GRAM] for word in padded for place in range(len(word) - _GRAM + 1))


def _parts(profile: Profile) -> Parts:
    name = profile.name or Name(text=profile.code)
    return suggest_names.read(name.text, name.specimen, name.category)


def _told(profile: Profile) -> str:
    name = profile.name or Name(text=profile.code)
    specimen = f" in {name.specimen}" if name.specimen else ""
    return re.sub(r"\s+", " ", f"{name.text}{specimen}")


def _spelled(parts: Parts) -> str:
    return " ".join(sorted(parts.words))


def _kind(profile: Profile, here: Parts, there: Parts) -> float:
    if there.kind == "presence":
        return 1.0 if profile.texts and not profile.numbers else -1.0
    if here.kind and there.kind:
        return 1.0 if here.kind == there.kind else -1.0
    return -0.5 if there.kind and profile.texts and not profile.numbers else 0.0


def _method(here: Parts, there: Parts) -> float:
    common = here.methods & there.methods
    if common:
        return 1.0
    usual = frozenset({suggest_names.COUNT_METHOD})
    if there.methods == usual:
        return 0.25 if not here.methods and here.specimen != "whole blood" else -0.5
    return -0.5 if there.methods else 0.0


def _reasons(names: _Names, row: int, column: int, fit: suggest_units.Fit, evidence: _Floats) -> tuple[str, ...]:
    here, there = names.here[row], names.there[column]
    told = []
    if common := sorted(here.words & there.words):
        told.append(f"name matches: {', '.join(common)}")
    elif evidence[0] > 0.3:
        told.append("name is spelled alike")
    if evidence[2] > 0.5:
        told.append(f"name means much the same ({names.embedder} {evidence[2]:.2f})")
    if here.specimen and there.specimen:
        told.append(f"specimen {'fits' if evidence[3] > 0 else 'differs'}: {here.specimen}, {there.specimen}")
    told += fit.words
    if evidence[7] < 0:
        told.append("another kind of value")
    if evidence[9] < 0:
        told.append(f"one of the two is a {', '.join(sorted(there.others ^ here.others))}")
    if not names.embedder:
        told.append("without embeddings: their weights are not installed")
    return tuple(told)
