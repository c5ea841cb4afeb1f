"""The study plan: one canonical, content-addressed, signed document.

Everything else refers to a study by the digest of its plan's canonical bytes, so a plan that changes
by one byte is another study, which nobody has approved.

    Plan ──canonical.encode──▶ bytes ──sha256──▶ StudyId
    SignedPlan(plan bytes, researcher, signature) ──verify(public key)──▶ Plan

Every field is public: shown to approvers, logged, printed.
"""

import math
from typing import Literal

import msgspec

from wardround import analysis
from wardround.aggregation import robust, staleness
from wardround.aggregation.robust import Mixing, RuleName
from wardround.analysis import Analysis
from wardround.clinical import appraisal, summaries
from wardround.clinical import contract as data_contract
from wardround.clinical.appraisal import Appraisal
from wardround.clinical.contract import DataContract
from wardround.clinical.summaries import Summary
from wardround.codec import canonical, tensors
from wardround.codec.tensors import Manifest
from wardround.crypto import signing
from wardround.errors import CodecError
from wardround.ids import Digest, SiteId, StudyId, digest_name, site_id
from wardround.protocol import attested, learning, private_rules
from wardround.protocol.attested import Enclaves
from wardround.protocol.learning import Asynchronous, Local, Optimizer, ServerRule, Training
from wardround.protocol.private import Privacy
from wardround.secagg.terms import LEAST_MEMBERS

__all__ = [
    "Aggregation",
    "Asynchronous",
    "BlobRef",
    "BuiltinModel",
    "CodePackage",
    "Limits",
    "Local",
    "Normalization",
    "Optimizer",
    "Plan",
    "Privacy",
    "Screening",
    "SecureAggregation",
    "ServerRule",
    "SignedPlan",
    "Training",
    "aggregation_rule",
    "check",
    "sign",
    "statistics_manifest",
    "study_id",
    "verify",
]

PLAN_CONTEXT = b"wardround plan 1\n"
MAX_SITES = 1024
MAX_STALENESS = 100
MAX_WEIGHT = 1_000_000_000


class BlobRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Some bytes by their digest, and how many there are."""

    digest: Digest
    size: int


Normalization = Literal["as-is", "group", "instance"]


class BuiltinModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="builtin", kw_only=True):
    """A model that comes with Wardround; `hidden` are the widths of an MLP's or CNN's inner layers.

    `dtype` is what it trains and travels in; the hub keeps a float32 copy of one in half precision to step from.
    """

    name: Literal["logistic", "linear", "mlp", "cnn", "cox"]
    hidden: tuple[int, ...] = ()
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"


class CodePackage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="code", kw_only=True):
    """Study code: a zip of Python modules pinned by digest; `factory` is ``module:function`` giving an nn.Module.

    `normalization` puts group or instance normalization in the place of every batch normalization, whose statistics
    mix a site's patients and do not average well over sites.
    """

    package: BlobRef
    factory: str
    normalization: Normalization = "as-is"


class Aggregation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the sites' updates become one; each rule and what it tolerates: `wardround.aggregation.robust`.

    `hostile` is how many sites may send anything at all. `bound` is the longest norm or clipping radius, 0 the
    median of what there is. `reference` is the site that "trust" trusts: a node that the consortium itself runs,
    on records that everybody may see.
    """

    rule: RuleName = "mean"
    hostile: int = 0
    mixing: Mixing = "none"
    bucket_size: int = 2
    bound: float = 0.0
    reference: SiteId = SiteId("")


