"""The noise that no site has alone: shared under secure aggregation, or added by the hub, seen in a whole federation.

Sites whose records have no gradients go through one simulated round with the plan's settings; what the model moves is
noise and nothing else. Its spread is compared with the definition, not with what the code makes of it:

    sum over sites of  weight * update  moves by at most  s = learning rate * clip / sampling rate     unit patient,
                                                              and 2^-23 of it for each record a site may count for
                                                          s = clip                                     unit site
    shared     each site adds  (z s)^2 / (min_participants - colluding)  of variance, and what covers its rounding
    central    the hub adds    (z s)^2

Beside that, the values' shape, and that no stretch of them comes again.
"""

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.table import LoadReport, StudyTable
from wardround.codec import tensors
from wardround.privacy import noising, probes
from wardround.privacy.gate import Check
from wardround.privacy.probes import Bags, Claims
from wardround.protocol import secure
from wardround.protocol.plan import BuiltinModel, Optimizer, Plan, Training
from wardround.sdk import study as studies
from wardround.sdk.simulate import simulate
from wardround.sdk.study import Study

if TYPE_CHECKING:
    from wardround.ports import RecordSource

__all__ = ["noise_together"]

_Matrix = npt.NDArray[np.float64]

_MOST_SITES = 5
_RECORDS = 4
_STEPS, _WIDTH = 16, 512
_NEVER = 1 << 40


def noise_together(plan: Plan, seed: bytes) -> tuple[tuple[Check, ...], str]:
    """Look at the noise of two simulated rounds of a plan with shared or central noise, and say of which.

    Args:
        plan: With privacy whose noise is not local.
        seed: Of the sites' noise; a hub's noise is its own.
    """
    made = _federation(plan)
    expected = _deviation(made.plan)

    def run(bags: Bags, steps: int, key: bytes) -> _Matrix:
        del bags
        rows = np.zeros((_RECORDS, steps * _WIDTH), np.float32)
        table = StudyTable(
            rows, np.zeros(_RECORDS, np.float32), np.zeros(_RECORDS, np.bool_), LoadReport(_RECORDS, _RECORDS, 0)
        )
        sites: dict[str, StudyTable | RecordSource] = dict.fromkeys(made.plan.participants, table)
        found = simulate(made, sites, noise_key=noising.derive(seed, "shared noise", key.hex()))
        moved = np.asarray(found.arrays()[made.plan.manifest[0].name], np.float64)
        return moved.reshape(steps, _WIDTH)

    checks = probes.noise_checks(run, Claims(1.0, expected), seed, patients=1, width=_WIDTH, steps=_STEPS)
    kind = plan.privacy.noise if plan.privacy else ""
    return checks, f"{kind} noise was looked at in simulated rounds of {len(made.plan.participants)} sites"


def _federation(plan: Plan) -> Study:
    """The plan with one round of a wide linear model, and few sites."""
    if plan.privacy is None:
        raise ValueError("a plan without privacy has no noise")
    sites = plan.participants[: min(plan.min_participants, _MOST_SITES)]
    privacy = msgspec.structs.replace(
        plan.privacy, statistics_noise=0.0, evaluation_noise=0.0, colluding=min(plan.privacy.colluding, len(sites) - 1)
    )
    return studies.declare(
        title="probe",
        purpose="the noise that sites add together",
        legal_basis="no records",
        researcher=plan.researcher,
        participants=sites,
        min_participants=len(sites),
        data=DataContract(
            columns=tuple(Column(name=f"x{place}") for place in range(_STEPS * _WIDTH)),
            label=Label(name="y", outcome="number"),
            scaling="none",
            min_records=1,
        ),
        model=BuiltinModel(name="linear"),
        training=Training(
            rounds=1, epochs=0, steps=1, optimizer=Optimizer(learning_rate=plan.training.optimizer.learning_rate)
        ),
        limits=plan.limits,
        secure=msgspec.structs.replace(plan.secure, arrays=(), group_size=0) if plan.secure else None,
        privacy=privacy,
        expires=_NEVER,
    )


def _deviation(plan: Plan) -> float:
    """The standard deviation of the mean over all sites, from the definition."""
    privacy, terms = plan.privacy, secure.secure_terms(plan)
    if privacy is None:
        raise ValueError("a plan without privacy has no noise")
    is_site, sites = privacy.unit == "site", len(plan.participants)
    rate = plan.training.optimizer.learning_rate
    most = min(plan.secure.max_weight, plan.limits.max_records) if plan.secure else plan.limits.max_records
    slack = 1 + 2.0**-23 * most
    moved = privacy.clip if is_site else rate * privacy.clip / privacy.sampling_rate * slack
    weight = sites * (1 if is_site else _RECORDS)
    if terms is None:
        return privacy.noise_multiplier * moved / weight
    rule = secure.encoding(terms)
    moved += math.sqrt(tensors.columns(plan.manifest)) * rule.max_weight * rule.clip / rule.limit
    return privacy.noise_multiplier * moved * math.sqrt(sites / (sites - privacy.colluding)) / weight
