"""What a site's records must hold before anything is computed on them, and numbers coarse enough to be told.

`admission` applies a contract's `Disclosure` to a study table:

1. Groups of the quasi-identifiers that fail k, l or t are left out, complete with their label, up to `max_suppressed`.
2. What is left must have `min_patients`, and `min_class` of every label: so a site with one class does not train.
3. Whatever is not met refuses the whole load. The site is told which rule, and with which counts; the hub hears
   `TOLD_TO_HUB` and nothing else, whichever rule it was: a count that failed would be an answer.

A refusal is still an answer of one bit, and whoever writes cohorts could ask for many: `disclosure_cohorts` refuses
the cohorts that differ by a few patients, and people approve a study before a site answers at all.

Extremes and medians are the values of single patients. `spread` gives ranges between public edges instead, each of
which at least so many patients lie in.

Hazard: features used in training stay inside the node, and updates are protected by other means (secure sums, noise);
these rules are about tables and cohorts, and k, l, t hold only against an outsider who knows the quasi-identifiers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt

from wardround.clinical import anonymity
from wardround.clinical import contract as data_contract
from wardround.clinical.anonymity import Demand, Sensitive
from wardround.clinical.contract import DataContract
from wardround.clinical.derivation import Disclosure
from wardround.clinical.table import StudyTable
from wardround.errors import MissingColumnError

__all__ = ["TOLD_TO_HUB", "Admission", "Spread", "admission", "rounded", "spread", "stricter"]

TOLD_TO_HUB = "this site's records do not meet what the study or the site asks before anything is computed"
"""All that leaves a site which refuses, whatever the rule."""


@dataclass(frozen=True, slots=True, repr=False)
class Admission:
    """Which records are used.

    Attributes:
        keep: bool ``(records,)``.
        refusals: Why none are, for the site to read; empty where they are admitted.
    """

    keep: npt.NDArray[np.bool_]
    refusals: tuple[str, ...]


class Spread(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ranges in which the lowest, the middle and the highest so many patients lie; edges are public."""

    lowest: tuple[float, float]
    middle: tuple[float, float]
    highest: tuple[float, float]


def stricter(study: Disclosure, site: Disclosure) -> Disclosure:
    """What holds where a study asks for one thing and a site for another: of each rule the stricter."""
    return Disclosure(
        min_patients=max(study.min_patients, site.min_patients),
        min_class=max(study.min_class, site.min_class),
        small_cell=max(study.small_cell, site.small_cell),
        quasi_identifiers=tuple(dict.fromkeys((*study.quasi_identifiers, *site.quasi_identifiers))),
        k=max(study.k, site.k),
        l=max(study.l, site.l),
        t=min(study.t, site.t),
        max_suppressed=min(study.max_suppressed, site.max_suppressed),
    )


def admission(table: StudyTable, contract: DataContract, rules: Disclosure) -> Admission:
    """Which records may be used, or why none may.

    Raises:
        MissingColumnError: A quasi-identifier is no column of the contract.
    """
    records = len(table.held_out)
    outside = np.zeros(records, dtype=np.bool_)
    demand = Demand(k=rules.k, l=rules.l, t=rules.t)
    if demand != Demand():
        of = anonymity.groups(_quasi_identifiers(table, contract, rules.quasi_identifiers), records)
        outside = anonymity.left_out(of, _sensitive(table, contract), demand, table.patients)
    refusals = []
    if records and outside.sum() / records > rules.max_suppressed:
        refusals.append(
            f"k, l, t: {int(outside.sum())} of {records} records would be left out for k = {rules.k}, l = {rules.l}, "
            f"t = {rules.t:g}, and max_suppressed allows the share {rules.max_suppressed:g}: "
            "have the study use coarser quasi-identifiers"
        )
    keep = ~outside
    patients = len(np.unique(table.patients[keep]))
    if patients < rules.min_patients:
        refusals.append(f"min_patients: {patients} patients can be used and {rules.min_patients} are asked for")
    for name, members in _classes(table, contract).items():
        found = len(np.unique(table.patients[keep & members]))
        if found < rules.min_class:
            refusals.append(f"min_class: {found} patients have {name} and {rules.min_class} are asked for")
    return Admission(np.zeros(records, dtype=np.bool_) if refusals else keep, tuple(refusals))


def rounded(counts: npt.ArrayLike, base: int) -> npt.NDArray[np.int64]:
    """Counts to the nearest multiple of `base`, upwards in the middle; what adds up before need not do so after."""
    if base < 1:
        raise ValueError(f"counts are rounded to multiples of at least 1, got {base}")
    return np.asarray((np.asarray(counts, dtype=np.int64) + base // 2) // base * base)


def spread(counts: Sequence[int], edges: Sequence[float], least: int) -> Spread | None:
    """Where the values lie, in place of their minimum, median and maximum; None where there are fewer than `least`.

    Args:
        counts: Patients in each bin; those outside of all belong to the first or the last.
        edges: One more than bins, rising, and public: from the contract, never from the records.
        least: The fewest patients of a range.
    """
    if len(edges) != len(counts) + 1 or not all(low < high for low, high in pairwise(edges)):
        raise ValueError("bins need rising edges, one more than there are bins")
    up = np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))])
    total, least = int(up[-1]), max(least, 1)
    if total < least:
        return None
    low = int(np.searchsorted(up, least))
    high = int(np.searchsorted(up, total - least, side="right")) - 1
    left = int(np.searchsorted(up, (total + 1) // 2)) - 1
    right = left + 1
    while up[right] - up[left] < least:
        left, right = max(left - 1, 0), min(right + 1, len(counts))
    return Spread((edges[0], edges[low]), (edges[left], edges[right]), (edges[high], edges[-1]))


def _quasi_identifiers(
    table: StudyTable, contract: DataContract, names: tuple[str, ...]
) -> list[npt.NDArray[np.float32]]:
    columns = {column.name: data_contract.column_features(column) for column in contract.columns}
    if unknown := [name for name in names if name not in columns]:
        raise MissingColumnError(f"quasi-identifier {unknown[0]!r} is no column of the data contract")
    places = {name: place for place, name in enumerate(data_contract.feature_names(contract))}
    return [table.features[:, places[feature]] for name in names for feature in columns[name]]


def _sensitive(table: StudyTable, contract: DataContract) -> list[Sensitive]:
    match contract.label.outcome:
        case "binary" | "multiclass":
            return [Sensitive(table.labels)]
        case "number":
            return [Sensitive(table.labels, ordered=True)]
        case "survival":
            # Hardly two follow-ups are equally long: l of them would be met by anyone.
            return [Sensitive(table.labels[:, 1]), Sensitive(table.labels[:, 0], ordered=True, diverse=False)]


def _classes(table: StudyTable, contract: DataContract) -> dict[str, npt.NDArray[np.bool_]]:
    label, labels = contract.label, table.labels
    match label.outcome:
        case "binary":
            return {f"{label.name} = {value}": labels == value for value in (0, 1)}
        case "multiclass":
            return {f"{label.name} = {name}": labels == place for place, name in enumerate(label.classes)}
        case "survival":
            return {f"{label.event} = {value}": labels[:, 1] == value for value in (0, 1)}
        case "number":
            return {}
