"""A researcher at a hub: enrol, submit, watch, fetch."""

import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wardround.codec import canonical
from wardround.config import ResearcherConfig, load, secret
from wardround.crypto import signing
from wardround.errors import ConfigError, UnavailableError
from wardround.ids import CommandId, RunId, StudyId
from wardround.protocol import plan as plans
from wardround.protocol.messages import Proposal, RunStatus, StudyStatus
from wardround.protocol.plan import BlobRef, Plan
from wardround.sdk.findings import file_name
from wardround.sdk.study import Study
from wardround.storage.model_files import FolderModelFiles
from wardround.system import private_folder, write_private
from wardround.transport import enrolling, keeping, renewing
from wardround.transport.credential import replace_private
from wardround.transport.http import HttpHub
from wardround.transport.renewing import Place

__all__ = ["Researcher", "connect", "enrol", "load_config", "own_certificate", "place_of", "rotate_key"]

_SETTINGS = 'name = "{name}"\nhub = "{hub}"\nhub_public = "{hub_public}"\n'
_ENDED = {"completed", "stopped"}
_WATCH_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Researcher:
    """An enrolled researcher; make one with `connect`."""

    config: ResearcherConfig
    hub: HttpHub
    key: signing.PrivateKey

    def submit(self, study: Study) -> StudyStatus:
        """Upload what the plan names, sign the plan and propose it; the same study twice is one study.

        Raises:
            CodecError: The plan could not be followed.
            UnavailableError: The hub did not answer.
        """
        for data in filter(None, (study.initial, study.package)):
            self._upload(data)
        signed = plans.sign(study.plan, self.key)
        command = CommandId(canonical.digest(b"propose\n" + signed.plan))
        return self.hub.propose(Proposal(command, signed))

    def studies(self) -> list[StudyStatus]:
        """The researcher's studies."""
        return self.hub.studies()

    def status(self, study: str) -> StudyStatus:
        """A study by its digest, or the beginning of it.

        Raises:
            ConfigError: None, or several, begin like this.
        """
        found = [status for status in self.studies() if status.study.startswith(study)]
        if len(found) != 1:
            raise ConfigError(f"{len(found)} of your studies begin with {study!r}; `wardround study list` shows all")
        return found[0]

    def act(self, study: StudyId, action: Literal["start", "release", "withdraw"], reason: str = "") -> StudyStatus:
        """Start a study, release its model, or take it back.

        Raises:
            PeerProtocolError: Not in this phase.
        """
        return self.hub.act(study, action, reason)

    def watch(self, run: RunId, *, wait_seconds: float = 25.0) -> Iterator[RunStatus]:
        """The run's state when it has new events, at most ten times a second, until it ends; survives outages."""
        after, wait, asked = 0, 0.2, -math.inf
        while True:
            time.sleep(max(0.0, _WATCH_SECONDS - (time.monotonic() - asked)))
            asked = time.monotonic()
            try:
                status = self.hub.run(run, after=after, wait_seconds=wait_seconds)
            except UnavailableError:
                time.sleep(wait)
                wait = min(2 * wait, 10.0)
                continue
            wait = 0.2
            if status.last_seq > after:
                after = status.last_seq
                yield status
            if status.phase in _ENDED and status.last_seq <= after and len(status.events) < 1000:
                return

    def watch_past(self, run: RunId) -> Iterator[RunStatus]:
        """The run's state with all events so far, in parts."""
        after = 0
        while (status := self.hub.run(run, after=after)).events:
            after = status.last_seq
            yield status

    def fetch(self, run: RunId, folder: Path) -> Path:
        """Download a run's present model as ``model.safetensors``, with its plan and global statistics.

        Raises:
            ConfigError: The folder holds another model already.
            DigestMismatchError: The hub sent other bytes.
        """
        status = self.hub.run(run)
        if status.model is None:
            raise ConfigError("the run has no model yet")
        private_folder(folder)
        target = folder / "model.safetensors"
        self._fetch(run, status.model, target)
        if status.standardization is not None:
            self._fetch(run, status.standardization, folder / "standardization.safetensors")
        plan = self.hub.plan(StudyId(run.partition(".")[0]))
        (folder / "plan.json").write_bytes(plan.plan)
        for name, data in self.findings(run)[1].items():
            (folder / f"{name}.json").write_bytes(data)
        return target

    def findings(self, run: RunId) -> tuple[Plan, dict[str, bytes]]:
        """The plan of a run's study, and what the run found beside its model: canonical JSON by name.

        Raises:
            CodecError: The hub sent a finding of a name that there is not.
            DigestMismatchError: The hub sent other bytes.
        """
        plan = canonical.decode(self.hub.plan(StudyId(run.partition(".")[0])).plan, Plan)
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            files = FolderModelFiles(Path(folder))
            for name, ref in self.hub.run(run).findings.items():
                found[file_name(name)] = files.bytes_of(files.fetch(ref, run, self.hub, b""))
        return plan, found

    def _fetch(self, run: RunId, ref: BlobRef, target: Path) -> None:
        files = FolderModelFiles(target.parent / ".download")
        Path(files.fetch(ref, run, self.hub, b"")).replace(target)
        (target.parent / ".download").rmdir()

    def _upload(self, data: bytes) -> None:
        ref = BlobRef(canonical.digest(data), len(data))
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            self.hub.upload("new", ref, file.fileno())


