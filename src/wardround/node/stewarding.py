"""What a data steward sees before a study may read: coverage, quality, distributions, and codes that need a decision.

Everything here is the site's own and stays there. Values appear as counts in ranges that the contract states, without
small cells and without what would give one away, so that a screen shown over a shoulder shows nobody's value.
"""

import os
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from wardround.clinical import contract as contracts
from wardround.clinical import derivation, quality
from wardround.clinical.contract import Column, DataContract
from wardround.clinical.disclosure_tables import HIDDEN, shown
from wardround.clinical.quality import QualityReport
from wardround.errors import ClinicalError, PolicyError
from wardround.harmonization import confirmations, suggest_embedding
from wardround.harmonization.events import PATIENT, Scope, SourceReport
from wardround.harmonization.profile import Profile, profile
from wardround.harmonization.suggest_rank import Suggestion, Target, suggest
from wardround.node import admitting
from wardround.sources import event_mapping
from wardround.sources.harmonized import HarmonizedSource

__all__ = ["Bars", "Check", "Decision", "Preview", "check", "decide", "open_events", "preview", "questions"]

_BINS: Final = 10
_MOST_BARS: Final = 100
_LOCAL: Final = "local:"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What a study would get of this site, and what stands against it.

    Attributes:
        sources: What each source reports.
        found: Index events, and `left_out` those not in the cohort, by reason.
        records: Records that would be used, of so many `patients`.
        quality: Counts by column and check.
        unknown_units: Units that do not convert, by column, as the sources spell them.
        unknown_values: Coded values that the contract does not know, by column.
        unmapped: Local codes that nobody has confirmed, with their number of events, most first.
        refusals: Why the study would not be answered; empty where it would.
    """

    sources: list[SourceReport]
    found: int
    left_out: dict[str, int]
    records: int
    patients: int
    quality: QualityReport
    unknown_units: dict[str, list[str]]
    unknown_values: dict[str, int]
    unmapped: dict[str, int]
    refusals: list[str]


class Bars(msgspec.Struct, frozen=True, kw_only=True):
    """One column: how many records have it, and how they are spread; None is hidden.

    Without a range in the contract there are no `labels`: ranges between the records' own values would show these.
    """

    name: str
    covered: int | None
    labels: list[str]
    counts: list[int | None]


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """How a study table's columns are spread; None is hidden."""

    records: int | None
    patients: int | None
    columns: list[Bars]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What a person decided about one local code; `to` is empty for none of the concepts."""

    local: str
    to: str
    score: float | None = None


def open_events(path: Path) -> HarmonizedSource:
    """The events that a mapping file describes.

    Raises:
        ConfigError: The mapping or one of its secrets is wrong.
        ClinicalError: It describes a table.
    """
    mapping = event_mapping.decode(path.read_text(encoding="utf-8"))
    return HarmonizedSource(mapping, path.parent, os.environ)


def check(source: HarmonizedSource, contract: DataContract) -> Check:
    """Read everything as a study would, and say what would become of it; nothing is remembered.

    Raises:
        ClinicalError: A source cannot be read.
        UnavailableError: A source did not answer.
    """
    harmonized = source.read(contract, restricted=False)
    told = harmonized.told
    report = admitting.quality_of(harmonized, contract)
    refusals = quality.check(report, contract.quality)
    records = 0
    try:
        table = harmonized.table()
        records = len(table.held_out)
        rules = admitting.rules_of(contract, source.mapping.disclosure)
        admitting.admit(table, msgspec.structs.replace(contract, disclosure=rules))
    except (ClinicalError, PolicyError) as error:
        refusals.append(str(error))
    return Check(
        sources=told.sources,
        found=told.found,
        left_out=told.left_out,
        records=records,
        patients=harmonized.patients,
        quality=report,
        unknown_units=told.unknown_units,
        unknown_values=told.unknown_values,
        unmapped=dict(sorted(told.unmapped.items(), key=lambda pair: (-pair[1], pair[0]))),
        refusals=refusals,
    )


def preview(source: HarmonizedSource, contract: DataContract) -> Preview:
    """How the columns of the study's table are spread at this site.

    Raises:
        ClinicalError: The events do not fit the contract.
        UnavailableError: A source did not answer.
    """
    table = source.load(contract)
    least = admitting.rules_of(contract, source.mapping.disclosure).small_cell
    found, start = [], 0
    for column in contract.columns:
        stop = start + len(contracts.column_features(column))
        found.append(_bars(column, table.features[:, start:stop], least))
        start = stop
    records, patients = len(table.held_out), table.report.patients
    return Preview(
        records=records if records >= least else None,
        patients=patients if patients >= least else None,
        columns=found,
    )


def questions(source: HarmonizedSource, contract: DataContract) -> tuple[list[Suggestion], dict[str, Profile]]:
    """The local codes that nobody has decided on, each with its likeliest concepts; and all local codes' profiles.

    The site's events are read whole; what is proposed are the concepts that the contract names. A decided code whose
    values look otherwise by now is written down as reopened: it translates nothing until somebody decides again.
    """
    batches = (batch for one in source.sources for batch in one.batches(Scope()))
    profiles = {one.key: one for one in profile(batches) if one.system.startswith(_LOCAL)}
    written = confirmations.read(source.codes)
    entries = confirmations.reopened(written, profiles.values())
    if entries != written:
        entries = confirmations.write(source.codes, entries)
    asked = confirmations.unanswered(entries, profiles.values())
    return suggest(asked, _targets(contract), embedder=suggest_embedding.installed()), profiles


def decide(source: HarmonizedSource, decisions: list[Decision], profiles: dict[str, Profile], person: str) -> None:
    """Write down what a person decided.

    Raises:
        ConfigError: Nobody is named, or a concept cannot be.
        ClinicalError: There is no such local code in the site's events.
        ConflictError: Somebody else decided meanwhile.
    """
    entries = confirmations.read(source.codes)
    today = datetime.now(UTC).date()
    for decision in decisions:
        if decision.local not in profiles:
            raise ClinicalError(f"no event has the code {decision.local!r}: write it as 'local:name|code'")
        how = "person" if decision.score is None else "suggest"
        entries = confirmations.confirm(
            entries,
            profiles[decision.local],
            decision.to,
            by=how,
            confirmed_by=person,
            at=today,
            score=decision.score,
        )
    confirmations.write(source.codes, entries)


def _bars(column: Column, features: npt.NDArray[np.float32], least: int) -> Bars:
    indicators = column.missing == "mask"
    values = features[:, : features.shape[1] - indicators]
    present = values[~np.isnan(values).any(axis=1)]
    labels, counts = _binned(column, present)
    records, covered = len(values), len(present)
    if not covered:
        return Bars(name=column.name, covered=0, labels=[], counts=[])
    # With those who have no value, the cells add up to the records, which everybody knows.
    absent = [records - covered] if records > covered else []
    told = shown(counts.tolist() + absent if labels else [covered, *absent], least)
    is_whole = told.total != HIDDEN
    cells = [count if is_whole and count != HIDDEN else None for count in told.cells.tolist()]
    is_told = cells[-1] is not None if absent else covered >= least
    return Bars(
        name=column.name,
        covered=covered if is_told else None,
        labels=labels,
        counts=cells[: len(labels)],
    )


def _binned(column: Column, present: npt.NDArray[np.float32]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """What the contract lets a column be, and how many records are that; nothing for arrays and without bounds."""
    low, high, width = column.minimum, column.maximum, present.shape[1]
    if column.kind == "category" and width <= _MOST_BARS:
        return [*column.categories, *["other"] * column.other], np.count_nonzero(present, axis=0)
    if column.kind == "boolean":
        return ["no", "yes"], np.bincount((present[:, 0] > 0).astype(np.int64), minlength=2)
    if column.kind == "category" or width != 1 or low is None or high is None or not 0 < high - low < np.inf:
        return [], np.zeros(0, dtype=np.int64)
    edges = np.linspace(low, high, _BINS + 1)
    counts = np.histogram(np.clip(present[:, 0].astype(np.float64), low, high), edges)[0]
    return [f"{left:.3g} to {right:.3g}" for left, right in pairwise(edges.tolist())], counts


def _targets(contract: DataContract) -> list[Target]:
    found: dict[str, Target] = {}
    columns = [(column.name, column.derive, column) for column in contract.columns]
    columns.append((contract.label.name, contract.label.derive, Column(name=contract.label.name)))
    for name, derive, column in columns:
        if derive is None:
            continue
        for concept in derivation.concepts(derive.concepts, contract.value_sets):
            if not concept.startswith(f"{PATIENT}|") and not concept.endswith("*"):
                found[concept] = Target(
                    concept=concept,
                    label=derive.display or name.replace("_", " "),
                    unit=column.unit if column.kind == "number" else "",
                    minimum=column.minimum,
                    maximum=column.maximum,
                    molar_mass=derive.molar_mass,
                )
    return list(found.values())
