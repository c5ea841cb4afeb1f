"""Makes and opens a node's folder: keys, certificate, settings, and everything wired together."""

import importlib.util
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec

from wardround.auditing import make_keys
from wardround.clinical.table import StudyTable
from wardround.codec import tensors
from wardround.config import NodeConfig, load, secret
from wardround.crypto import agreement, signing
from wardround.errors import ConfigError
from wardround.ids import StudyId
from wardround.node.agent import Agent
from wardround.node.attesting import open_attesting
from wardround.node.authorizing import Authorizing
from wardround.node.containing import Workers
from wardround.node.loading import ProcessSource
from wardround.node.officers import officers_of
from wardround.node.recording import Recording
from wardround.ports import RecordSource, Worker
from wardround.privacy import noising
from wardround.protocol.messages import Assignment
from wardround.protocol.plan import Plan, study_id
from wardround.services.approvals import Approvals
from wardround.services.budgets import Budgets
from wardround.services.code_review import CodeReview
from wardround.services.departures import Departures, EgressLimits
from wardround.services.egress import GuardedHub
from wardround.services.egress_gate import Egress
from wardround.services.membership import Membership
from wardround.services.participant import Participant
from wardround.services.round_work import Progress
from wardround.services.safeguard import Safeguard
from wardround.storage.anchor import BudgetAnchor
from wardround.storage.key_ring import KeyRing, open_ring
from wardround.storage.model_files import FolderModelFiles, last_memory
from wardround.storage.vault import SealedVault
from wardround.system import SystemClock, SystemEntropy, private_folder, tune_allocator, write_private
from wardround.training.memory import personal_model
from wardround.transport import enrolling, keeping, renewing
from wardround.transport.credential import replace_private
from wardround.transport.http import HttpHub
from wardround.transport.keeping import Keeper
from wardround.transport.renewing import Place

__all__ = [
    "Node",
    "StartWorker",
    "enrol",
    "load_config",
    "make_agreement_key",
    "open_authorizing",
    "open_budgets",
    "open_node",
    "open_recording",
    "open_records",
    "open_vault",
    "own_model",
    "place_of",
    "rotate_key",
    "study_named",
]

StartWorker = Callable[[Plan, StudyTable, bytes | None], Worker]
"""Starts the resident worker of one run."""

_SETTINGS = """\
# A Wardround node. Every setting: docs/reference/settings.md
name = "{name}"
hub = "{hub}"
hub_public = "{hub_public}"

# Public keys of those whose signatures make a roster, and how many of them must sign: for secure aggregation.
officers = []
officer_quorum = 1

# What this site will never do, whatever a plan says and whoever approves it.
[policy]
min_participants = 2
min_records = 10
secure_only = false   # true: no study whose updates the hub could see one by one
code_digests = []     # digests of study code that may run here; built-in models need none
"""
_PEOPLE = """\
# How people log in here: "local" accounts, a provider by "oidc", or "none": then a name is believed.
# Every setting: docs/reference/settings.md
provider = "{provider}"
"""
_MAPPING = """\
# Where this hospital's records are. Every setting: docs/reference/mapping.md
kind = "csv"
path = "records.csv"
"""


@dataclass(frozen=True, slots=True)
class Node:
    """An opened node."""

    config: NodeConfig
    hub: HttpHub
    guarded: GuardedHub
    ring: KeyRing
    vault: SealedVault
    approvals: Approvals
    participant: Participant
    membership: Membership
    budgets: Budgets
    place: Place
    authorizing: Authorizing
    code: CodeReview
    recording: Recording

    def agent(self) -> Agent:
        """The agent that performs the hub's tasks, keeps the certificate and witnesses logs.

        From here on this process writes the node's audit log.
        """
        keeper = Keeper(self.place, self.hub, SystemEntropy())
        return Agent(self.guarded, self.participant, beside=(keeper, *self.recording.serve(self.hub)))


def enrol(folder: Path, line: str, *, people: str = "local") -> NodeConfig:
    """Use an invite: make this node's own keys, have its certificate signed, write its settings.

    `people` is how its people log in: local accounts, or none, where a name is believed.

    Raises:
        InviteError: The line is no invite, or the invite is unknown, expired or used.
        CryptoError: The hub is not the one that the invite names.
        ConfigError: There is a node in this folder already.
        UnavailableError: The hub did not answer.
    """
    if (folder / "node.toml").exists():
        raise ConfigError(f"{folder} holds a node already; its keys are not overwritten")
    enrolled = enrolling.enrol(line, role="site")
    private_folder(folder)
    write_private(folder / "keys" / "node.key", signing.private_pem(enrolled.key))
    make_agreement_key(folder)
    write_private(folder / "keys" / "state.key", SystemEntropy().draw(32))
    make_keys(folder)
    connection = signing.private_pem(enrolled.connection) + enrolled.enrolled.certificate
    write_private(folder / "keys" / "connection.pem", connection)
    write_private(folder / "node.crt", enrolled.certificate)
    write_private(folder / "authority.crt", enrolled.authority)
    settings = _SETTINGS.format(name=enrolled.name, hub=enrolled.url, hub_public=enrolled.public)
    write_private(folder / "node.toml", settings.encode())
    write_private(folder / "people.toml", _PEOPLE.format(provider=people).encode())
    if not (folder / "mapping.toml").exists():
        write_private(folder / "mapping.toml", _MAPPING.encode())
    return load_config(folder)


