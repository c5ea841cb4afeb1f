"""Made-up sites for the tests of suggestions: events and targets of a handful of concepts."""

from datetime import date

import numpy as np

from wardround.harmonization.events import batch
from wardround.harmonization.profile import Name, profile
from wardround.harmonization.suggest_rank import Target

TODAY = date(2026, 11, 20)

CREATININE = Target(
    concept="loinc|2160-0",
    label="Creatinine [Mass/volume] in Serum or Plasma",
    unit="mg/dL",
    minimum=0.1,
    maximum=25.0,
)
POTASSIUM = Target(
    concept="loinc|2823-3",
    label="Potassium [Moles/volume] in Serum or Plasma",
    unit="mmol/L",
    minimum=1.0,
    maximum=12.0,
)
THYROTROPIN = Target(
    concept="loinc|3016-3",
    label="Thyrotropin [Units/volume] in Serum or Plasma",
    unit="mU/L",
    minimum=0.001,
    maximum=200.0,
)
LEUKOCYTES = Target(
    concept="loinc|6690-2",
    label="Leukocytes [#/volume] in Blood by Automated count",
    unit="10*3/uL",
    minimum=0.1,
    maximum=500.0,
)
HEART_RATE = Target(concept="loinc|8867-4", label="Heart rate", unit="/min", minimum=20.0, maximum=300.0)
TARGETS = (CREATININE, POTASSIUM, THYROTROPIN, LEUKOCYTES, HEART_RATE)


def events(code="1", *, median=1.0, unit="mg/dL", count=200, texts=(), seed=0, system="local:lab", first_row=0):
    spread = np.random.default_rng(seed).lognormal(0.0, 0.25, count)  # noqa: TID251, a fixed seed
    numbers = [*(median * spread).tolist(), *(None for _ in texts)]
    length = len(numbers)
    return batch(
        {
            "patient": [f"p{place % 40}" for place in range(length)],
            "time_us": list(range(1000, 1000 + length)),
            "system": [system] * length,
            "code": [code] * length,
            "number": numbers,
            "value": [*(None for _ in range(count)), *texts],
            "unit": [*(unit for _ in range(count)), *(None for _ in texts)],
            "row": list(range(first_row, first_row + length)),
        },
        source="lab",
    )


def profiled(text="Creatinine", *, specimen="Blood", category="", **described):
    code = described.get("code", "1")
    system = described.get("system", "local:lab")
    names = {f"{system}|{code}": Name(text=text, specimen=specimen, category=category)}
    return profile([events(**described)], names=names)[0]
