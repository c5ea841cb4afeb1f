"""Makes and opens a hub's folder: authority, keys, settings; and runs the server on it."""

import asyncio
import os
import secrets
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wardround.codec import canonical
from wardround.config import HubConfig, load, secret
from wardround.crypto import certificate
from wardround.errors import ConfigError
from wardround.hub.app import create_app
from wardround.hub.authentication import Authentication
from wardround.hub.bell import Bell
from wardround.hub.cluster import RayPool
from wardround.hub.state import HubState
from wardround.ids import SiteId
from wardround.protocol.invite import Invite, format_invite
from wardround.protocol.messages import Role
from wardround.protocol.run import Phase, Run
from wardround.services.coordinator import Coordinator
from wardround.services.enrolment import Enrolments
from wardround.services.rosters import Rosters
from wardround.services.studies import Studies
from wardround.storage.blobs import FolderBlobs
from wardround.storage.database import Database, open_database
from wardround.system import SystemClock, SystemEntropy, private_folder, tune_allocator, write_private

__all__ = ["init", "invite", "load_config", "revoke", "serve"]

_TLS_DAYS = 365
_SETTINGS = """\
# A Wardround hub. Every setting: docs/reference/settings.md
listen = "{listen}"
url = "{url}"
database = "sqlite:///state/hub.sqlite"
blobs = "state/blobs"
authority = "authority.crt"
authority_key = "file:keys/authority.key"
tls_certificate = "tls.crt"
tls_key = "file:keys/tls.key"
"""


def init(folder: Path, *, listen: str, hosts: list[str]) -> None:
    """Make a hub's folder: a CA, a TLS key and certificate for `hosts`, and the settings.

    Raises:
        ConfigError: There is a hub in this folder already.
    """
    now, port = SystemClock().now(), listen.rpartition(":")[2]
    if (folder / "hub.toml").exists():
        raise ConfigError(f"{folder} holds a hub already; its keys are not overwritten")
    private_folder(folder)
    authority_key, authority = certificate.create_authority("Wardround hub", now)
    tls_key, tls = certificate.issue_server(authority_key, authority, hosts, now, _TLS_DAYS * 86400.0)
    private_folder(folder / "state")
    write_private(folder / "keys" / "authority.key", authority_key)
    write_private(folder / "keys" / "tls.key", tls_key)
    write_private(folder / "authority.crt", authority)
    write_private(folder / "tls.crt", tls)
    settings = _SETTINGS.format(listen=listen, url=f"https://{hosts[0]}:{port}")
    write_private(folder / "hub.toml", settings.encode())


def load_config(folder: Path) -> HubConfig:
    """A hub's settings.

    Raises:
        ConfigError: There is no hub here, or a setting is wrong.
    """
    path = folder / "hub.toml"
    if not path.exists():
        raise ConfigError(f"there is no hub in {folder}; make one with: wardround hub init {folder}")
    return load(path.read_text(), HubConfig, os.environ, "WARDROUND_HUB_")


def invite(folder: Path, name: SiteId, role: Role, lifetime_seconds: float) -> str:
    """A one-time invite line for a newcomer."""
    config = load_config(folder)
    database = _database(folder, config)
    try:
        words = _enrolments(folder, config, database).invite(name, role, lifetime_seconds)
    finally:
        database.close()
    authority = (folder / config.authority).read_bytes()
    return format_invite(Invite(name, role, config.url, canonical.digest(authority), words))


def revoke(folder: Path, name: SiteId) -> None:
    """Refuse an enrolled name from now on.

    Raises:
        NotFoundError: Nobody is enrolled under this name.
    """
    database = _database(folder, load_config(folder))
    try:
        database.registry.revoke(name)
    finally:
        database.close()


async def serve(folder: Path, *, stop: asyncio.Event) -> None:
    """Serve until `stop` is set.

    Raises:
        ConfigError: A setting is wrong, or the port is taken.
    """
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings
    from granian.log import LogLevels
    from granian.server.embed import Server

    tune_allocator()
    config = load_config(folder)
    host, _, port = config.listen.rpartition(":")
    _check_free(host, int(port))
    app = create_app(lambda loop: open_state(folder, config, loop))
    secret(config.tls_key, folder, os.environ)
    server = Server(
        app,
        address=host,
        port=int(port),
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        log_access=False,
        log_level=LogLevels.error,
        backpressure=1024,
        http1_settings=HTTP1Settings(max_buffer_size=512 * 1024),
        ssl_cert=folder / config.tls_certificate,
        ssl_key=folder / config.tls_key.removeprefix("file:"),
    )
    serving = asyncio.create_task(server.serve())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if (state := getattr(app.state, "hub", None)) is not None:
        # Requests that are held for a task would keep the server from stopping for as long as they may be held.
        state.bell.close()
    server.stop()  # type: ignore[no-untyped-call]
    await serving


def open_state(folder: Path, config: HubConfig, loop: asyncio.AbstractEventLoop) -> HubState:
    """Wire one hub together on this event loop."""
    clock, bell = SystemClock(), Bell(loop)
    database = _database(folder, config)
    blobs = FolderBlobs(folder / config.blobs)
    enrolments = _enrolments(folder, config, database)
    rosters = Rosters(database.event_log)
    offered: dict[str, str] = {}

    def run_changed(run: Run) -> None:
        studies.run_changed(run)
        names: list[str] = [run.terms.run]
        step = coordinator.step(run)
        if run.is_ended or offered.get(run.terms.run) != step:
            offered[run.terms.run] = step
            names += sorted(run.sites)
        if run.phase in {Phase.COMBINING, Phase.GATHERING}:
            names.append("work")
        bell.ring(names)

    studies = Studies(
        database.event_log,
        blobs,
        clock,
        key_of=lambda name: enrolments.open(name)[1],
        coordinator=lambda: coordinator,
        changed=lambda: bell.ring(["work"]),
    )
    coordinator = Coordinator(
        database.event_log,
        blobs,
        clock,
        plan_of=studies.plan_of,
        rosters=rosters,
        changed=run_changed,
        pool=RayPool(config.cluster) if config.cluster else None,
        entropy=SystemEntropy(),
    )
    challenge = secrets.token_urlsafe(12)
    window = config.request_window_seconds
    return HubState(
        config=config,
        clock=clock,
        blobs=blobs,
        authority=(folder / config.authority).read_bytes(),
        enrolments=enrolments,
        authentication=Authentication(enrolments, clock, challenge=challenge, window_seconds=window),
        coordinator=coordinator,
        studies=studies,
        rosters=rosters,
        bell=bell,
        executor=ThreadPoolExecutor(max_workers=4, thread_name_prefix="hub"),
    )


def _database(folder: Path, config: HubConfig) -> Database:
    url = config.database
    if url.startswith("sqlite:///") and not url.startswith("sqlite:////"):
        url = f"sqlite:///{(folder / url.removeprefix('sqlite:///')).resolve()}"
    return open_database(url)


def _enrolments(folder: Path, config: HubConfig, database: Database) -> Enrolments:
    return Enrolments(
        database.registry,
        SystemClock(),
        SystemEntropy(),
        authority_key=secret(config.authority_key, folder, os.environ),
        authority=(folder / config.authority).read_bytes(),
    )


def _check_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            raise ConfigError(f"{host}:{port} is taken by another program, or is no address of this machine") from None
