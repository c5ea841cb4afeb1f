"""`wardround hub`: make and run a hub."""

import asyncio
import signal
from pathlib import Path

import click

from wardround.cli.output import as_json, configure_logs, folder_argument, show

__all__ = ["hub"]


@click.group()
def hub() -> None:
    """Run the hub that coordinates."""


@hub.command()
@folder_argument("hub")
@click.option("--listen", default="127.0.0.1:8443", show_default=True, help="Address and port to listen on.")
@click.option("--host", "hosts", multiple=True, help="Name or address by which nodes reach the hub; repeatable.")
@as_json
def init(folder: str, listen: str, hosts: tuple[str, ...], json_: bool) -> None:
    """Make a hub in FOLDER: a certificate authority, keys and settings."""
    from wardround.hub import setup

    names = list(hosts) or [listen.rpartition(":")[0]]
    setup.init(Path(folder), listen=listen, hosts=names)
    url = setup.load_config(Path(folder)).url
    show(json_, {"folder": folder, "url": url}, f"Made a hub in {folder}. Start it: wardround hub serve {folder}")


@hub.command()
@folder_argument("hub")
@click.option("--log-json", is_flag=True, help="Log as JSON.")
def serve(folder: str, log_json: bool) -> None:
    """Serve the hub in FOLDER until stopped (Ctrl-C, SIGTERM)."""
    from wardround.hub import setup

    configure_logs(json_=log_json)
    config = setup.load_config(Path(folder))
    click.echo(f"Serving {config.url} (TLS 1.3). Stop with Ctrl-C.", err=True)
    asyncio.run(_until_stopped(Path(folder)))


@hub.command()
@click.argument("name")
@folder_argument("hub")
@click.option("--role", type=click.Choice(["site", "researcher"]), default="site", show_default=True)
@click.option("--hours", default=72.0, show_default=True, help="How long the invite can be used.")
@as_json
def invite(name: str, folder: str, role: str, hours: float, json_: bool) -> None:
    """Print a one-time invite for NAME, to be handed over on a trusted way."""
    from wardround.hub import setup
    from wardround.ids import site_id

    line = setup.invite(Path(folder), site_id(name), "researcher" if role == "researcher" else "site", hours * 3600)
    show(json_, {"name": name, "role": role, "invite": line}, line)


@hub.command()
@click.argument("name")
@folder_argument("hub")
@as_json
def revoke(name: str, folder: str, json_: bool) -> None:
    """Refuse the enrolled NAME from now on."""
    from wardround.hub import setup
    from wardround.ids import site_id

    setup.revoke(Path(folder), site_id(name))
    show(json_, {"revoked": name}, f"{name} is refused from now on.")


async def _until_stopped(folder: Path) -> None:
    from wardround.hub import setup

    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    serving = asyncio.create_task(setup.serve(folder, stop=stopped))
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stopped.set)
    await serving
