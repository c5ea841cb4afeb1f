"""Makes and opens a hub's folder: authority, keys, settings; and runs the server on it."""

import asyncio
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog
from starlette.requests import Request

from wardround.audit.entry import KeyChange
from wardround.auditing import Auditing, LogPlace, make_keys
from wardround.authorization import shipped
from wardround.codec import canonical
from wardround.config import HubConfig, load, secret
from wardround.crypto import certificate
from wardround.errors import ConfigError, WardroundError
from wardround.hub import attestation_routes, authorities, identity_routes, people_routes
from wardround.hub.app import create_app
from wardround.hub.attesting import open_attesting, recorded
from wardround.hub.authentication import Authentication
from wardround.hub.bell import Bell
from wardround.hub.cluster import RayPool
from wardround.hub.listening import Doors, check_free
from wardround.hub.log_post import LogPost
from wardround.hub.people import HubPeople, open_people
from wardround.hub.signing_answers import AnswerSigner, Revocations, SignedAnswers
from wardround.hub.state import HubState
from wardround.ids import SiteId
from wardround.people_folder import people_settings
from wardround.ports import Registry
from wardround.protocol.invite import Invite, format_invite
from wardround.protocol.log_messages import HUB, LogMember
from wardround.protocol.messages import Role
from wardround.protocol.run import Phase, Run
from wardround.services import login_records, people
from wardround.services.circumstances import is_strong
from wardround.services.coordinator import Coordinator
from wardround.services.enrolment import Enrolments
from wardround.services.hub_records import AccessRecords, RecordedEvents, RecordedRegistry, is_routine
from wardround.services.log_members import LogMembers
from wardround.services.renewal import Renewals
from wardround.services.rosters import Rosters
from wardround.services.studies import Studies
from wardround.storage.blobs import FolderBlobs
from wardround.storage.database import Database, open_database
from wardround.storage.vault import SealedVault
from wardround.system import SystemClock, SystemEntropy, private_folder, tune_allocator, write_private

__all__ = [
    "init",
    "invite",
    "load_config",
    "open_enrolments",
    "open_hub_database",
    "open_state",
    "revoke",
    "rotate_authority",
    "serve",
]

_LOOK_SECONDS = 1.0
_log = structlog.get_logger("wardround.hub")
_SETTINGS = """\
# A Wardround hub. Every setting: docs/reference/settings.md
listen = "{listen}"                 # enrolled machines, with their certificates
listen_public = "{listen_public}"   # newcomers, renewals, people
url = "{url}"
url_public = "{url_public}"
client_certificates = "required"    # "proxy" where a load balancer in front ends TLS
database = "sqlite:///state/hub.sqlite"
blobs = "state/blobs"
authority = "authority.crt"
authority_key = "file:keys/authority.key"
tls_certificate = "tls.crt"
tls_key = "file:keys/tls.key"
"""


def init(folder: Path, *, listen: str, hosts: list[str], listen_public: str = "", people: str = "local") -> None:
    """Make a hub's folder: a CA, a TLS key and certificate for `hosts`, and the settings.

    `people` is how researchers and operators log in: local accounts, or none, where their keys alone speak for them.

    `listen_public` is the next port after that of `listen` where it is not given.

    Raises:
        ConfigError: There is a hub in this folder already.
    """
    now, (address, _, port) = SystemClock().now(), listen.rpartition(":")
    listen_public = listen_public or f"{address}:{int(port) + 1}"
    port_public = listen_public.rpartition(":")[2]
    if (folder / "hub.toml").exists():
        raise ConfigError(f"{folder} holds a hub already; its keys are not overwritten")
    private_folder(folder)
    authority_key, authority = certificate.create_authority("Wardround hub", now)
    tls_key, tls = certificate.issue_server(authority_key, authority, hosts, now, authorities.TLS_SECONDS)
    private_folder(folder / "state")
    write_private(folder / "keys" / "authority.key", authority_key)
    write_private(folder / "keys" / "tls.key", tls_key)
    write_private(folder / "authority.crt", authority)
    write_private(folder / "tls.crt", tls)
    host = f"[{hosts[0]}]" if ":" in hosts[0] else hosts[0]
    settings = _SETTINGS.format(
        listen=listen,
        listen_public=listen_public,
        url=f"https://{host}:{port}",
        url_public=f"https://{host}:{port_public}",
    )
    write_private(folder / "keys" / "state.key", SystemEntropy().draw(32))
    make_keys(folder)
    write_private(folder / "people.toml", f'provider = "{people}"\n'.encode())
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
    database = open_hub_database(folder, config)
    try:
        words = open_enrolments(folder, config, database.registry).invite(name, role, lifetime_seconds)
    finally:
        database.close()
    authority = (folder / config.authority).read_bytes()
    return format_invite(Invite(name, role, config.url_public, canonical.digest(authority), words))


