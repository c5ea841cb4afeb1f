"""`wardround roster`: collect the sites' keys, and publish them once officers have signed."""

from pathlib import Path

import click

from wardround.cli.output import as_json, show

__all__ = ["roster"]

_folder = click.option(
    "--folder",
    default="researcher",
    show_default=True,
    envvar="WARDROUND_RESEARCHER",
    help="The researcher's folder [env var: WARDROUND_RESEARCHER].",
)
_file = click.argument("file", type=click.Path(dir_okay=False))


@click.group()
def roster() -> None:
    """Draft, show and publish the roster of the sites' keys, for secure aggregation."""


@roster.command()
@_file
@click.option("--consortium", required=True, help="Whose roster it is.")
@click.option("--number", default=1, show_default=True, help="Which one in a row.")
@click.option("--site", "sites", multiple=True, help="A site to include [default: every site that has a card].")
@_folder
@as_json
def draft(file: str, consortium: str, number: int, sites: tuple[str, ...], folder: str, json_: bool) -> None:
    """Fetch the sites' cards from the hub and write an unsigned roster to FILE."""
    from wardround.sdk import client, rosters
    from wardround.secagg.roster import roster_digest

    made = rosters.draft(client.connect(Path(folder)).hub.cards(), consortium, number, sites)
    rosters.write(Path(file), made)
    text = "\n".join([*rosters.words(made), f"Next, for each officer: wardround officer sign OFFICER {file}"])
    show(json_, {"roster": roster_digest(made)}, text)


@roster.command(name="show")
@_file
@as_json
def show_(file: str, json_: bool) -> None:
    """Show the roster in FILE: its name, its members' fingerprints, and who signed it."""
    from wardround.sdk import rosters
    from wardround.secagg.roster import roster_digest

    signed = rosters.read(Path(file))
    signers = [endorsement.officer.hex() for endorsement in signed.endorsements]
    show(json_, {"roster": roster_digest(signed), "officers": signers}, "\n".join(rosters.words(signed)))


@roster.command()
@_file
@_folder
@as_json
def publish(file: str, folder: str, json_: bool) -> None:
    """Hand the signed roster in FILE to the hub, for the nodes to fetch and check."""
    from wardround.sdk import client, rosters
    from wardround.secagg.roster import roster_digest

    signed = rosters.read(Path(file))
    client.connect(Path(folder)).hub.publish_roster(signed)
    digest = roster_digest(signed)
    show(json_, {"roster": digest}, f'Published. In a study file:\n  [secure]\n  roster = "{digest}"')
