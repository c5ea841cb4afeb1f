"""Differentially private mechanisms as data: what a plan may ask for, and what is accounted.

A record says all that its cost hangs on, and nothing else is accounted: an unknown kind is refused where it is read.

    relation     neighbouring data sets differ in one patient at one site, whose part is replaced by zeros: so how many
                 patients a site has is no secret ("zero-out", a form of adding and removing)
    sampling     "sampled-gaussian" assumes that each patient of the site takes part in each step by an independent
                 coin of `sampling_rate`, thrown with a cryptographic generator, and that nobody else learns who did.
                 Shuffled batches are not that, and must be accounted as "gaussian"

Noise is stated for sensitivity 1: the standard deviation is ``noise_multiplier`` times the clipping norm.

References:
    Mironov, Talwar, Zhang. Rényi Differential Privacy of the Sampled Gaussian Mechanism. arXiv:1908.10530.
    Chua et al. How Private are DP-SGD Implementations? ICML 2024. arXiv:2403.17673 (shuffling is not Poisson).
    Charles et al. Fine-Tuning with User-Level DP. SaTML 2025. arXiv:2407.07737 (the unit is the patient).
"""

import math
from typing import Literal, TypeAlias

import msgspec

from wardround.errors import CodecError

__all__ = [
    "MAX_STEPS",
    "Gaussian",
    "Laplace",
    "Mechanism",
    "Relation",
    "SampledGaussian",
    "assumptions",
    "check",
    "sampling",
]

MAX_STEPS = 10_000_000
Relation: TypeAlias = Literal["add-or-remove"]


class Gaussian(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="gaussian", kw_only=True):
    """Gaussian noise on `steps` releases, each with every patient."""

    noise_multiplier: float
    steps: int = 1


class SampledGaussian(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="sampled-gaussian", kw_only=True):
    """Gaussian noise on `steps` releases, each with a Poisson sample of the patients: differentially private SGD."""

    noise_multiplier: float
    sampling_rate: float
    steps: int


class Laplace(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="laplace", kw_only=True):
    """Laplace noise of `scale` on `steps` releases of sensitivity 1: for single counts."""

    scale: float
    steps: int = 1


Mechanism: TypeAlias = Gaussian | SampledGaussian | Laplace


def check(mechanism: Mechanism) -> None:
    """Refuse a mechanism that cannot be.

    Raises:
        CodecError: Says which number.
    """
    noise = mechanism.scale if isinstance(mechanism, Laplace) else mechanism.noise_multiplier
    if not (math.isfinite(noise) and noise > 0):
        raise CodecError("the noise of a mechanism must be finite and above 0: without noise nothing is private")
    if not 1 <= mechanism.steps <= MAX_STEPS:
        raise CodecError(f"a mechanism has 1 to {MAX_STEPS:,} steps")
    if isinstance(mechanism, SampledGaussian) and not 0 < mechanism.sampling_rate <= 1:
        raise CodecError("a sampling rate lies above 0 and at most at 1")


def sampling(mechanism: Mechanism) -> str:
    """What a cost assumes about who takes part, in words for whoever reads its number."""
    if isinstance(mechanism, SampledGaussian):
        return f"each patient is drawn into a step by an own secret coin of {mechanism.sampling_rate:g}"
    return "all take part each time"


def assumptions(mechanism: Mechanism) -> str:
    """What a guarantee rests on, in words for whoever reads its number."""
    return f"neighbours differ in one patient at one site, whose part is replaced by zeros; {sampling(mechanism)}"
