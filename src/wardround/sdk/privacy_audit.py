"""The privacy audit of a released model as one verdict, a report for people and one for programs.

    mechanism      this software's private training with the plan's settings     `wardround.sdk.mechanism_audit`
    one run        two private runs of canary patients, in fixed configurations  `wardround.sdk.mechanism_audit`
    membership     the model attacked with a site's own records                  `wardround.sdk.membership`
    inversion      gradients of made-up records, plain and as the plan sends     `wardround.sdk.gradient_audit`

The first two need a plan with differential privacy, membership needs a site's records. What a model may tell of its
members is what its epsilon allows; where it has none, or somebody says so, at most a share of the members may be found.

All that is drawn follows from the model's digest, so that an audit can be repeated; noise that a hub draws does not.
The report has figures of the site's patients as a crowd, and stays at the site.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardround.clinical.table import StudyTable
from wardround.codec import canonical
from wardround.errors import ConfigError
from wardround.ids import Digest
from wardround.privacy.gate import Check, Gate
from wardround.protocol import private
from wardround.protocol.plan import Plan
from wardround.sdk import audit_page, gradient_audit, mechanism_audit
from wardround.sdk.membership import MembershipAudit, audit_membership
from wardround.sdk.predict import module_of

__all__ = ["MOST_FOUND", "PrivacyAudit", "Result", "audit_privacy", "read_result"]

MOST_FOUND = 0.1
"""The share of members that an attack may find where a plan has no epsilon and nobody says otherwise."""

_DEVELOPER = "a developer of Wardround; until then, no private study with this version"
_RESEARCHER = "the researcher: train with differential privacy, more noise, fewer rounds or a smaller model"


@dataclass(frozen=True, slots=True)
class Result:
    """What `wardround study fetch` wrote: a plan, its last model, and the global statistics (empty without)."""

    plan: Plan
    model: bytes
    standardization: bytes

    @property
    def digest(self) -> Digest:
        """Of the model's file."""
        return canonical.digest(self.model)