class Screening(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which updates are set aside before they are aggregated; see `wardround.aggregation.screening`.

    An update is set aside when its norm is above `norm_multiple` times the usual (0: never), or its cosine
    with the others' below `least_cosine` (-1: never). A site to which this happens `suspend_after` times in a row
    is asked no more in this run.
    """

    norm_multiple: float = 10.0
    least_cosine: float = -1.0
    suspend_after: int = 3


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What bounds a site's weight and the run's patience.

    `max_records` caps the claimed n_i of one site. A round closes at `round_timeout_seconds` with the
    quorum it has; without a quorum it waits again, `patience` times in all, and then the run stops.
    A site of the round that the hub has not heard for `absence_seconds` is no longer waited for.
    `worker_seconds` and `worker_memory_bytes` bound one round's training at a site.
    """

    max_records: int = 1_000_000
    round_timeout_seconds: float = 3600.0
    absence_seconds: float = 30.0
    patience: int = 3
    worker_seconds: float = 3600.0
    worker_memory_bytes: int = 8 * 1024**3


class SecureAggregation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The hub sees only sums over at least `min_participants` sites, never one site's update or statistics.

    `roster` names the sites' keys. Each coordinate of an update is clipped to ``[-clip, clip]`` and a site
    counts as at most `max_weight` records. `arrays` names the model's arrays that are trained and sent; empty
    means all. With `site_metrics` each site's own evaluation leaves it in the clear, otherwise only the
    mean over all. Counts below `least_count` are left out of summaries. A cohort waits `stage_seconds` for
    each of its four answers.

    With a `group_size`, training rounds deal the sites into random groups of at least that many. The hub sees each
    group's mean and nothing below, and the aggregation rule works on these, where a hostile site spoils one group.
    """

    roster: Digest
    group_size: int = 0
    clip: float = 8.0
    max_weight: int = 10_000
    arrays: tuple[str, ...] = ()
    site_metrics: bool = False
    least_count: int = 5
    stage_seconds: float = 120.0


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that a study will do. `expires` is in seconds since 1970-01-01 UTC.

    `summaries` are computed once, in the first round, and `analyses` in rounds of their own before training; both only
    under secure aggregation. With analyses, training may have no rounds at all. `appraisal` says what the last
    evaluation shows beside metrics; subgroups only under secure aggregation. With `privacy` all that leaves a site
    is noised. `audits` is how many sites must have audited the model, and found no more than the audit allows, before
    it is released; one that found more stops the release. `enclaves` demands that hub or nodes prove which builds they
    run.
    """

    format: Literal["wardround-plan/1"] = "wardround-plan/1"
    title: str
    purpose: str
    legal_basis: str
    researcher: SiteId
    participants: tuple[SiteId, ...]
    min_participants: int
    data: DataContract
    model: BuiltinModel | CodePackage
    manifest: Manifest
    initial: BlobRef
    training: Training
    aggregation: Aggregation = Aggregation()
    screening: Screening | None = None
    limits: Limits = Limits()
    secure: SecureAggregation | None = None
    summaries: tuple[Summary, ...] = ()
    analyses: tuple[Analysis, ...] = ()
    appraisal: Appraisal | None = None
    privacy: Privacy | None = None
    audits: int = 0
    enclaves: Enclaves | None = None
    expires: int
    seed: int = 0


class SignedPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A plan's canonical bytes with the researcher's Ed25519 signature; unverified until `verify`."""

    plan: bytes
    researcher: SiteId
    signature: bytes


def check(plan: Plan) -> None:
    """Refuse a plan that no run could follow.

    Raises:
        CodecError: Says which field.
    """
    data_contract.check(plan.data)
    for name in (plan.researcher, *plan.participants):
        site_id(name)
    if tuple(sorted(set(plan.participants))) != plan.participants or len(plan.participants) > MAX_SITES:
        raise CodecError(f"participants must be sorted, each once, and at most {MAX_SITES}")
    if not 1 <= plan.min_participants <= len(plan.participants):
        raise CodecError("min_participants must be between 1 and the number of participants")
    if not 0 <= plan.audits <= (len(plan.participants) if plan.training.rounds else 0):
        raise CodecError("audits must be between 0 and the number of participants, and 0 where nothing is trained")
    learning.check(plan.training, plan.manifest, least_rounds=0 if plan.analyses else 1)
    _check_limits(plan.limits)
    _check_aggregation(plan)
    tensors.flat_dtype(plan.manifest)
    if plan.manifest[0].dtype not in tensors.MODEL_DTYPES or not tensors.columns(plan.manifest):
        raise CodecError(f"a model has parameters, and they are {' or '.join(tensors.MODEL_DTYPES)}")
    digest_name(plan.initial.digest)
    tensors.check_size(plan.initial.size, plan.manifest)
    _check_findings(plan)
    if plan.secure is not None:
        _check_secure(plan, plan.secure)
    if plan.privacy is not None:
        private_rules.check(plan, plan.privacy)
    if plan.enclaves is not None:
        attested.check(plan.enclaves)
    if isinstance(plan.model, CodePackage):
        _check_code(plan.model)


def _check_code(model: CodePackage) -> None:
    digest_name(model.package.digest)
    module, colon, function = model.factory.partition(":")
    if not (colon and function.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise CodecError("factory must be module:function")


def study_id(plan: Plan) -> StudyId:
    """The digest of the plan's canonical bytes."""
    return StudyId(canonical.digest(canonical.encode(plan)))


def sign(plan: Plan, key: signing.PrivateKey) -> SignedPlan:
    """Check the plan and sign its canonical bytes as its researcher.

    Raises:
        CodecError: The plan is not one that a run could follow.
    """
    check(plan)
    data = canonical.encode(plan)
    return SignedPlan(plan=data, researcher=plan.researcher, signature=signing.sign(PLAN_CONTEXT + data, key))


def verify(unverified: SignedPlan, key: signing.PublicKey) -> Plan:
    """Check signature, form and content, in that order.

    Raises:
        SignatureError: The bytes are not signed by this researcher's key.
        CodecError: They are no canonical plan, or name another researcher.
    """
    signing.verify(unverified.signature, PLAN_CONTEXT + unverified.plan, key)
    plan = canonical.decode(unverified.plan, Plan)
    if plan.researcher != unverified.researcher:
        raise CodecError("the plan names another researcher than the one who signed it")
    check(plan)
    return plan


def aggregation_rule(plan: Plan, sites: tuple[SiteId, ...]) -> robust.Rule:
    """The plan's rule for the updates of `sites`, in this order."""
    settings = plan.aggregation
    reference = sites.index(settings.reference) if settings.reference in sites else None
    return robust.Rule(
        settings.rule, settings.hostile, settings.mixing, settings.bucket_size, settings.bound, reference
    )


def statistics_manifest(contract: DataContract) -> Manifest:
    """Layout of a standardization vector: per feature a count, a sum and a sum of squares, in float64."""
    columns = data_contract.width(contract)
    return tuple(tensors.TensorSpec(name, (columns,), "float64") for name in ("count", "sum", "sum_of_squares"))


def _check_findings(plan: Plan) -> None:
    summaries.check(plan.summaries, plan.data)
    analysis.check(plan.analyses, plan.data)
    if plan.appraisal is not None:
        appraisal.check(plan.appraisal, plan.data)
        if plan.appraisal.subgroups and plan.secure is None:
            raise CodecError("subgroups need secure aggregation, a [secure] section: a site's own few must not be seen")
    if (plan.summaries or plan.analyses) and plan.secure is None:
        raise CodecError(
            "summaries and analyses need secure aggregation, a [secure] section with a roster: "
            "a site's own counts must not be seen"
        )


def _check_secure(plan: Plan, secure: SecureAggregation) -> None:
    digest_name(secure.roster)
    if plan.min_participants < LEAST_MEMBERS:
        raise CodecError(f"secure aggregation needs min_participants of at least {LEAST_MEMBERS}")
    if not (1e-9 <= secure.clip <= 1e6 and secure.stage_seconds > 0):
        raise CodecError("clip must lie between 1e-9 and 1e6, and stage_seconds be positive")
    if secure.least_count < 1:
        raise CodecError("least_count must be at least 1")
    if not 1 <= secure.max_weight <= MAX_WEIGHT:
        raise CodecError(f"max_weight must lie between 1 and {MAX_WEIGHT:,}")
    names = [spec.name for spec in plan.manifest]
    if len(set(secure.arrays)) != len(secure.arrays) or not set(secure.arrays) <= set(names):
        raise CodecError("arrays must be names of the model's arrays, each once")
    sent = [spec for spec in plan.manifest if not secure.arrays or spec.name in secure.arrays]
    if learning.kept_columns(plan.training.local, tuple(sent)) == [(0, sum(math.prod(spec.shape) for spec in sent))]:
        raise CodecError("every array that is sent stays at the site: nothing would be learned together")


def _check_aggregation(plan: Plan) -> None:
    settings, late = plan.aggregation, plan.training.asynchronous
    size = plan.secure.group_size if plan.secure else 0
    try:
        least = robust.least_participants(aggregation_rule(plan, plan.participants))
        if late is not None:
            staleness.discount(late.staleness, max(late.max_staleness, 0), slope=late.slope, grace=late.grace)
    except ValueError as error:
        raise CodecError(f"aggregation: {error}") from None
    words = f"{settings.rule} with {settings.hostile} hostile sites"
    if size and len(plan.participants) < least * size:
        raise CodecError(f"{words} needs {least} groups of {size}: {least * size} participants")
    if not size and plan.min_participants < least:
        raise CodecError(f"{words} needs min_participants of at least {least}")
    if (settings.rule == "trust") != (settings.reference in plan.participants):
        raise CodecError("reference must be one of the participants with the rule trust, and empty with any other")
    if plan.training.local.algorithm in {"scaffold", "feddyn"} and settings.rule != "mean":
        raise CodecError(f"{plan.training.local.algorithm} needs the rule mean: its corrections add up to zero")
    if plan.screening is not None:
        _check_screening(plan.screening)
    if late is not None:
        _check_late(plan, late)
    if plan.secure is not None:
        _check_secure_rule(plan, size)


def _check_late(plan: Plan, late: Asynchronous) -> None:
    if not plan.min_participants <= late.buffer <= len(plan.participants):
        raise CodecError("buffer must lie between min_participants and the number of participants")
    if not 0 <= late.max_staleness <= MAX_STALENESS:
        raise CodecError(f"max_staleness must lie between 0 and {MAX_STALENESS}")


def _check_secure_rule(plan: Plan, size: int) -> None:
    if plan.screening is not None:
        raise CodecError("under secure aggregation the hub sees no single update, so nothing can be screened")
    if plan.aggregation != Aggregation() and not size:
        raise CodecError("under secure aggregation a rule other than mean needs a group_size")
    if not size:
        return
    if size < plan.min_participants or plan.aggregation.rule == "trust":
        raise CodecError("groups need a group_size of at least min_participants, and a rule other than trust")
    if plan.training.asynchronous is not None:
        raise CodecError("groups are dealt in synchronous rounds; asynchronous training has cohorts of its own")


def _check_screening(screening: Screening) -> None:
    multiple, least_cosine = screening.norm_multiple, screening.least_cosine
    if not (math.isfinite(multiple) and (multiple == 0 or multiple > 1) and -1 <= least_cosine < 1):
        raise CodecError("norm_multiple must be 0 or above 1, and least_cosine at least -1 and below 1")
    if screening.suspend_after < 1:
        raise CodecError("suspend_after must be at least 1")


def _check_limits(limits: Limits) -> None:
    bounds = (limits.max_records, limits.round_timeout_seconds, limits.absence_seconds, limits.patience)
    if min(*bounds, limits.worker_seconds, limits.worker_memory_bytes) <= 0:
        raise CodecError("every limit must be positive")