def enrol(folder: Path, line: str) -> ResearcherConfig:
    """Use a researcher's invite: make the key here, have its certificate signed.

    Raises:
        InviteError: The line is no researcher's invite, or it is unknown, expired or used.
        ConfigError: There is a researcher in this folder already.
        UnavailableError: The hub did not answer.
    """
    if (folder / "researcher.toml").exists():
        raise ConfigError(f"{folder} holds a researcher's keys already; they are not overwritten")
    enrolled = enrolling.enrol(line, role="researcher")
    private_folder(folder)
    write_private(folder / "keys" / "researcher.key", signing.private_pem(enrolled.key))
    connection = signing.private_pem(enrolled.connection) + enrolled.enrolled.certificate
    write_private(folder / "keys" / "connection.pem", connection)
    write_private(folder / "researcher.crt", enrolled.certificate)
    write_private(folder / "authority.crt", enrolled.authority)
    settings = _SETTINGS.format(name=enrolled.name, hub=enrolled.url, hub_public=enrolled.public)
    write_private(folder / "researcher.toml", settings.encode())
    return connect(folder).config


def connect(folder: Path | str) -> Researcher:
    """Open a researcher's folder; its certificate is renewed on the way where that is due.

    Raises:
        ConfigError: There is no researcher here, or a setting or key is wrong.
        CryptoError: The certificate has ended, and the hub refuses to renew it.
        UnavailableError: The certificate has ended, and the hub does not answer.
    """
    folder = Path(folder)
    config = load_config(folder)
    key = signing.load_private(secret(config.key, folder, os.environ))
    place = place_of(folder, config)
    held = keeping.refresh(place)
    hub = HttpHub(config.hub, name=config.name, credential=held, authority=place.authority.read_bytes())
    hub.session.keep_fresh(lambda: keeping.refresh(place), place.authority.read_bytes)
    return Researcher(config, hub, key)


def rotate_key(folder: Path, line: str = "") -> float:
    """Take another connection key now; when its certificate ends. `line` is an invite where renewing is too late.

    Raises:
        ConfigError: There is no researcher here.
        InviteError: The line is no invite for this researcher, or it is unknown, expired or used.
        CryptoError: The hub refuses: revoked, or the certificate ended too long ago.
        UnavailableError: The hub did not answer.
    """
    config = load_config(folder)
    place = place_of(folder, config)
    if not line:
        return renewing.renew(place).expires()
    key = signing.load_private(secret(config.key, folder, os.environ))
    again = enrolling.enrol(line, role="researcher", key=key, name=config.name)
    replace_private(place.authority, again.authority)
    return renewing.replace(place, again.connection, again.enrolled).expires()


def place_of(folder: Path, config: ResearcherConfig) -> Place:
    """The files of a researcher's identity, and where it is renewed."""
    return Place(
        config.name,
        config.hub_public or config.hub,
        folder / config.connection,
        folder / config.certificate,
        folder / config.authority,
    )


def own_certificate(folder: Path) -> bytes:
    """The certificate of the key with which a researcher signs plans and packages, PEM.

    Raises:
        ConfigError: There is no researcher here.
    """
    return (folder / load_config(folder).certificate).read_bytes()


def load_config(folder: Path) -> ResearcherConfig:
    """A researcher's settings.

    Raises:
        ConfigError: There is no researcher here, or a setting is wrong.
    """
    path = folder / "researcher.toml"
    if not path.exists():
        raise ConfigError(
            f"there is no researcher in {folder}; make one with: wardround study enrol {folder} --invite …"
        )
    return load(path.read_text(), ResearcherConfig, os.environ, "WARDROUND_RESEARCHER_")