def revoke(folder: Path, name: SiteId) -> None:
    """Refuse an enrolled name from now on.

    Raises:
        NotFoundError: Nobody is enrolled under this name.
    """
    database = open_hub_database(folder, load_config(folder))
    try:
        with auditing(folder) as recorder:
            RecordedRegistry(database.registry, recorder).revoke(name)
    finally:
        database.close()


def rotate_authority(folder: Path, *, force: bool = False) -> str:
    """Take the next of the three steps from one authority to another; what was done, in words.

    Raises:
        ConfigError: It is too early for this step.
    """
    config = load_config(folder)
    database = open_hub_database(folder, config)
    try:
        identities = database.registry.identities()
    finally:
        database.close()
    with auditing(folder) as recorder:
        authority = canonical.digest((folder / config.authority).read_bytes())
        recorder.record(KeyChange("rotated", authority, "authority"))
    return authorities.rotate(folder, config, identities, SystemClock().now(), force=force)


async def serve(folder: Path, *, stop: asyncio.Event) -> None:
    """Serve until `stop` is set.

    Raises:
        ConfigError: A setting is wrong, or a port is taken.
    """
    tune_allocator()
    config, clock = load_config(folder), SystemClock()
    for place in (config.listen, config.listen_public):
        check_free(place)
    authorities.renew_tls(folder, config, clock.now())
    secret(config.tls_key, folder, os.environ)
    attestation = attestation_routes.ADDRESSES if config.collateral or config.confidential else ()
    app = create_app(lambda loop: open_state(folder, config, loop), people_routes.routes(_login), attestation)
    app.router.routes.extend(identity_routes.ROUTES)
    async with app.router.lifespan_context(app):
        state: HubState = app.state.hub
        signer = AnswerSigner(lambda: authorities.present(folder, config), clock.now)
        challenge, window = state.authentication.challenge, config.request_window_seconds
        renewals = Renewals(state.enrolments, clock, challenge=challenge, window_seconds=window)
        app.state.identity = identity_routes.MachineIdentity(renewals, signer)
        revocations = Revocations(lambda: state.threads(state.enrolments.revoked))
        doors = Doors(folder, config, SignedAnswers(app, signer, revocations))
        tasks = [
            asyncio.create_task(revocations.watch()),
            asyncio.create_task(_keep_certificates(folder, config, state, signer, doors)),
        ]
        serving, stopping = asyncio.create_task(doors.serve()), asyncio.create_task(stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (*tasks, stopping):
            task.cancel()
        # Requests that are held for a task would keep the server from stopping for as long as they may be held.
        state.bell.close()
        doors.stop()
        await serving


async def _keep_certificates(
    folder: Path, config: HubConfig, state: HubState, signer: AnswerSigner, doors: Doors
) -> None:
    """Renew the TLS certificate in time, and follow authorities that another process changes."""
    known = authorities.present(folder, config)
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        try:
            found = authorities.present(folder, config)
            is_other = found != known
            if is_other:
                state.enrolments.trust(*found)
                state.authority = found[1]
                signer.renew()
                known = found
            if await state.threads(authorities.renew_tls, folder, config, state.clock.now()) or is_other:
                doors.reload()
                _log.info("certificates renewed")
        except WardroundError as error:
            _log.error("certificates could not be renewed: mend this before they end", code=error.code)


def _login(request: Request) -> HubPeople | None:
    state: HubState = request.app.state.hub
    return state.login


def open_state(folder: Path, config: HubConfig, loop: asyncio.AbstractEventLoop) -> HubState:
    """Wire one hub together on this event loop."""
    clock, bell = SystemClock(), Bell(loop)
    writing = open_auditing(folder)
    writing.serve()
    database = open_hub_database(folder, config)
    events = RecordedEvents(database.event_log, writing)
    blobs = FolderBlobs(folder / config.blobs)
    enrolments = open_enrolments(folder, config, RecordedRegistry(database.registry, writing))
    rosters = Rosters(events)
    offered: dict[str, str] = {}

    def run_changed(run: Run) -> None:
        studies.run_changed(run)
        if attesting is not None:
            attesting.run_changed(run)
        names: list[str] = [run.terms.run]
        step = coordinator.step(run)
        # While a round is combined there is nothing for a site to do.
        if run.is_ended or (offered.get(run.terms.run) != step and run.phase is not Phase.COMBINING):
            offered[run.terms.run] = step
            names += sorted(run.sites)
        if run.phase in {Phase.COMBINING, Phase.GATHERING}:
            names.append("work")
        bell.ring(names, about=run.terms.run)

    studies = Studies(
        events,
        blobs,
        clock,
        key_of=enrolments.signer,
        coordinator=lambda: coordinator,
        changed=lambda: bell.ring(["work"]),
    )
    coordinator = Coordinator(
        events,
        blobs,
        clock,
        plan_of=studies.plan_of,
        rosters=rosters,
        changed=run_changed,
        pool=RayPool(config.cluster) if config.cluster else None,
        entropy=SystemEntropy(),
    )
    attesting = open_attesting(
        folder,
        config,
        plan_of=studies.plan_of,
        run_of=coordinator.state,
        key_of=lambda name: enrolments.open(name)[1],
        record=recorded(writing),
    )
    settings = people_settings(folder)
    login = open_people(
        folder, settings, database, url=config.url_public, environ=os.environ, record=login_records.recorded(writing)
    )
    own = folder / "policy.cedar"
    authorizer = shipped.hub(own.read_text() if own.exists() else "")
    writing.policy("hub", authorizer.digest)
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
        authorizer=authorizer,
        on_decision=AccessRecords(writing, clock),
        is_routine=is_routine,
        auditing=writing,
        log=LogPost(writing.log, log_members(database, writing), clock, enrolments.revoked),
        login=login,
        people=login.desk.logins if login is not None else None,
        strong=lambda person: person.acr in settings.step_up.acr or is_strong(person),
        attesting=attesting,
        attested=attesting.is_attested if attesting is not None else lambda _: False,
        login_challenge=people.challenge(settings.step_up),
    )