@dataclass(frozen=True, slots=True)
class PrivacyAudit:
    """The verdict; `words` say what failed, who must act, and what was not looked at. `document` is the report."""

    gate: Gate
    words: tuple[str, ...]
    document: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether the model may be released."""
        return self.gate.passed

    @property
    def json(self) -> bytes:
        """The report for programs: canonical, so that its digest names it."""
        return canonical.encode(self.document)

    @property
    def digest(self) -> Digest:
        """Of the report for programs."""
        return canonical.digest(self.json)

    @property
    def page(self) -> str:
        """The report for people."""
        return audit_page.page(self.document)

    def write(self, page: Path) -> Path:
        """Write the page, and the report for programs beside it; gives that one's path.

        Raises:
            ConfigError: The folder cannot be written.
        """
        beside = page.with_suffix(".json")
        try:
            page.write_text(self.page, encoding="utf-8")
            beside.write_bytes(self.json)
        except OSError as error:
            raise ConfigError(f"the report cannot be written to {page}: {error.strerror}") from None
        return beside


def read_result(folder: Path) -> Result:
    """Read what `wardround study fetch` wrote.

    Raises:
        ConfigError: There is no plan or no model in the folder.
        CodecError: The plan is none.
    """
    plan, model, statistics = (
        folder / name for name in ("plan.json", "model.safetensors", "standardization.safetensors")
    )
    if not (plan.exists() and model.exists()):
        raise ConfigError(f"{folder} holds no plan.json and model.safetensors; `wardround study fetch` writes them")
    standardization = statistics.read_bytes() if statistics.exists() else b""
    return Result(canonical.decode(plan.read_bytes(), Plan), model.read_bytes(), standardization)


def audit_privacy(
    result: Result,
    *,
    table: StudyTable | None = None,
    package: bytes = b"",
    most_found: float | None = None,
    references: int = 8,
    progress: Callable[[str], None] = lambda _: None,
) -> PrivacyAudit:
    """Audit a model: seconds, and with records as long as training the reference models takes.

    Args:
        result: Plan, model and statistics.
        table: A site's records, for membership inference; without, none is tried.
        package: The code package, where the plan has one; its code runs in this process.
        most_found: The highest share of members that an attack may find at a false positive rate of 0.1 %; left out,
            0.1 where the plan has no differential privacy, and elsewhere what its epsilon allows.
        references: How many reference models: an even number.
        progress: Told what begins.

    Raises:
        ConfigError: Too few patients on one side, a wrong number of references, or the code package is missing.
        TensorMismatchError: The file is not a model of this plan.
    """
    plan, seed = result.plan, f"wardround audit 1\n{result.digest}".encode()
    checks: list[Check] = []
    notes: list[str] = []
    audits, attacked = {}, None
    if plan.privacy is None:
        notes.append("the plan has no differential privacy: there is no noise to check")
    else:
        progress("the mechanism of differential privacy")
        mechanism = mechanism_audit.audit_mechanism(plan, seed)
        checks, notes, audits = [*mechanism.checks], [*mechanism.notes], {**mechanism.audits}
    if table is None:
        notes.append("membership inference was not tried: it needs a site's records (--node)")
    else:
        progress(f"membership, with {references} reference models")
        attacked = _membership(result, table, package, most_found, references)
        checks += attacked.gate.checks
    progress("gradient inversion")
    gradients = gradient_audit.audit_gradients(plan, module_of(plan, result.model, package=package), seed)
    checks += gradients.checks
    notes += [gradients.note] if gradients.note else []
    verdict = Gate(tuple(checks))
    words = (*_failures(verdict, attacked), *(f"Note: {note}." for note in notes))
    document = audit_page.document(
        f"Privacy audit: {plan.title}",
        verdict,
        audits=audits,
        membership=attacked.document() if attacked else None,
        inversions=gradients.inversions,
        notes=words,
    )
    return PrivacyAudit(verdict, words, document | {"model": result.digest})


def _membership(
    result: Result, table: StudyTable, package: bytes, most_found: float | None, references: int
) -> MembershipAudit:
    plan = result.plan
    claim = None
    if plan.privacy is not None and plan.privacy.unit == "patient":
        claim = (private.epsilon(plan), plan.privacy.delta)
    policy = most_found if most_found is not None else (None if claim else MOST_FOUND)
    return audit_membership(
        plan,
        result.model,
        result.standardization,
        table,
        package=package,
        references=references,
        claim=claim,
        policy=policy,
    )


def _failures(verdict: Gate, attacked: MembershipAudit | None) -> list[str]:
    """What failed in plain words, once for each of those who must act."""
    if not verdict.checks:
        return ["Nothing was checked, so nothing passed. Must act: whoever audits; give a site's records."]
    found: dict[str, list[str]] = {}
    for check in verdict.failures:
        found.setdefault(_meaning(check, attacked), []).append(check.name)
    return [f"{meaning} (failed: {', '.join(names)})" for meaning, names in found.items()]


def _meaning(check: Check, attacked: MembershipAudit | None) -> str:
    if check.name == "gradient inversion: control":
        return f"The attack on gradients is too weak to count. Must act: {_DEVELOPER}."
    if check.name.startswith("gradient inversion"):
        return f"Records can be rebuilt from what leaves a site. Must act: {_RESEARCHER}, or secure aggregation."
    if check.name.endswith(": policy"):
        if attacked is not None and attacked.least_policy > check.bound:
            return (
                f"So few patients cannot show that at most {check.bound:g} of the members are found; with them no "
                f"bound below {attacked.least_policy:.3g} can be met. Must act: the site's data steward (--most-found)."
            )
        return f"An attack finds more members than is allowed. Must act: {_RESEARCHER}."
    if ": claim at" in check.name:
        return f"An attack finds more members than the plan's epsilon allows. Must act: {_DEVELOPER}."
    return f"Private training does not do what was accounted. Must act: {_DEVELOPER}."
