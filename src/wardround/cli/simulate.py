"""`wardround simulate`: a study file over mapping files, in one process."""

import os
from pathlib import Path
from typing import Any

import click

from wardround.cli.output import as_json, show

__all__ = ["simulate"]


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--site", "sites", multiple=True, required=True, help="NAME=MAPPING.toml; one for each participant.")
@click.option("--attack", "attacks", multiple=True, help="NAME=ATTACK: this site is hostile, and does this.")
@click.option("--to", "target", default="simulated", show_default=True, help="Folder to write the model and report to.")
@as_json
def simulate(file: str, sites: tuple[str, ...], attacks: tuple[str, ...], target: str, json_: bool) -> None:
    """Run the study of FILE over local records, with the very same machines as a hub and its nodes."""
    from wardround.sdk import report
    from wardround.sdk import simulate as simulation
    from wardround.sdk import study as studies
    from wardround.sources import mapping

    declared = studies.from_toml(Path(file).read_text(), "simulation")
    sources = {}
    for entry in sites:
        name, _, path = entry.partition("=")
        sources[name] = mapping.open_source(mapping.load(Path(path).read_text()), Path(path).parent, os.environ)
    hostile: dict[Any, Any] = dict(entry.partition("=")[::2] for entry in attacks)
    result = simulation.simulate(declared, sources, attacks=hostile)
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(result.model)
    (folder / "report.html").write_text(
        report.run_page(declared.plan.title, list(result.status.events)), encoding="utf-8"
    )
    words = f"{result.status.phase} after {result.status.round} rounds; see {folder}/report.html"
    show(json_, {"phase": result.status.phase, "folder": str(folder)}, words)
