"""Study code as a site's people meet it: fetched, checked against its researcher's key, compared, allowed."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from wardround.crypto import signing
from wardround.errors import ConfigError, PolicyError
from wardround.ids import SiteId, StudyId
from wardround.node import advisories as known
from wardround.node.setup import Node, study_named
from wardround.protocol.plan import CodePackage, Plan
from wardround.provenance import package as packages
from wardround.provenance.package import Package
from wardround.services.circumstances import LoggedIn, shown
from wardround.services.code_review import Review, Verdict
from wardround.storage.model_files import FolderModelFiles
from wardround.system import SystemClock

__all__ = ["Fetched", "decide", "fetch", "last_approved"]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A study's package, opened, and its bytes."""

    package: Package
    data: bytes
    study: StudyId
    plan: Plan

    @property
    def researcher(self) -> SiteId:
        """Whose study it is."""
        return self.plan.researcher


def fetch(node: Node, study: str) -> Fetched:
    """The code of a study (by its digest, or the beginning of it), checked against its researcher's key.

    Raises:
        PolicyError: The study has no code of its own.
        PackageError: It is not a whole package.
        SignatureError: A signature in it is not by the key of whom it names.
        DigestMismatchError: The hub sent another package than the plan names.
    """
    identifier = study_named(node, study)
    plan, _, _ = node.approvals.review(identifier)
    if not isinstance(plan.model, CodePackage):
        raise PolicyError("this study's model is built in: it brings no code")
    with tempfile.TemporaryDirectory() as folder:
        files = FolderModelFiles(Path(folder))
        data = files.bytes_of(files.fetch(plan.model.package, identifier, node.hub, b""))
    keys = {**_signers(node), plan.researcher: node.approvals.key_of_researcher(plan.researcher)}
    return Fetched(packages.opened(data, keys), data, identifier, plan)


def decide(node: Node, study: str, verdict: Verdict, *, person: LoggedIn | str, advisories: Path | None) -> Review:
    """Keep what a person decided about a study's code; a plain name is of somebody who did not log in.

    Raises:
        PolicyError: The site's policy does not allow approving it, or this person may not.
        LoginError: People log in here, and this one has not, or not as this takes.
        PackageError: Its libraries have known weaknesses, or it lacks a signature that the policy asks for.
    """
    fetched, scanned_at = fetch(node, study), 0.0
    now = SystemClock().now()
    if verdict == "approve":
        node.authorizing.code(person, fetched.package.digest, fetched.researcher, now)
    else:
        node.authorizing.decide_study(person, "refuse", fetched.study, fetched.plan, now)
    if advisories is not None:
        weak, _ = known.look_up(fetched.package.pins, advisories)
        if weak and verdict == "approve":
            names = ", ".join(f"{one.library} {one.version} ({one.advisory})" for one in weak[:5])
            raise PolicyError(f"{len(weak)} known weaknesses: {names}; ask for a package that pins other versions")
        scanned_at = SystemClock().now()
    return node.code.decide(
        fetched.data,
        fetched.package,
        verdict,
        person=shown(person),
        researcher=fetched.researcher,
        scanned_at=scanned_at,
    )


def last_approved(node: Node, package: Package) -> Package | None:
    """The package of this name that the site allowed last, if any."""
    data = node.code.last_approved(package)
    return packages.opened(data, {}) if data is not None else None


def _signers(node: Node) -> dict[str, signing.PublicKey]:
    found: dict[str, signing.PublicKey] = {}
    for one in node.config.policy.code_signers:
        name, _, key = one.partition(":")
        try:
            found[name] = signing.load_public(bytes.fromhex(key))
        except ValueError:
            raise ConfigError("code_signers must be name:public key, the key in 64 hexadecimal digits") from None
    return found
