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
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--consortium", required=True, help="Whose officers they are.")
@click.option("--number", required=True, type=int, help="Which change it is, counted from 1.")
@click.option("--officer", "keys", multiple=True, required=True, help="A public key of the new list; repeatable.")
@click.option("--quorum", required=True, type=int, help="How many of the new list must sign from then on.")
@as_json
def change(file: str, consortium: str, number: int, keys: tuple[str, ...], quorum: int, json_: bool) -> None:
    """Write a new list of officers to FILE, for the officers of the list before to sign."""
    from wardround.sdk import officers

    made = officers.draft(consortium, number, keys, quorum)
    officers.write(Path(file), made)
    text = "\n".join(
        [*officers.words(made), f"Next, for each officer so far: wardround officer sign-change OFFICER {file}"]
    )
    show(json_, {"number": number, "officers": list(keys), "quorum": quorum}, text)


@officer.command(name="sign-change")
@folder_argument("officer")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--yes", is_flag=True, help="Do not ask: the keys have been compared.")
@as_json
def sign_change(folder: str, file: str, yes: bool, json_: bool) -> None:
    """Sign the new list of officers in FILE, after comparing its keys with their owners."""
    from wardround.sdk import officers, rosters
    from wardround.secagg import officers as lists

    signed, key = officers.read(Path(file)), rosters.load_officer(Path(folder))
    if not yes:
        click.echo("\n".join(officers.words(signed)), err=True)
        click.confirm("Has every new officer read the same key to you?", abort=True, err=True)
    endorsed = lists.endorse(signed, key)
    officers.write(Path(file), endorsed)
    count = len(endorsed.endorsements)
    show(json_, {"signatures": count}, f"Signed; {file} has {count} signatures now.")


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