def load_config(folder: Path) -> NodeConfig:
    """A node's settings.

    Raises:
        ConfigError: There is no node here, or a setting is wrong.
    """
    path = folder / "node.toml"
    if not path.exists():
        raise ConfigError(f"there is no node in {folder}; make one with: wardround node enrol {folder} --invite …")
    return load(path.read_text(), NodeConfig, os.environ, "WARDROUND_NODE_")


def place_of(folder: Path, config: NodeConfig) -> Place:
    """The files of a node's identity, and where it is renewed."""
    return Place(
        config.name,
        config.hub_public or config.hub,
        folder / config.connection,
        folder / config.certificate,
        folder / config.authority,
    )


def rotate_key(folder: Path, line: str = "") -> float:
    """Take another connection key now; when its certificate ends. `line` is an invite for a node that may not renew.

    What this node has signed, its rosters and its pair keys stay as they are: another key signs those.

    Raises:
        ConfigError: There is no node here.
        InviteError: The line is no invite for this node, or it is unknown, expired or used.
        SignatureError: The hub does not know this node; it was revoked, perhaps.
        CryptoError: The certificate ended too long ago to be renewed: it takes an invite.
        UnavailableError: The hub did not answer.
    """
    config = load_config(folder)
    place = place_of(folder, config)
    open_recording(folder).rotated(place)
    if not line:
        return renewing.renew(place).expires()
    key = signing.load_private(secret(config.key, folder, os.environ))
    again = enrolling.enrol(line, role="site", key=key, name=config.name)
    replace_private(place.authority, again.authority)
    return renewing.replace(place, again.connection, again.enrolled).expires()


def make_agreement_key(folder: Path) -> None:
    """Make the key for secure aggregation where a node has none yet."""
    if not (folder / "keys" / "agreement.key").exists():
        write_private(folder / "keys" / "agreement.key", agreement.private_bytes(agreement.generate()))


def open_node(
    folder: Path, *, progress: Progress = lambda _what, _task: None, start_worker: StartWorker | None = None
) -> Node:
    """Wire one node together; `start_worker` stands in for the worker that trains with PyTorch.

    Raises:
        ConfigError: A setting or key is missing or wrong.
    """
    tune_allocator()
    config = load_config(folder)
    key, trusted = signing.load_private(secret(config.key, folder, os.environ)), officers_of(folder, config)
    place = place_of(folder, config)
    held = keeping.refresh(place)
    authority = place.authority.read_bytes()
    hub = HttpHub(config.hub, name=config.name, credential=held, authority=authority)
    state = private_folder(folder / config.state)
    ring = _ring(folder, config)
    vault = SealedVault(state / "node.sqlite", ring)
    files = FolderModelFiles(state / "models", keys=ring)
    limits = EgressLimits(day_bytes=config.policy.max_day_bytes, run_bytes=config.policy.max_run_bytes)
    departures = Departures(vault=vault, clock=SystemClock(), limits=limits, anchor=BudgetAnchor(state))
    egress = Egress(departures=departures, files=files, plan_of=lambda study: approvals.approved_plan(study))  # noqa: PLW0108, made below
    recording = Recording(folder, config, vault)
    authorizing, guarded = recording.authorizing, GuardedHub(recording.hub(hub), egress)
    code = CodeReview(config.name, vault=vault, policy=config.policy, clock=SystemClock(), record=recording.review)
    attesting = open_attesting(folder, config, hub=hub, vault=vault, authorize=authorizing.asked)
    workers = Workers(config.name, config.sandbox, report=recording.refusals.violation)
    approvals = Approvals(
        config.name,
        key=key,
        authority=authority,
        hub=guarded,
        vault=vault,
        policy=config.policy,
        clock=SystemClock(),
        allowed_code=code.allowed,
        authorize=lambda person, verdict, study, plan: authorizing.decide_study(
            person, verdict, study, plan, SystemClock().now()
        ),
        record=recording.decision,
    )
    membership = Membership(
        config.name,
        key=key,
        agreement_key=agreement.load_private(secret(config.agreement_key, folder, os.environ)),
        officers=trusted.officers,
        quorum=trusted.quorum,
        fetch=hub.roster,
        vault=vault,
        policy=config.policy,
        clock=SystemClock(),
        entropy=SystemEntropy(),
    )
    budgets = recording.budgets

    def admit(assignment: Assignment, plan: Plan) -> None:
        attesting.admit(assignment, plan)
        if start_worker is None:
            workers.require(plan)

    participant = Participant(
        config.name,
        approvals=approvals,
        hub=guarded,
        files=files,
        policy=config.policy,
        source=lambda plan: recording.source(open_records(folder, config, study=study_id(plan)), plan),
        worker=start_worker or workers,
        membership=membership,
        safeguard=Safeguard(_noise_key(ring, config), ledger=budgets, software=_software()),
        egress=egress,
        admit=admit,
        progress=progress,
        refused=recording.refusals,
    )
    return Node(
        config,
        hub,
        guarded,
        ring,
        vault,
        approvals,
        participant,
        membership,
        budgets,
        place,
        authorizing,
        code,
        recording,
    )


