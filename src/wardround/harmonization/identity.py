"""Who is who: one person under several identifiers, and one identifier on several persons.

Sources say which identifiers mean one person (a merged record number, FHIR's ``Patient.link``) as pairs (former,
present), in any order, in chains, in circles, and sometimes to two different presents. All that are linked are one
person, whose canonical key follows from the set of links alone:

1. Where exactly one key is never a former one, it is that one: what the merges led to.
2. Otherwise (a circle, or merges that part) it is the first such key in alphabetical order, or of all where there is
   none.

Keys are ``namespace|identifier``: record number 17 of two systems is two persons, unless the site's mapping gives both
systems one namespace.

An identifier that the source has given to two persons (a reused number, a wrong merge) shows in what it says of them:
two birth dates, or two sexes. Such keys are left out, and so is what links more identifiers than a person collects: a
number such as 0 or UNKNOWN. They are counted; nothing of them is shown.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from wardround.errors import ClinicalError
from wardround.harmonization.events import PATIENT, Precision

__all__ = ["MAX_ALIASES", "MAX_LINKS", "Identities", "contradictory", "key", "resolve"]

MAX_LINKS: Final = 10_000_000
"""More pairs are refused."""

MAX_ALIASES: Final = 100
"""More identifiers than these are no one person's."""

_SEXES: Final = ("male", "female", "other")


@dataclass(frozen=True, slots=True, repr=False)
class Identities:
    """What the links of all sources come to.

    Attributes:
        canonical: For each linked key, itself or another one, the canonical one.
        crowds: Canonical keys of what is linked to too many; to be left out.
        circles: How many persons' links run in a circle.
        partings: How many persons' links lead to several present keys.
        ignored: How many pairs said nothing: a key with itself, or an empty identifier.
    """

    canonical: dict[str, str]
    crowds: frozenset[str] = frozenset()
    circles: int = 0
    partings: int = 0
    ignored: int = 0

    @property
    def merged(self) -> int:
        """How many keys are another one's aliases."""
        return sum(alias != found for alias, found in self.canonical.items())

    def relabelled(self, patients: pa.Array | pa.ChunkedArray, namespace: str) -> pa.Array:
        """A source's column of patients as canonical keys; each distinct patient is looked up once."""
        whole = patients.combine_chunks() if isinstance(patients, pa.ChunkedArray) else patients
        encoded = whole if pa.types.is_dictionary(whole.type) else whole.dictionary_encode()
        keys = [key(namespace, patient) for patient in encoded.dictionary.to_pylist()]
        return pa.array([self.canonical.get(one, one) for one in keys], pa.string()).take(encoded.indices)


def key(namespace: str, patient: str) -> str:
    """An identifier within its namespace."""
    return f"{namespace}|{patient.strip()}"


def resolve(links: Iterable[tuple[str, str, str]]) -> Identities:
    """Make persons of links, each (namespace, former, present); their order does not matter.

    Raises:
        ClinicalError: There are more than `MAX_LINKS`.
    """
    parent: dict[str, str] = {}
    pairs: set[tuple[str, str]] = set()
    ignored = 0
    for count, (namespace, former, present) in enumerate(links, start=1):
        if count > MAX_LINKS:
            raise ClinicalError(f"more than {MAX_LINKS} links between patients: no hospital has merged so many")
        left, right = key(namespace, former), key(namespace, present)
        if left == right or not (former.strip() and present.strip()):
            ignored += 1
            continue
        pairs.add((left, right))
        first, second = _root(parent, left), _root(parent, right)
        if first != second:
            parent[first] = second
    members: dict[str, list[str]] = {}
    for one in parent:
        members.setdefault(_root(parent, one), []).append(one)
    return _named(list(members.values()), {former for former, _ in pairs}, ignored)


def contradictory(facts: pa.Table) -> pa.Array:
    """The patients of whom two facts cannot both hold: two birth dates, as far as both are known, or two sexes.

    Args:
        facts: Columns ``patient``, ``system``, ``code``, ``time_us``, ``precision`` and ``value`` of `EVENT`, patients
            as canonical keys; only the rows of the system ``patient`` count.
    """
    told = facts.filter(pc.equal(facts["system"], PATIENT))
    births = told.filter(pc.and_(pc.equal(told["code"], "birth-date"), pc.is_valid(told["time_us"])))
    sexes = told.filter(pc.and_(pc.equal(told["code"], "sex"), pc.is_in(told["value"], pa.array(_SEXES))))
    day = births["time_us"].cast(pa.timestamp("us")).cast(pa.date32(), safe=False)
    year = pc.year(day)
    month = pc.add(pc.multiply(year, 12), pc.month(day))
    known = pc.coalesce(births["precision"], pa.scalar(int(Precision.DAY), pa.int8()))
    found = [_several(births["patient"], year)]
    for least, part in ((Precision.MONTH, month), (Precision.DAY, day.cast(pa.int32()))):
        exact = pc.greater_equal(known, int(least))
        found.append(_several(births["patient"].filter(exact), part.filter(exact)))
    found.append(_several(sexes["patient"], sexes["value"]))
    return pc.unique(pa.chunked_array(found, pa.string()))


def _several(patients: pa.ChunkedArray, told: pa.ChunkedArray) -> pa.Array:
    counted = pa.table({"patient": patients, "told": told}).group_by("patient").aggregate([("told", "count_distinct")])
    return counted.filter(pc.greater(counted["told_count_distinct"], 1))["patient"].combine_chunks().cast(pa.string())


def _root(parent: dict[str, str], one: str) -> str:
    root = parent.setdefault(one, one)
    while parent[root] != root:
        parent[root] = parent[parent[root]]  # Halving the path keeps a chain of merges from costing its square.
        root = parent[root]
    return root


def _named(persons: list[list[str]], former: set[str], ignored: int) -> Identities:
    canonical: dict[str, str] = {}
    crowds = set()
    circles = partings = 0
    for keys in persons:
        present = [one for one in keys if one not in former]
        circles += not present
        partings += len(present) > 1
        name = min(present or keys)
        canonical.update(dict.fromkeys(keys, name))
        if len(keys) > MAX_ALIASES:
            crowds.add(name)
    return Identities(canonical, frozenset(crowds), circles, partings, ignored)
