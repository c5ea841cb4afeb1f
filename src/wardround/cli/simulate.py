"""`wardround simulate`: a study file over mapping files, in one process."""

import json
import os
from pathlib import Path
from typing import Any

import click

from wardround.cli.output import as_json, show
from wardround.errors import ConfigError

__all__ = ["simulate"]


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--site", "sites", multiple=True, required=True, help="NAME=MAPPING.toml; one for each participant.")
@click.option("--attack", "attacks", multiple=True, help="NAME=ATTACK: this site is hostile, and does this.")
@click.option("--to", "target", default="simulated", show_default=True, help="Folder to write the model and report to.")
@click.option("--compare", "compared", is_flag=True, help="Beside each site's own model, a pooled and a left-out one.")
@as_json
def simulate(
    file: str, sites: tuple[str, ...], attacks: tuple[str, ...], target: str, compared: bool, json_: bool
) -> None:
    """Run the study of FILE over local records, with the very same machines as a hub and its nodes."""
    from wardround.sdk import comparison, report
    from wardround.sdk import simulate as simulation
    from wardround.sdk import study as studies
    from wardround.sdk.evidence import evidence
    from wardround.sources import mapping

    declared = studies.from_toml(Path(file).read_text(), "simulation")
    if compared and not declared.plan.training.rounds:
        raise ConfigError("there is nothing to compare: with rounds = 0 the study trains no model")
    sources = {name: mapping.open_source(text, place, os.environ) for name, (text, place) in _mappings(sites).items()}
    hostile: dict[Any, Any] = dict(entry.partition("=")[::2] for entry in attacks)
    events: list[dict[str, Any]] = []
    result = simulation.simulate(
        declared, sources, attacks=hostile, progress=lambda status: events.extend(status.events)
    )
    found = evidence(declared.plan, events, result.findings)
    if compared:
        tables = {name: source.load(declared.plan.data) for name, source in sources.items()}
        files = (result.model, result.standardization)
        beside = comparison.compare(declared, tables, files, personal=result.personal, leave_out=True)
        found["comparison"] = comparison.rows(declared.plan, beside)
        found["advice"] += comparison.advice(declared.plan, beside)
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(result.model)
    (folder / "report.json").write_text(json.dumps(found, indent=1, sort_keys=True), encoding="utf-8")
    (folder / "report.html").write_text(report.run_page(declared.plan.title, events, found), encoding="utf-8")
    rounds = sum(event["event"] == "round-opened" for event in events)
    words = [*found["advice"], f"{result.status.phase} after {rounds} rounds; see {folder}/report.html"]
    document = {"phase": result.status.phase, "folder": str(folder), "advice": found["advice"]}
    if result.status.phase == "completed":
        show(json_, document, "\n".join(words))
        return
    reasons = [f"  {site}: {words}" for site, words in sorted(result.declined.items())]
    show(json_, document | {"reason": result.status.reason, "declined": result.declined}, "\n".join(words))
    raise ConfigError("\n".join([f"the run stopped: {result.status.reason}", *reasons]))


def _mappings(sites: tuple[str, ...]) -> dict[str, tuple[Any, Path]]:
    """Mappings and their folders by site, from ``NAME=FILE``."""
    from wardround.sources import mapping

    found: dict[str, tuple[Any, Path]] = {}
    for entry in sites:
        name, equals, path = entry.partition("=")
        if not (name and equals and path) or name in found:
            raise ConfigError(f"--site {entry}: write NAME=MAPPING.toml, each site once")
        if not Path(path).is_file():
            raise ConfigError(f"--site {entry}: there is no file {path}")
        found[name] = mapping.load(Path(path).read_text()), Path(path).parent
    return found