def open_authorizing(folder: Path) -> Authorizing:
    """The site's policies: those that come with Wardround, and the file ``policy.cedar`` in the folder.

    Raises:
        ConfigError: A setting is wrong, or the file cannot be put in force.
    """
    return open_recording(folder).authorizing


def open_recording(folder: Path) -> Recording:
    """The node's audit log and what writes into it, without the rest of the node.

    Raises:
        ConfigError: A setting or key is missing or wrong.
    """
    return Recording(folder, load_config(folder), open_vault(folder))


def open_vault(folder: Path) -> SealedVault:
    """The node's vault, under its key ring.

    Raises:
        ConfigError: A setting or key is missing or wrong.
    """
    config = load_config(folder)
    return SealedVault(private_folder(folder / config.state) / "node.sqlite", _ring(folder, config))


def open_budgets(folder: Path) -> Budgets:
    """The privacy budgets of a node's records, without the rest of the node.

    Raises:
        ConfigError: A setting or key is missing or wrong.
    """
    return open_recording(folder).budgets


def own_model(folder: Path, node: Node, study: StudyId) -> bytes:
    """The site's own model of a study's last run as a safetensors file; empty where it has none."""
    plan, _, _ = node.approvals.review(study)
    models = folder / node.config.state / "models"
    runs = {path.name.split("-")[1] for path in models.glob(f"memory-{study}.*-*")}
    for run in sorted(runs, key=lambda name: int(name.partition(".")[2]), reverse=True):
        if arrays := personal_model(plan, last_memory(models, run, keys=node.ring)):
            return tensors.pack(arrays, tuple(msgspec.structs.replace(spec, dtype="float32") for spec in plan.manifest))
    return b""


def study_named(node: Node, prefix: str) -> StudyId:
    """A study that names this site by its digest, or the beginning of it.

    Raises:
        ConfigError: None, or several, begin like this.
    """
    found = [status.study for status in node.hub.studies() if status.study.startswith(prefix)]
    if len(found) != 1:
        raise ConfigError(f"{len(found)} studies begin with {prefix!r}; `wardround node review` lists them")
    return found[0]


def _ring(folder: Path, config: NodeConfig) -> KeyRing:
    state = private_folder(folder / config.state)
    return open_ring(
        config.state_key, base=folder, state=state, tenant=config.name, environ=os.environ, clock=SystemClock()
    )


def _noise_key(ring: KeyRing, config: NodeConfig) -> bytes:
    """From which all coins and noise of private plans follow: made of the ring's root, which no rotation changes."""
    return noising.derive(ring.root, "a node's noise", config.name, config.dataset)


def _software() -> str:
    """What computes here: another version or processor might round otherwise, and so must not draw the same noise."""
    names = ("wardround", "torch", "numpy")
    versions = [f"{name} {metadata.version(name)}" for name in names if importlib.util.find_spec(name)]
    known = Path("/proc/cpuinfo")
    lines = known.read_text(errors="replace").splitlines() if known.exists() else []
    processor = [line for line in lines if line.startswith(("model name", "flags"))][:2]
    return "\n".join([platform.machine(), *versions, *processor])


def open_records(folder: Path, config: NodeConfig, *, study: str = "") -> RecordSource:
    """The records that the mapping file names; `study` is the one that asks.

    Raises:
        ConfigError: There is no mapping, or it is wrong.
    """
    path = folder / config.mapping
    if not path.exists():
        raise ConfigError(f"there is no mapping in {path}; docs/reference/mapping.md shows how to write one")
    return ProcessSource(path, site=config.name, study=study, state=private_folder(folder / config.state))
