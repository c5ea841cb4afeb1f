"""`wardround officer`: those whose signatures make a roster of the sites' keys."""

from pathlib import Path

import click

from wardround.cli.output import as_json, folder_argument, show

__all__ = ["officer"]


@click.group()
def officer() -> None:
    """Vouch for the sites' keys, so that the hub need not be trusted with them."""


@officer.command()
@folder_argument("officer")
@as_json
def init(folder: str, json_: bool) -> None:
    """Make an officer's key in FOLDER and print its public half, which every node's settings name."""
    from wardround.sdk import rosters

    public = rosters.make_officer(Path(folder)).hex()
    text = (
        f'The key is in {folder}/keys and stays there. Every hospital adds to its node.toml:\n  officers = ["{public}"]'
    )
    show(json_, {"officer": public}, text)


@officer.command()
@folder_argument("officer")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--yes", is_flag=True, help="Do not ask: the fingerprints have been compared.")
@as_json
def sign(folder: str, file: str, yes: bool, json_: bool) -> None:
    """Sign the roster in FILE, after each hospital has read its fingerprint aloud (`wardround node card`)."""
    from wardround.sdk import rosters
    from wardround.secagg import roster

    signed, key = rosters.read(Path(file)), rosters.load_officer(Path(folder))
    if not yes:
        click.echo("\n".join(rosters.words(signed)), err=True)
        click.confirm("Has every hospital read the same fingerprint to you?", abort=True, err=True)
    endorsed = roster.endorse(signed, key)
    rosters.write(Path(file), endorsed)
    count = len(endorsed.endorsements)
    digest = roster.roster_digest(endorsed)
    show(json_, {"roster": digest, "signatures": count}, f"Signed; {file} has {count} signatures now.")
