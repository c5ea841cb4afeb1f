"""`wardround data`: what a site's events give a study, without a line of SQL; nothing leaves this machine."""

import getpass
import json
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wardround.cli.output import as_json, show
from wardround.errors import ConfigError

if TYPE_CHECKING:
    from wardround.clinical.contract import DataContract
    from wardround.harmonization.lineage import LineageRecord
    from wardround.harmonization.profile import Profile
    from wardround.harmonization.suggest_rank import Suggestion
    from wardround.node.stewarding import Bars, Check, Decision

__all__ = ["data"]

_WIDEST = 30
_MOST_SHOWN = 10


@click.group()
def data() -> None:
    """Look at a site's data as a study would."""


def _mapping_and_study(command: Any) -> Any:
    command = click.argument("study", type=click.Path(exists=True, dir_okay=False))(command)
    return click.argument("mapping", type=click.Path(exists=True, dir_okay=False))(command)


@data.command()
@_mapping_and_study
@as_json
def check(mapping: str, study: str, json_: bool) -> None:
    """Say what the study file STUDY would get of the events that MAPPING describes; exit with 1 if that is nothing."""
    from wardround.node import stewarding

    found = stewarding.check(stewarding.open_events(Path(mapping)), _contract(study))
    show(json_, found, "\n".join(_check_lines(found)))
    if found.refusals:
        raise SystemExit(1)


@data.command()
@_mapping_and_study
@as_json
def preview(mapping: str, study: str, json_: bool) -> None:
    """Show how the study table's columns are spread at this site; small counts are hidden."""
    from wardround.node import stewarding

    found = stewarding.preview(stewarding.open_events(Path(mapping)), _contract(study))
    lines = [f"{_count(found.records)} records of {_count(found.patients)} patients"]
    for bars in found.columns:
        lines += _bar_lines(bars, found.records)
    show(json_, found, "\n".join(lines))


@data.command(name="map")
@_mapping_and_study
@click.option("--confirm", "confirmed", multiple=True, help="LOCAL=CONCEPT, such as 'local:lab|K=loinc|2823-3'.")
@click.option("--reject", "rejected", multiple=True, help="LOCAL: this code means none of the study's concepts.")
@click.option("--by", "person", default=getpass.getuser, help="Who decides [default: the user's name].")
@click.option("--ask", is_flag=True, help="Ask about one code after another.")
@as_json
def map_(
    mapping: str, study: str, confirmed: tuple[str, ...], rejected: tuple[str, ...], person: str, ask: bool, json_: bool
) -> None:
    """Say which local codes may mean which of the study's concepts, and write down what a person decides.

    Nothing that nobody confirmed reaches a study. Decisions are kept in codes.toml beside MAPPING.
    """
    from wardround.node import stewarding

    source = stewarding.open_events(Path(mapping))
    suggestions, profiles = stewarding.questions(source, _contract(study))
    decisions = [*_decisions(confirmed, rejected)]
    if ask:
        decisions += [found for one in suggestions if (found := _asked(one, profiles)) is not None]
    if decisions:
        stewarding.decide(source, decisions, profiles, person)
    decided = {decision.local for decision in decisions}
    left = [one for one in suggestions if f"{one.system}|{one.code}" not in decided]
    lines = [f"{len(decisions)} decided, {len(left)} local codes without a decision"]
    for one in left:
        lines += _suggestion_lines(one, profiles)
    show(json_, {"decided": decisions, "suggestions": left}, "\n".join(lines))


@data.command()
@click.argument("mapping", type=click.Path(exists=True, dir_okay=False))
@click.argument("source")
def listen(mapping: str, source: str) -> None:
    """Take in what is sent to the source named SOURCE: HL7 v2 messages over MLLP, or FHIR notifications.

    A message is acknowledged once it is on the disk, sealed. Stop with Ctrl-C.
    """
    from wardround.sources import listening

    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    counts = listening.listen(Path(mapping), source, stop, ready=_ready)
    click.echo(json.dumps(counts), err=True)


@data.command()
@click.argument("node", type=click.Path(exists=True, file_okay=False))
@click.option("--as", "form", type=click.Choice(["prov", "openlineage", "fhir"]), help="Export the last record so.")
@as_json
def lineage(node: str, form: str | None, json_: bool) -> None:
    """Verify the lineage of the tensors that NODE has made, and show it; or export the last record."""
    from wardround.node import admitting
    from wardround.node import setup as nodes
    from wardround.storage.lineage_log import LineageLog

    folder = Path(node)
    log = LineageLog(folder / nodes.load_config(folder).state / admitting.LINEAGE)
    head = log.verify()
    records = log.records()
    if form:
        if not records:
            raise ConfigError("this node has made no tensor of events yet")
        click.echo(json.dumps(_exported(form, records[-1]), indent=1, sort_keys=True))
        return
    lines = [f"{record.at}  {record.records:6} records  tensor {record.tensor[:16]}" for record in records]
    lines.append(f"{len(records)} records, whole; the last is {head}")
    show(json_, {"head": head, "records": records}, "\n".join(lines))


