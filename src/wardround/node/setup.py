"""Makes and opens a node's folder: keys, certificate, settings, and everything wired together."""

import importlib.util
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec

from wardround.clinical.table import StudyTable
from wardround.codec import tensors
from wardround.config import NodeConfig, load, secret
from wardround.crypto import agreement, signing
from wardround.errors import ConfigError
from wardround.ids import StudyId
from wardround.node.agent import Agent
from wardround.node.loading import ProcessSource
from wardround.ports import RecordSource, Worker
from wardround.privacy import noising
from wardround.protocol.plan import Plan, study_id
from wardround.services.approvals import Approvals
from wardround.services.budgets import Budgets
from wardround.services.membership import Membership
from wardround.services.participant import Participant
from wardround.services.round_work import Progress
from wardround.services.safeguard import Safeguard
from wardround.storage.anchor import BudgetAnchor
from wardround.storage.model_files import FolderModelFiles, last_memory
from wardround.storage.vault import SealedVault
from wardround.system import SystemClock, SystemEntropy, private_folder, tune_allocator, write_private
from wardround.training.memory import personal_model
from wardround.transport import enrolling
from wardround.transport.http import HttpHub

__all__ = [
    "Node",
    "StartWorker",
    "enrol",
    "load_config",
    "make_agreement_key",
    "open_budgets",
    "open_node",
    "open_records",
    "own_model",
    "study_named",
]

StartWorker = Callable[[Plan, StudyTable, bytes | None], Worker]
"""Starts the resident worker of one run."""

_SETTINGS = """\
# A Wardround node. Every setting: docs/reference/settings.md
name = "{name}"
hub = "{hub}"

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
    vault: SealedVault
    approvals: Approvals
    participant: Participant
    membership: Membership
    budgets: Budgets

    def agent(self) -> Agent:
        """The agent that performs the hub's tasks on this node."""
        return Agent(self.hub, self.participant)


def enrol(folder: Path, line: str) -> NodeConfig:
    """Use an invite: make this node's own keys, have its certificate signed, write its settings.

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
    write_private(folder / "node.crt", enrolled.certificate)
    write_private(folder / "authority.crt", enrolled.authority)
    write_private(folder / "node.toml", _SETTINGS.format(name=enrolled.name, hub=enrolled.url).encode())
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
    key = signing.load_private(secret(config.key, folder, os.environ))
    authority = (folder / config.authority).read_bytes()
    hub = HttpHub(config.hub, name=config.name, key=key, authority=authority)
    state = private_folder(folder / config.state)
    vault = _vault(folder, config)
    approvals = Approvals(
        config.name,
        key=key,
        authority=authority,
        hub=hub,
        vault=vault,
        policy=config.policy,
        clock=SystemClock(),
    )
    membership = Membership(
        config.name,
        key=key,
        agreement_key=agreement.load_private(secret(config.agreement_key, folder, os.environ)),
        officers=_officers(config),
        quorum=config.officer_quorum,
        fetch=hub.roster,
        vault=vault,
        policy=config.policy,
        clock=SystemClock(),
        entropy=SystemEntropy(),
    )
    budgets = _budgets(folder, config, vault)
    participant = Participant(
        config.name,
        approvals=approvals,
        hub=hub,
        files=FolderModelFiles(state / "models"),
        policy=config.policy,
        source=lambda plan: open_records(folder, config, study=study_id(plan)),
        worker=start_worker or (lambda plan, table, package: _worker(config, plan, table, package)),
        membership=membership,
        safeguard=Safeguard(_noise_key(folder, config), ledger=budgets, software=_software()),
        progress=progress,
    )
    return Node(config, hub, vault, approvals, participant, membership, budgets)


def open_budgets(folder: Path) -> Budgets:
    """The privacy budgets of a node's records, without the rest of the node.

    Raises:
        ConfigError: A setting or key is missing or wrong.
    """
    config = load_config(folder)
    return _budgets(folder, config, _vault(folder, config))


def own_model(folder: Path, node: Node, study: StudyId) -> bytes:
    """The site's own model of a study's last run as a safetensors file; empty where it has none."""
    plan, _, _ = node.approvals.review(study)
    models = folder / node.config.state / "models"
    runs = {path.name.split("-")[1] for path in models.glob(f"memory-{study}.*-*")}
    for run in sorted(runs, key=lambda name: int(name.partition(".")[2]), reverse=True):
        if arrays := personal_model(plan, last_memory(models, run)):
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


def _vault(folder: Path, config: NodeConfig) -> SealedVault:
    return SealedVault(
        private_folder(folder / config.state) / "node.sqlite", secret(config.state_key, folder, os.environ)
    )


def _noise_key(folder: Path, config: NodeConfig) -> bytes:
    """From which all coins and noise of private plans follow: made of the key that seals the node's state."""
    return noising.derive(secret(config.state_key, folder, os.environ), "a node's noise", config.name, config.dataset)


def _software() -> str:
    """What computes here: another version or processor might round otherwise, and so must not draw the same noise."""
    names = ("wardround", "torch", "numpy")
    versions = [f"{name} {metadata.version(name)}" for name in names if importlib.util.find_spec(name)]
    known = Path("/proc/cpuinfo")
    lines = known.read_text(errors="replace").splitlines() if known.exists() else []
    processor = [line for line in lines if line.startswith(("model name", "flags"))][:2]
    return "\n".join([platform.machine(), *versions, *processor])


def _budgets(folder: Path, config: NodeConfig, vault: SealedVault) -> Budgets:
    return Budgets(config.dataset, vault=vault, clock=SystemClock(), anchor=BudgetAnchor(folder / config.state))


def _officers(config: NodeConfig) -> tuple[bytes, ...]:
    try:
        officers = tuple(bytes.fromhex(text) for text in config.officers)
    except ValueError:
        raise ConfigError(
            "officers must be public keys of 64 hexadecimal digits; `wardround officer` prints them"
        ) from None
    if config.officers and not 1 <= config.officer_quorum <= len(set(officers)):
        raise ConfigError(f"officer_quorum must lie between 1 and the number of officers, {len(set(officers))}")
    return officers


def open_records(folder: Path, config: NodeConfig, *, study: str = "") -> RecordSource:
    """The records that the mapping file names; `study` is the one that asks.

    Raises:
        ConfigError: There is no mapping, or it is wrong.
    """
    path = folder / config.mapping
    if not path.exists():
        raise ConfigError(f"there is no mapping in {path}; docs/reference/mapping.md shows how to write one")
    return ProcessSource(path, site=config.name, study=study, state=private_folder(folder / config.state))


def _worker(config: NodeConfig, plan: Plan, table: StudyTable, package: bytes | None) -> Worker:
    from wardround.training.worker import PytorchWorker

    return PytorchWorker(plan, config.name, table, package)
