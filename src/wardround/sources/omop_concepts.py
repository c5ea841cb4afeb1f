"""OMOP's concepts: numbers that stand for a vocabulary's code, and back.

Only the concepts that the data mention are kept, so that a vocabulary of millions costs little.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import pyarrow as pa

from wardround.harmonization.events import Scope

__all__ = ["COMPARATORS", "OMOP", "SEXES", "Concepts", "system_of", "vocabulary_of", "wanted_pairs"]

OMOP: Final = "omop"
"""The system of concepts whose code is their number, since no vocabulary says more of them."""
COMPARATORS: Final = {"4171754": "<=", "4171755": ">=", "4171756": "<", "4172704": ">", "4172703": "=", "0": "="}
SEXES: Final = {"8507": "male", "8532": "female", "8521": "other", "8570": "other", "8551": "unknown"}

_SYSTEMS: Final = {
    "LOINC": "loinc",
    "SNOMED": "snomed",
    "RxNorm": "rxnorm",
    "ICD10": "icd10",
    "ICD10CM": "icd10cm",
    "ICD9CM": "icd9cm",
    "CVX": "cvx",
    "NDC": "ndc",
    "CPT4": "cpt",
    "UCUM": "ucum",
    "ATC": "atc",
}
_VOCABULARIES: Final = {system: vocabulary for vocabulary, system in _SYSTEMS.items()}


def system_of(vocabulary: str) -> str:
    """The short name of a vocabulary's code system; one that has none is ``omop:`` and its own name."""
    return _SYSTEMS.get(vocabulary, f"{OMOP}:{vocabulary}")


def vocabulary_of(system: str) -> str:
    """The vocabulary of a code system; empty where it is none of OMOP's."""
    return _VOCABULARIES.get(system, system[len(OMOP) + 1 :] if system.startswith(f"{OMOP}:") else "")


class Concepts:
    """The concepts that were asked for so far.

    Args:
        found: For numbers of concepts their vocabulary and code, of those that there are; None: there is no vocabulary.
    """

    def __init__(self, found: Callable[[list[int]], Mapping[int, tuple[str, str]]] | None) -> None:
        self._found = found
        self._known: dict[int, tuple[str, str] | None] = {0: None}

    def systems_and_codes(self, numbers: pa.Array) -> tuple[pa.Array, pa.Array]:
        """The systems and codes of concepts; null for null and for 0, which is no concept."""
        coded = numbers.dictionary_encode()
        distinct = coded.dictionary.to_pylist()
        self._learn(number for number in distinct if number not in self._known)
        pairs = [self._known[number] or (None, None) for number in distinct]
        systems, codes = (pa.array([pair[place] for pair in pairs], pa.string()) for place in (0, 1))
        return systems.take(coded.indices), codes.take(coded.indices)

    def _learn(self, numbers: Iterable[int]) -> None:
        asked = sorted(numbers)
        found = self._found(asked) if self._found is not None and asked else {}
        for number in asked:
            vocabulary, code = found.get(number, ("", str(number)))
            self._known[number] = (system_of(vocabulary) if vocabulary else OMOP, code)


def wanted_pairs(scope: Scope) -> list[tuple[str, str]] | None:
    """What a study wants as pairs of vocabulary and code; None where that cannot be said, or all is wanted."""
    if scope.codes is None:
        return None
    pairs = [(system, code) for system, codes in scope.codes.items() for code in sorted(codes)]
    if any(code.endswith("*") or not (vocabulary_of(system) or system == OMOP) for system, code in pairs):
        return None
    return [(vocabulary_of(system), code) for system, code in pairs]