def _contract(study: str) -> "DataContract":
    from wardround.sdk import study as studies

    return studies.contract_of(Path(study).read_text(encoding="utf-8"))


def _check_lines(found: "Check") -> list[str]:
    lines = []
    for source in found.sources:
        lines.append(f"source {source.source}: {source.read:,} read, {source.events:,} events")
        lines += [f"    {count:,} refused: {reason}" for reason, count in source.refused.items()]
        lines += [f"    {count:,} noted: {remark}" for remark, count in source.noted.items()]
    lines.append(f"cohort: {found.found:,} index events, {found.records:,} records of {found.patients:,} patients")
    lines += [f"    {count:,} left out: {reason}" for reason, count in found.left_out.items()]
    for name, feature in found.quality.features.items():
        share = feature.covered / found.quality.records if found.quality.records else 0.0
        failed = ", ".join(f"{count:,} {check}" for check, count in feature.counts.items() if count)
        lines.append(f"column {name}: {share:.0%} of records, {feature.rows:,} facts" + (failed and f" ({failed})"))
    lines += [f"units that do not convert, {name}: {', '.join(units)}" for name, units in found.unknown_units.items()]
    lines += [f"unknown values, {name}: {count:,}" for name, count in found.unknown_values.items()]
    shown = list(found.unmapped.items())
    lines += [f"local code that nobody has confirmed: {code} ({count:,} events)" for code, count in shown[:_MOST_SHOWN]]
    if len(shown) > _MOST_SHOWN:
        lines.append(f"and {len(shown) - _MOST_SHOWN} more local codes; see: wardround data map")
    return (
        [*lines, *(f"! {refusal}" for refusal in found.refusals)] if found.refusals else [*lines, "would be answered"]
    )


def _bar_lines(bars: "Bars", records: int | None) -> list[str]:
    most = max((count or 0 for count in bars.counts), default=0) or 1
    share = "hidden" if bars.covered is None or not records else f"{bars.covered / records:.0%}"
    lines = [f"\n{bars.name}: {share} of records"]
    for label, count in zip(bars.labels, bars.counts, strict=True):
        lines.append(f"  {label:>20}  {'█' * round(_WIDEST * (count or 0) / most)} {_count(count)}")
    return lines


def _count(count: int | None) -> str:
    return "hidden" if count is None else f"{count:,}"


def _suggestion_lines(one: "Suggestion", profiles: "dict[str, Profile]") -> list[str]:
    key = f"{one.system}|{one.code}"
    profile = profiles[key]
    units = ", ".join(unit or "no unit" for unit in list(profile.units)[:3]) or "no numbers"
    lines = [f"\n{key}: {profile.count:,} events of {profile.patients:,} patients, {units}"]
    for place, candidate in enumerate(one.candidates, start=1):
        reasons = "; ".join(candidate.reasons)
        lines.append(f"  {place}. {candidate.concept}  {candidate.label}  ({candidate.score:.2f}: {reasons})")
    lines += [f"  - not {vetoed.concept}: {'; '.join(vetoed.reasons)}" for vetoed in one.vetoed]
    return lines


def _asked(one: "Suggestion", profiles: "dict[str, Profile]") -> "Decision | None":
    from wardround.node.stewarding import Decision

    click.echo("\n".join(_suggestion_lines(one, profiles)))
    choices = [str(place) for place in range(1, len(one.candidates) + 1)]
    words = "  Which is it? a number, n for none of them, s to skip"
    answer = click.prompt(words, type=click.Choice([*choices, "n", "s"]), default="s", show_choices=False)
    if answer == "s":
        return None
    key = f"{one.system}|{one.code}"
    if answer == "n":
        return Decision(local=key, to="")
    chosen = one.candidates[int(answer) - 1]
    return Decision(local=key, to=chosen.concept, score=chosen.score)


def _decisions(confirmed: tuple[str, ...], rejected: tuple[str, ...]) -> "list[Decision]":
    from wardround.node.stewarding import Decision

    found = []
    for entry in confirmed:
        local, equals, concept = entry.partition("=")
        if not (local and equals and concept):
            raise ConfigError(f"--confirm {entry}: write LOCAL=CONCEPT, such as 'local:lab|K=loinc|2823-3'")
        found.append(Decision(local=local, to=concept))
    return [*found, *(Decision(local=entry, to="") for entry in rejected)]


def _ready(host: str, port: int) -> None:
    click.echo(f"listening at {host}:{port}")


def _exported(form: str, record: "LineageRecord") -> dict[str, Any]:
    from wardround.harmonization import lineage_fhir, lineage_openlineage, lineage_prov

    if form == "prov":
        return lineage_prov.document(record)
    return lineage_openlineage.event(record) if form == "openlineage" else lineage_fhir.resource(record)
