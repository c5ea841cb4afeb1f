"""A site audits the model of a study's last run with its own records, keeps the report, and says whether it passed.

    hub ──plan, model, statistics, package──▶ node ──audit with the site's records──▶ state/audits/
    hub ◀──signed: passed or failed, the model's digest and the report's── node

Study code runs in this process, with the rights of whoever types the command, and only where the site's policy lists
its digest. The report has figures of the site's patients as a crowd; it does not leave the site.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wardround.errors import PeerProtocolError, PolicyError
from wardround.ids import RunId, StudyId
from wardround.node import setup
from wardround.node.setup import Node
from wardround.protocol.plan import BlobRef, CodePackage
from wardround.sdk import privacy_audit
from wardround.sdk.privacy_audit import PrivacyAudit, Result
from wardround.storage.model_files import FolderModelFiles
from wardround.system import private_folder

__all__ = ["SiteAudit", "audit_study"]


@dataclass(frozen=True, slots=True)
class SiteAudit:
    """What a site found: the audit, where its report lies, and whether the hub was told."""

    run: RunId
    audit: PrivacyAudit
    report: Path
    is_handed_in: bool


def audit_study(
    folder: Path,
    node: Node,
    study: StudyId,
    *,
    person: str,
    most_found: float | None = None,
    references: int = 8,
    progress: Callable[[str], None] = lambda _: None,
) -> SiteAudit:
    """Audit the model of a study's last run, and hand in the verdict where the plan asks for audits.

    Args:
        folder: The node's.
        node: The same, opened.
        study: That this site took part in.
        person: Who answers for the audit.
        most_found: As for `wardround.sdk.privacy_audit.audit_privacy`.
        references: The same.
        progress: Told what begins.

    Raises:
        PeerProtocolError: The study has no completed run, or the hub takes no audit now.
        PolicyError: The plan's study code may not run here.
        ConfigError: Too few patients on one side, or a wrong number of references.
    """
    plan, _, _ = node.approvals.review(study)
    run, model, statistics = _last(node, study)
    package = plan.model.package if isinstance(plan.model, CodePackage) else None
    if package is not None and package.digest not in node.config.policy.code_digests:
        raise PolicyError(f"this site's policy does not allow the study code {package.digest[:16]}…, so it is not run")
    progress("the model and this site's records")
    result = Result(plan, _fetched(node, run, model), _fetched(node, run, statistics))
    records = setup.open_records(folder, node.config)
    table = node.recording.source(records, plan, purpose="audit").load(plan.data)
    found = privacy_audit.audit_privacy(
        result,
        table=table,
        package=_fetched(node, study, package),
        most_found=most_found,
        references=references,
        progress=progress,
    )
    audits = private_folder(private_folder(folder / node.config.state) / "audits")
    page = audits / f"{run}-{found.digest[:16]}.html"
    found.write(page)
    if plan.audits:
        node.approvals.hand_in_audit(run, result.digest, found.digest, passed=found.passed, person=person)
    return SiteAudit(run, found, page, bool(plan.audits))


def _last(node: Node, study: StudyId) -> tuple[RunId, BlobRef, BlobRef | None]:
    status = next((one for one in node.hub.studies() if one.study == study), None)
    if status is None or not status.runs:
        raise PeerProtocolError("the study has no run yet, so there is no model to audit")
    run = node.hub.run(status.runs[-1])
    if run.phase != "completed" or run.model is None:
        raise PeerProtocolError(f"the study's last run is {run.phase}; a model is audited when its run is completed")
    return run.run, run.model, run.standardization


def _fetched(node: Node, scope: str, ref: BlobRef | None) -> bytes:
    if ref is None:
        return b""
    with tempfile.TemporaryDirectory() as folder:
        files = FolderModelFiles(Path(folder))
        return files.bytes_of(files.fetch(ref, scope, node.hub, b""))
