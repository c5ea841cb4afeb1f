"""`wardround hub`: make and run a hub."""

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wardround.cli.output import as_json, configure_logs, folder_argument, show

if TYPE_CHECKING:
    from wardround.protocol.messages import Role

__all__ = ["hub"]

_PEOPLE = "Whether releases and revocations take a person's login with an account of this hub, or a key alone."
_ROLES: "dict[str, Role]" = {"site": "site", "researcher": "researcher", "operator": "operator"}


@click.group()
def hub() -> None:
    """Run the hub that coordinates."""


@hub.command()
@folder_argument("hub")
@click.option("--listen", default="127.0.0.1:8443", show_default=True, help="Address and port to listen on.")
@click.option("--listen-public", default="", help="The same for newcomers and people [default: the next port].")
@click.option("--host", "hosts", multiple=True, help="Name or address by which nodes reach the hub; repeatable.")
@click.option("--people", type=click.Choice(["local", "none"]), default="local", show_default=True, help=_PEOPLE)
@as_json
def init(folder: str, listen: str, listen_public: str, hosts: tuple[str, ...], people: str, json_: bool) -> None:
    """Make a hub in FOLDER: a certificate authority, keys and settings."""
    from wardround.hub import setup

    names = list(hosts) or [listen.rpartition(":")[0]]
    setup.init(Path(folder), listen=listen, hosts=names, listen_public=listen_public, people=people)
    config = setup.load_config(Path(folder))
    found = {"folder": folder, "url": config.url, "url_public": config.url_public}
    show(json_, found, f"Made a hub in {folder}. Start it: wardround hub serve {folder}")


@hub.command()
@folder_argument("hub")
@click.option("--log-json", is_flag=True, help="Log as JSON.")
def serve(folder: str, log_json: bool) -> None:
    """Serve the hub in FOLDER until stopped (Ctrl-C, SIGTERM)."""
    from wardround.hub import setup

    configure_logs(json_=log_json)
    config = setup.load_config(Path(folder))
    asked = "with their certificates" if config.client_certificates == "required" else "behind a proxy"
    click.echo(f"Serving machines {asked} at {config.url}, everybody at {config.url_public} (TLS 1.3).", err=True)
    click.echo("Stop with Ctrl-C.", err=True)
    asyncio.run(_until_stopped(Path(folder)))


@hub.command()
@click.argument("name")
@folder_argument("hub")
@click.option("--role", type=click.Choice(["site", "researcher", "operator"]), default="site", show_default=True)
@click.option("--hours", default=72.0, show_default=True, help="How long the invite can be used.")
@as_json
def invite(name: str, folder: str, role: str, hours: float, json_: bool) -> None:
    """Print a one-time invite for NAME, to be handed over on a trusted way."""
    from wardround.hub import setup
    from wardround.ids import site_id

    line = setup.invite(Path(folder), site_id(name), _ROLES[role], hours * 3600)
    show(json_, {"name": name, "role": role, "invite": line}, line)


@hub.command()
@click.argument("name")
@folder_argument("hub")
@as_json
def revoke(name: str, folder: str, json_: bool) -> None:
    """Refuse the enrolled NAME from now on, and end what it is waiting for."""
    from wardround.cli.presenting import present
    from wardround.hub import setup
    from wardround.ids import site_id

    present(Path(folder), "revoke", about=name)
    setup.revoke(Path(folder), site_id(name))
    show(json_, {"revoked": name}, f"{name} is refused from now on.")


@hub.command(name="import")
@folder_argument("hub")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@as_json
def import_(folder: str, file: str, json_: bool) -> None:
    """Propose the study in the bundle FILE, which its researcher exported, at the hub in FOLDER."""
    from wardround.errors import PackageError
    from wardround.hub import importing, setup
    from wardround.sdk import carrying

    place = Path(folder)
    authority = (place / setup.load_config(place).authority).read_bytes()
    with carrying.opened(Path(file), authority) as carried:
        if carried.signed is None:
            raise PackageError("this bundle holds no study")
        named = [path for role, path in carried.files.items() if role in {"initial", "package"}]
        status = importing.propose(place, carried.signed, named)
    show(json_, status, f"{status.study}\n{status.title}: {status.phase}; waiting for {', '.join(status.decisions)}")


@hub.command(name="rotate-authority")
@folder_argument("hub")
@click.option("--force", is_flag=True, help="Do not wait for those who have not renewed: they need new invites.")
@as_json
def rotate_authority(folder: str, force: bool, json_: bool) -> None:
    """Take the next of three steps to another certificate authority: announce, switch, retire."""
    from wardround.hub import setup

    words = setup.rotate_authority(Path(folder), force=force)
    show(json_, {"done": words}, words)


@hub.command(name="forget-person")
@click.argument("name")
@folder_argument("hub")
@as_json
def forget_person(name: str, folder: str, json_: bool) -> None:
    """Destroy the key of the person NAME's pseudonym: the audit log stays whole, and names them no more."""
    from wardround.hub import setup
    from wardround.services.audit_trail import Person

    with setup.auditing(Path(folder)) as recorder:
        found = recorder.forget(Person(name))
    show(json_, {"pseudonym": found}, f"{found} is nobody any more." if found else "The audit log does not know them.")


@hub.command(name="forget-log")
@click.argument("name")
@folder_argument("hub")
@as_json
def forget_log(name: str, folder: str, json_: bool) -> None:
    """Forget the audit log keys of the site NAME, which has lost them: the next that it hands in are taken."""
    from wardround.hub import setup
    from wardround.ids import site_id

    setup.forget_log(Path(folder), site_id(name))
    show(json_, {"forgotten": name}, f"The next log keys of {name} are taken as they come.")


async def _until_stopped(folder: Path) -> None:
    from wardround.hub import setup

    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    serving = asyncio.create_task(setup.serve(folder, stop=stopped))
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stopped.set)
    await serving
