"""A study that comes to a hub in a file, from a researcher whom no network reaches."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from wardround.codec import canonical
from wardround.errors import LocalProtocolError
from wardround.hub import setup
from wardround.hub.attesting import check_plan
from wardround.ids import CommandId, Digest
from wardround.ports import Blobs
from wardround.protocol.messages import Proposal, StudyStatus
from wardround.protocol.plan import Plan, SignedPlan
from wardround.services.coordinator import Coordinator
from wardround.services.hub_records import RecordedEvents
from wardround.services.studies import Studies
from wardround.storage.blobs import FolderBlobs
from wardround.system import SystemClock

__all__ = ["propose"]

_PIECE = 1024 * 1024


def propose(folder: Path, signed: SignedPlan, files: Iterable[Path]) -> StudyStatus:
    """Propose a checked bundle's plan at the hub in this folder, which may be serving; `files` is what the plan names.

    Raises:
        SignatureError: The researcher is not enrolled here, or the plan is not signed by their key.
        CodecError: No plan that a run could follow, or expired, or it demands proofs that this hub is not set up for.
        StorageFullError: The disk is full.
    """
    config = setup.load_config(folder)
    plan = canonical.decode(signed.plan, Plan)
    check_plan(plan, checks_nodes=bool(config.collateral), proves_itself=config.confidential)
    blobs = FolderBlobs(folder / config.blobs)
    with setup.auditing(folder) as recorder, setup.open_hub_database(folder, config) as database:
        enrolments = setup.open_enrolments(folder, config, database.registry)
        studies = Studies(
            RecordedEvents(database.event_log, recorder),
            blobs,
            SystemClock(),
            key_of=enrolments.signer,
            coordinator=_nobody,
        )
        for file in files:
            _store(blobs, file)
        command = CommandId(canonical.digest(b"propose\n" + signed.plan))
        return studies.propose(signed.researcher, Proposal(command, signed))


def _store(blobs: Blobs, file: Path) -> None:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while piece := opened.read(_PIECE):
            digest.update(piece)
        name = Digest(digest.hexdigest())
        if blobs.has(name):
            return
        opened.seek(0)
        upload = blobs.upload(f"import-{name}")
        try:
            while piece := opened.read(_PIECE):
                upload.append(piece)
        except BaseException:
            upload.discard()
            raise
        upload.commit(name)


def _nobody() -> Coordinator:
    raise LocalProtocolError("a study that is only proposed has no run")
