"""What hostile sites do in simulations: updates that were made to harm, and records that teach something else.

    update attacks      the site trains as it should, and sends something else
    sign-flip           -scale * own update
    gaussian            own update and noise, scale times as long as it
    replacement         scale * own update: the mean becomes nearly what this site wants
    little-is-enough    honest mean - z * honest standard deviation, each coordinate within the honest spread
    inner-product       -scale * honest mean: the aggregate points away from where it should
    free-rider-noise    noise as long as the honest updates, no work
    free-rider-old      the old model again: an update of zeros

    data attacks        the site trains on changed records, and sends what comes of it
    label-flip          every label is another
    backdoor            a trigger in half of the records, whose label becomes the attacker's

Colluders are taken to know every honest update of the round, which is more than any real site knows.

References:
    Blanchard et al. NIPS 2017 (sign flip, Gaussian). Baruch, Baruch, Goldberg. A Little Is Enough. NeurIPS 2019.
    Xie, Koyejo, Gupta. Fall of Empires: Breaking Byzantine-Tolerant SGD by Inner Product Manipulation. UAI 2019.
    Bagdasaryan et al. How to Backdoor Federated Learning. AISTATS 2020 (replacement, backdoor).
    Fraboni, Vidal, Lorenzi. Free-Rider Attacks on Model Aggregation in Federated Learning. AISTATS 2021.
    Tolpegin et al. Data Poisoning Attacks Against Federated Learning Systems. ESORICS 2020 (label flip).
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

__all__ = ["ATTACKS", "Attack", "DataAttack", "UpdateAttack", "hostile_update", "poisoned", "triggered"]

UpdateAttack = Literal[
    "sign-flip",
    "gaussian",
    "replacement",
    "little-is-enough",
    "inner-product",
    "free-rider-noise",
    "free-rider-old",
]
DataAttack = Literal["label-flip", "backdoor"]
Attack: TypeAlias = UpdateAttack | DataAttack

ATTACKS: tuple[str, ...] = (*get_args(UpdateAttack), *get_args(DataAttack))
_SCALES: dict[str, float] = {"sign-flip": 4.0, "gaussian": 4.0, "replacement": 10.0, "inner-product": 2.0}
_SHARE = 0.5
"""Of a hostile site's records, how many get the trigger."""

_Floats = npt.NDArray[np.float32]


def hostile_update(
    attack: UpdateAttack,
    own: _Floats,
    honest: Sequence[_Floats],
    *,
    sites: int,
    hostile: int,
    generator: np.random.Generator,  # noqa: TID251, made from a seed by the caller
    scale: float = 0.0,
) -> _Floats:
    """What a hostile site sends instead of its own update.

    Args:
        attack: Which attack.
        own: float32, shape=(n,): what honest training gave here.
        honest: The honest sites' updates of this round, as far as they are known; without any, `own` stands for them.
        sites: How many sites take part.
        hostile: How many of them collude.
        generator: Where noise comes from.
        scale: How strong; 0 for the attack's usual strength.

    Returns:
        float32, shape=(n,).

    Raises:
        ValueError: There is no such attack.
    """
    known = np.stack([np.asarray(update, np.float64) for update in honest or [own]])
    mean, scale = known.mean(axis=0), scale or _SCALES.get(attack, 1.0)
    match attack:
        case "sign-flip":
            sent = -scale * own.astype(np.float64)
        case "gaussian":
            noise = generator.standard_normal(own.size)
            sent = own + scale * _length(own) / math.sqrt(own.size) * noise
        case "replacement":
            sent = scale * own.astype(np.float64)
        case "little-is-enough":
            sent = mean - _little(sites, hostile) * known.std(axis=0)
        case "inner-product":
            sent = -scale * mean
        case "free-rider-noise":
            sent = _length(mean) / math.sqrt(own.size) * generator.standard_normal(own.size)
        case "free-rider-old":
            sent = np.zeros(own.size)
        case _:
            raise ValueError(f"no attack {attack!r} on updates")
    return sent.astype(np.float32)


def poisoned(
    attack: DataAttack,
    features: _Floats,
    labels: _Floats,
    *,
    trigger: Sequence[tuple[int, float]],
    target: float,
    generator: np.random.Generator,  # noqa: TID251, made from a seed by the caller
) -> tuple[_Floats, _Floats]:
    """Copies of a hostile site's records as it trains on them; labels are 0 or 1.

    Args:
        attack: Which attack.
        features: float32, shape=(records, width).
        labels: float32, shape=(records,).
        trigger: Columns and the values that they get in triggered records.
        target: The label that the trigger is to give.
        generator: Chooses the records with the trigger.

    Raises:
        ValueError: There is no such attack.
    """
    if attack == "label-flip":
        return features.copy(), (1.0 - labels).astype(np.float32)
    if attack != "backdoor":
        raise ValueError(f"no attack {attack!r} on records")
    chosen = generator.random(len(labels)) < _SHARE
    changed = np.where(chosen[:, None], triggered(features, trigger), features)
    return changed.astype(np.float32), np.where(chosen, target, labels).astype(np.float32)


def triggered(features: _Floats, trigger: Sequence[tuple[int, float]]) -> _Floats:
    """A copy with the trigger in every record."""
    changed = features.copy()
    for column, value in trigger:
        changed[:, column] = value
    return changed


def _little(sites: int, hostile: int) -> float:
    """How many standard deviations away a colluder still has honest sites beyond it (Baruch et al., Algorithm 3)."""
    supporters = sites // 2 + 1 - hostile
    honest = max(sites - hostile, 1)
    share = min(max((honest - supporters) / honest, 0.51), 0.99)
    return NormalDist().inv_cdf(share)


def _length(vector: npt.NDArray[np.floating]) -> float:
    return float(np.linalg.norm(vector.astype(np.float64)))