def open_hub_database(folder: Path, config: HubConfig) -> Database:
    """The hub's database.

    Raises:
        ConfigError: It cannot be used.
    """
    url = config.database
    if url.startswith("sqlite:///") and not url.startswith("sqlite:////"):
        url = f"sqlite:///{(folder / url.removeprefix('sqlite:///')).resolve()}"
    return open_database(url)


def open_auditing(folder: Path) -> Auditing:
    """The hub's audit log; the keys of pseudonyms are sealed under ``keys/state.key``.

    Raises:
        ConfigError: A key is missing or can be read by others.
    """
    if not (folder / "keys" / "state.key").exists():
        # A folder of an earlier version. Another process may be first: then its key counts.
        with suppress(ConfigError):
            write_private(folder / "keys" / "state.key", SystemEntropy().draw(32))
    state = private_folder(folder / "state")
    vault = SealedVault(state / "hub-vault.sqlite", secret("file:keys/state.key", folder, os.environ))
    return Auditing(LogPlace(HUB, folder, state), vault)


@contextmanager
def auditing(folder: Path) -> Iterator[Auditing]:
    """The hub's audit log for a command, which may run beside the hub."""
    opened = open_auditing(folder)
    try:
        yield opened
    finally:
        opened.close()


def log_members(database: Database, recorder: Auditing) -> LogMembers:
    """The sites' log and witness keys, and the hub's own."""
    own = LogMember(site=HUB, log=tuple(str(signer.key) for signer in recorder.signers()))
    return LogMembers(database.event_log, recorder, own)


def forget_log(folder: Path, name: SiteId) -> None:
    """Forget a site's log and witness keys, so that it may hand in others without a signature by those before.

    Raises:
        NotFoundError: It has handed in none.
    """
    database = open_hub_database(folder, load_config(folder))
    try:
        with auditing(folder) as recorder:
            log_members(database, recorder).forget(name)
    finally:
        database.close()


def open_enrolments(folder: Path, config: HubConfig, registry: Registry) -> Enrolments:
    """Who is enrolled, and the authority that certifies.

    Raises:
        ConfigError: The authority's key or certificate is missing.
    """
    authority_key, authority = authorities.present(folder, config)
    return Enrolments(
        registry,
        SystemClock(),
        SystemEntropy(),
        authority_key=authority_key,
        authority=authority,
        url=config.url,
        certificate_seconds=config.certificate_hours * 3600,
        grace_seconds=config.renewal_grace_days * 86400,
    )
