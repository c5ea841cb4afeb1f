"""Federated learning across hospitals: the model travels, the records stay.

What a researcher needs, on one screen::

    study = wardround.declare(title=…, participants=[…], data=wardround.DataContract(…), …)
    result = wardround.simulate(study, sites={"hospital-a": table, …})   # in this process
    researcher = wardround.connect("researcher")                          # at a hub
    status = researcher.submit(study)
    for status in researcher.watch(run): …
    researcher.fetch(run, Path("result"))

Names are loaded when they are first used, so that importing the package stays instant.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wardround.clinical.contract import Column, DataContract, Label
    from wardround.clinical.table import LoadReport, StudyTable
    from wardround.errors import WardroundError
    from wardround.protocol.plan import (
        Aggregation,
        Asynchronous,
        BuiltinModel,
        Limits,
        Local,
        Optimizer,
        Plan,
        Privacy,
        Screening,
        SecureAggregation,
        ServerRule,
        Training,
    )
    from wardround.sdk.client import Researcher, connect, enrol
    from wardround.sdk.simulate import Simulated, simulate
    from wardround.sdk.study import Study, declare

__all__ = [
    "Aggregation",
    "Asynchronous",
    "BuiltinModel",
    "Column",
    "DataContract",
    "Label",
    "Limits",
    "LoadReport",
    "Local",
    "Optimizer",
    "Plan",
    "Privacy",
    "Researcher",
    "Screening",
    "SecureAggregation",
    "ServerRule",
    "Simulated",
    "Study",
    "StudyTable",
    "Training",
    "WardroundError",
    "connect",
    "declare",
    "enrol",
    "simulate",
]

_HOME = {
    "wardround.clinical.contract": ("Column", "DataContract", "Label"),
    "wardround.clinical.table": ("LoadReport", "StudyTable"),
    "wardround.errors": ("WardroundError",),
    "wardround.protocol.plan": (
        "Aggregation",
        "Asynchronous",
        "BuiltinModel",
        "Limits",
        "Local",
        "Optimizer",
        "Plan",
        "Privacy",
        "Screening",
        "SecureAggregation",
        "ServerRule",
        "Training",
    ),
    "wardround.sdk.client": ("Researcher", "connect", "enrol"),
    "wardround.sdk.simulate": ("Simulated", "simulate"),
    "wardround.sdk.study": ("Study", "declare"),
}


def __getattr__(name: str) -> object:
    for module, names in _HOME.items():
        if name in names:
            found: object = getattr(importlib.import_module(module), name)
            return found
    raise AttributeError(f"module 'wardround' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
