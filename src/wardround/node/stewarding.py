"""What a data steward sees before a study may read: coverage, quality, distributions, and codes that need a decision.

Everything here is the site's own and stays there. Values appear as shares and as counts in ranges, with counts below
the contract's small cell hidden, so that a screen shown over a shoulder shows nobody's value.
"""

import os
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from wardround.clinical import contract as contracts
from wardround.clinical import derivation, quality
from wardround.clinical.contract import Column, DataContract
from wardround.clinical.quality import QualityReport
from wardround.clinical.table import StudyTable
from wardround.errors import ClinicalError, PolicyError
from wardround.harmonization import confirmations, suggest_embedding
from wardround.harmonization.events import PATIENT, Scope, SourceReport
from wardround.harmonization.profile import Profile, profile
from wardround.harmonization.suggest_rank import Suggestion, Target, suggest
from wardround.node import admitting
from wardround.sources import event_mapping
from wardround.sources.harmonized import HarmonizedSource

__all__ = ["Bars", "Check", "Decision", "check", "decide", "open_events", "preview", "questions"]

_BINS: Final = 10
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
    """One feature column: how many records have it, and how they are spread; None is fewer than the small cell."""

    name: str
    covered: int
    labels: list[str]
    counts: list[int | None]


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
        admitting.admit(table, contract)
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


def preview(table: StudyTable, contract: DataContract) -> list[Bars]:
    """How the study table's columns are spread, in ranges that no record chooses where the contract has bounds."""
    found, start = [], 0
    least = max(contract.disclosure.small_cell, 1)
    for column in contract.columns:
        names = contracts.column_features(column)
        for place, name in enumerate(names, start=start):
            found.append(_bars(name, table.features[:, place], column, least))
        start += len(names)
    return found


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


def _bars(name: str, values: np.typing.NDArray[np.float32], column: Column, least: int) -> Bars:
    present = values[~np.isnan(values)]
    if column.kind != "number" or name == f"{column.name}=missing":
        labels, counts = ["no", "yes"], np.bincount((present > 0).astype(np.int64), minlength=2)
    else:
        low = column.minimum if column.minimum is not None else float(present.min(initial=0.0))
        high = column.maximum if column.maximum is not None else float(present.max(initial=1.0))
        edges = np.linspace(low, max(high, low + 1e-9), _BINS + 1)
        counts = np.histogram(present, edges)[0]
        labels = [f"{left:.3g} to {right:.3g}" for left, right in pairwise(edges.tolist())]
    shown = [int(count) if count == 0 or count >= least else None for count in counts]
    return Bars(name=name, covered=len(present), labels=labels, counts=shown)


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
