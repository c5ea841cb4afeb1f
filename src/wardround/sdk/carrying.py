"""Studies and packages carried by hand, to and from machines without a network: see `wardround.provenance.bundle`.

What is believed of a bundle: the federation's authority, which the receiver already has, issued the certificate of the
researcher who exported it, valid when that was; this researcher signed the index and the plan; every part has the
digest that the index and the plan name. A bundle that says it is from the future, or is older than `MAX_AGE_DAYS`, is
refused: certificates are short, so its age is what bounds the use of a stolen old key.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wardround.codec import canonical
from wardround.crypto import certificate, signing
from wardround.errors import DigestMismatchError, PackageError
from wardround.ids import StudyId
from wardround.protocol import messages
from wardround.protocol import plan as plans
from wardround.protocol.plan import BlobRef, CodePackage, Plan, SignedPlan
from wardround.provenance.bundle import Index, Part, Role
from wardround.sdk.client import Researcher
from wardround.storage import bundle_file
from wardround.storage.model_files import FolderModelFiles
from wardround.system import SystemClock, private_folder

__all__ = ["MAX_AGE_DAYS", "Carried", "export_package", "export_study", "opened", "unpack"]

MAX_AGE_DAYS = 90.0
_SKEW_SECONDS = 300.0
_NAMES: dict[Role, str] = {
    "plan": "plan.msgpack",
    "initial": "initial.safetensors",
    "package": "package.zip",
    "roster": "roster.msgpack",
    "collateral": "collateral.json",
}


@dataclass(frozen=True, slots=True)
class Carried:
    """A checked bundle: its plan as the researcher signed it, and a file for each part while the bundle is open."""

    index: Index
    signed: SignedPlan | None
    plan: Plan | None
    files: Mapping[Role, Path]


def export_study(researcher: Researcher, own: bytes, study: StudyId, target: Path) -> Index:
    """Write one of the researcher's studies with all that its plan names; `own` is their certificate, PEM.

    Raises:
        PackageError: The file exists.
        UnavailableError: The hub did not answer.
    """
    signed = researcher.hub.plan(study)
    plan = plans.verify(signed, researcher.key.public_key())
    named: list[tuple[Role, BlobRef]] = [("initial", plan.initial)]
    if isinstance(plan.model, CodePackage):
        named.append(("package", plan.model.package))
    with tempfile.TemporaryDirectory(prefix="wardround-export-") as folder:
        blobs = FolderModelFiles(private_folder(Path(folder) / "blobs"))
        files = {role: Path(blobs.fetch(ref, study, researcher.hub, b"")) for role, ref in named}
        small: dict[Role, bytes] = {"plan": messages.encode(signed)}
        if plan.secure is not None:
            small["roster"] = messages.encode(researcher.hub.roster(plan.secure.roster))
        for role, data in small.items():
            files[role] = Path(folder) / role
            files[role].write_bytes(data)
        refs = {**dict(named), **{role: BlobRef(canonical.digest(data), len(data)) for role, data in small.items()}}
        return _write(target, researcher, own, study, refs, files)


def export_package(researcher: Researcher, own: bytes, package: Path, target: Path) -> Index:
    """Write one code package; `own` is the researcher's certificate, PEM.

    Raises:
        PackageError: The file exists.
    """
    data = package.read_bytes()
    return _write(
        target, researcher, own, "", {"package": BlobRef(canonical.digest(data), len(data))}, {"package": package}
    )


@contextmanager
def opened(path: Path, authority: bytes) -> Iterator[Carried]:
    """Check a bundle from outside against the federation's authority, PEM, and open it.

    Raises:
        PackageError: Not a whole bundle, from the future, too old, or without what its plan names.
        CryptoError: The certificate, or a signature, is not what it claims.
        DigestMismatchError: A part is not the one that the index or the plan names.
        CodecError: The plan is none that a run could follow.
    """
    now = SystemClock().now()

    def exporter(index: Index) -> signing.PublicKey:
        if not -_SKEW_SECONDS <= now - index.exported_at <= MAX_AGE_DAYS * 86400.0:
            raise PackageError(f"the bundle was not exported within the last {MAX_AGE_DAYS:g} days: export it again")
        name, role, key = certificate.open_identity(index.certificate, authority, float(index.exported_at))
        if name != index.exporter or role != "researcher":
            raise PackageError("the bundle's certificate is not that of a researcher, or of another than it names")
        return key

    with bundle_file.read(path, exporter) as (index, files):
        signed = messages.decode(files["plan"].read_bytes(), SignedPlan) if "plan" in files else None
        if bool(index.study) is (signed is None):
            raise PackageError("a bundle of a study holds its plan, and no other bundle does")
        plan = _plan(index, signed, exporter(index)) if signed is not None else None
        if plan is not None and plan.expires <= now:
            raise PackageError("the bundle's plan has expired")
        yield Carried(index, signed, plan, files)


def unpack(carried: Carried, folder: Path) -> list[Path]:
    """Copy a checked bundle's parts into a new folder, under names of ours.

    Raises:
        PackageError: The folder exists.
    """
    if folder.exists():
        raise PackageError(f"{folder} exists already and is not overwritten")
    private_folder(folder)
    made = [Path(shutil.copy(file, folder / _NAMES[role])) for role, file in carried.files.items()]
    if carried.signed is not None:
        (folder / "plan.json").write_bytes(carried.signed.plan)
        made.append(folder / "plan.json")
    return sorted(made)


def _plan(index: Index, signed: SignedPlan, key: signing.PublicKey) -> Plan:
    if canonical.digest(signed.plan) != index.study:
        raise DigestMismatchError("the bundle's plan is another study's than its index says")
    plan = plans.verify(signed, key)
    wanted: dict[Role, BlobRef] = {"initial": plan.initial}
    if isinstance(plan.model, CodePackage):
        wanted["package"] = plan.model.package
    held = {part.role: BlobRef(part.digest, part.size) for part in index.parts}
    for role in ("initial", "package"):
        if held.get(role) != wanted.get(role):
            raise DigestMismatchError(f"the bundle's {role} is not the one that its plan names")
    return plan


def _write(
    target: Path,
    researcher: Researcher,
    own: bytes,
    study: str,
    refs: Mapping[Role, BlobRef],
    files: Mapping[Role, Path],
) -> Index:
    index = Index(
        exporter=researcher.config.name,
        certificate=own,
        exported_at=int(SystemClock().now()),
        study=study,
        parts=tuple(Part(role, ref.digest, ref.size) for role, ref in refs.items()),
    )
    bundle_file.write(target, index, [files[part.role] for part in index.parts], researcher.key)
    return index
