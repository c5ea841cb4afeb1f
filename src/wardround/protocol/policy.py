"""A site's own policy: what it will never do, whatever a plan says and whoever approved it.

The policy is checked when people review a plan and again before every round, so a policy made
stricter takes effect at once. It can only say no.
"""

import msgspec

from wardround import analysis
from wardround.clinical import cohort_words
from wardround.errors import PolicyError
from wardround.ids import Digest, SiteId
from wardround.privacy import mechanisms
from wardround.protocol import attested, private
from wardround.protocol.plan import CodePackage, Plan

__all__ = ["SitePolicy", "check", "explain", "refusals"]


class SitePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the site allows. An empty list of researchers allows all; an empty list of code digests allows none.

    Sizes are in bytes, times in seconds; `max_records` caps the number of records that the site claims
    as its weight, and `min_participants` the smallest crowd that its update may hide in. With
    `secure_only` no study runs here whose updates or statistics the hub could see one by one, with `private_only`
    none without differential privacy, and only with `hub_noise` one whose noise the hub is trusted to add.
    `patient` is the contract's column that tells this site's patients apart: private studies must name it so.
    Study code whose digest is not listed may run once `code_reviewers` different people have approved it (0: never),
    the package signed by the study's researcher (`code_signed`) and one of `code_signers` (``name:public key``) where
    there are any, and its libraries looked up for known weaknesses at most `code_scan_days` before (0: not asked for).
    """

    researchers: tuple[SiteId, ...] = ()
    code_digests: tuple[Digest, ...] = ()
    code_reviewers: int = 2
    code_signed: bool = True
    code_signers: tuple[str, ...] = ()
    code_scan_days: float = 0.0
    min_participants: int = 2
    secure_only: bool = False
    private_only: bool = False
    hub_noise: bool = False
    patient: str = ""
    min_records: int = 10
    max_records: int = 10_000_000
    max_rounds: int = 10_000
    max_model_bytes: int = 4 * 1024**3
    max_worker_seconds: float = 24 * 3600.0
    max_worker_memory_bytes: int = 64 * 1024**3
    max_day_bytes: int = 64 * 1024**3
    max_run_bytes: int = 512 * 1024**3


def refusals(policy: SitePolicy, plan: Plan, site: SiteId, now: float) -> list[str]:
    """Every reason why this site will not follow this plan; empty when there is none."""
    reasons: list[str] = []
    if site not in plan.participants:
        reasons.append(f"the plan does not name {site}")
    if now >= plan.expires:
        reasons.append("the plan has expired")
    if policy.researchers and plan.researcher not in policy.researchers:
        reasons.append(f"this site's policy does not list the researcher {plan.researcher}")
    if isinstance(plan.model, CodePackage) and plan.model.package.digest not in policy.code_digests:
        reasons.append(f"this site's policy does not allow the study code {plan.model.package.digest[:16]}…")
    if policy.secure_only and (plan.secure is None or plan.secure.site_metrics):
        reasons.append("this site's policy asks for secure aggregation of everything that leaves, and the plan has not")
    reasons += _without_privacy(policy, plan)
    bounds = (
        ("participants", plan.min_participants, ">=", policy.min_participants),
        ("rounds", plan.training.rounds, "<=", policy.max_rounds),
        ("model bytes", plan.initial.size, "<=", policy.max_model_bytes),
        ("worker seconds", plan.limits.worker_seconds, "<=", policy.max_worker_seconds),
        ("worker memory in bytes", plan.limits.worker_memory_bytes, "<=", policy.max_worker_memory_bytes),
    )
    for what, value, relation, bound in bounds:
        if (relation == ">=" and value < bound) or (relation == "<=" and value > bound):
            word = "at least" if relation == ">=" else "at most"
            reasons.append(f"the plan has {value:g} {what}, this site's policy asks for {word} {bound:g}")
    return reasons


def _without_privacy(policy: SitePolicy, plan: Plan) -> list[str]:
    """What this site's policy asks of differential privacy, and the plan has not."""
    reasons: list[str] = []
    if policy.private_only and plan.privacy is None:
        reasons.append("this site's policy asks for differential privacy, and the plan has no [privacy] section")
    if plan.privacy is not None and policy.patient and plan.data.patient != policy.patient:
        reasons.append(
            f"a private study here names its patients by the column {policy.patient!r}, and the plan does not"
        )
    if plan.privacy is not None and plan.privacy.noise == "central" and not policy.hub_noise:
        reasons.append("the plan trusts the hub to add the noise, and this site's policy does not (hub_noise)")
    return reasons


def check(policy: SitePolicy, plan: Plan, site: SiteId, now: float) -> None:
    """Raise unless the policy allows the plan.

    Raises:
        PolicyError: With every reason.
    """
    if reasons := refusals(policy, plan, site, now):
        raise PolicyError("; ".join(reasons))


def explain(plan: Plan) -> list[str]:
    """What the plan will do, in plain words for the person who approves it."""
    data, training = plan.data, plan.training
    columns = ", ".join(
        f"{column.name} ({column.unit if column.kind == 'number' else column.kind})" for column in data.columns
    )
    work = f"{training.epochs} pass(es) over the records" if training.epochs else f"{training.steps} training steps"
    if isinstance(plan.model, CodePackage):
        code = f"It runs study code from the package with digest {plan.model.package.digest} ({plan.model.factory})."
    else:
        code = f"It trains Wardround's built-in model {plan.model.name!r}; no study code is run."
    standardize = data.scaling == "federated"
    sites = f"{len(plan.participants)} sites are asked, at least {plan.min_participants} must take part"
    memory = plan.limits.worker_memory_bytes / 1024**3
    return [
        f"{plan.title}: {plan.purpose} (legal basis: {plan.legal_basis}). The researcher is {plan.researcher}.",
        f"It reads {len(data.columns)} columns: {columns}; and learns {data.label.name!r} ({data.label.outcome}).",
        *cohort_words.words(data),
        *(
            [
                f"One patient may have several records, told apart by the column {data.patient!r}; "  # noqa: ISC004
                "the identifiers do not leave the process that reads the records."
            ]
            if data.patient
            else []
        ),
        *([code] if training.rounds else ["It trains no model."]),
        f"{sites}: {', '.join(plan.participants)}.",
        *([f"In each of {training.rounds} rounds this site does {work}.", *_learning(plan)] if training.rounds else []),
        *(_aggregating(plan) if training.rounds else []),
        *_leaving(plan, standardize=standardize),
        *_private(plan),
        *_audited(plan),
        *attested.words(plan.enclaves),
        f"One round may use {plan.limits.worker_seconds:g} s and {memory:.1f} GiB here. "  # noqa: ISC004
        f"A site with fewer than {data.min_records} records takes no part.",
    ]


def _learning(plan: Plan) -> list[str]:
    """What the site does otherwise than plain local steps, and what it keeps to itself."""
    local, words = plan.training.local, []
    pull = f" with strength {local.strength:g}" if local.strength else ""
    if local.algorithm != "plain":
        words.append(f"Local steps follow {local.algorithm}{pull}.")
    if local.kept:
        words.append(f"The arrays {', '.join(local.kept)} stay at this site and differ from other sites'.")
    if local.personal:
        words.append("A second model of this site's own is trained beside the global one, and never leaves it.")
    if local.finetune_epochs:
        words.append(f"At the end the model is tuned here for {local.finetune_epochs} pass(es); that one stays here.")
    if local.divergence:
        words.append("The angle between this site's update and all sites' leaves it, unless sums alone may leave.")
    if isinstance(plan.model, CodePackage) and plan.model.normalization != "as-is":
        words.append(
            f"Batch normalization in the study's code is replaced by {plan.model.normalization} normalization."
        )
    elif any(spec.name.endswith("running_var") for spec in plan.manifest) and not local.kept:
        words.append("The model has batch normalization: its mean and variance at this site leave it with the update.")
    return words


def _aggregating(plan: Plan) -> list[str]:
    """How the sites' updates become one, and how many hostile sites that withstands."""
    rule, late = plan.aggregation, plan.training.asynchronous
    size = plan.secure.group_size if plan.secure else 0
    mixing = "" if rule.mixing == "none" else f", after {rule.mixing.replace('-', ' ')}"
    withstood = {
        "mean": "One hostile site can move the model anywhere.",
        "norm-bound": "A hostile site moves the model no farther than a usual site does.",
        "trust": f"Any number of hostile sites is withstood, as long as {rule.reference} is honest.",
    }.get(rule.rule, f"Up to {rule.hostile} hostile sites are withstood.")
    words = [f"The updates of a round become one by the rule {rule.rule}{mixing}. {withstood}"]
    if size:
        groups = len(plan.participants) // size
        words.append(
            f"The rule sees means of groups only: sites are dealt at random into up to {groups} groups of at least "
            f"{size}, and a hostile site spoils its group."
        )
    if plan.screening is not None:
        words.append(
            "What is unlike the others is put aside before that, and its site told; after "
            f"{plan.screening.suspend_after} in a row the site is asked no more."
        )
    if late is not None:
        words.append(
            f"Training is asynchronous: {late.buffer} updates make a step, and one that is up to "
            f"{late.max_staleness} steps late counts for less ({late.staleness})."
        )
    return words


def _private(plan: Plan) -> list[str]:
    """What differential privacy hides, how well, and what it does not."""
    privacy = plan.privacy
    if privacy is None:
        return []
    whom, whose = ("any one patient", "patients") if privacy.unit == "patient" else ("this site as a whole", "sites")
    is_whole = privacy.unit == "site"
    charged = "budgets for the site and, for half of the noise, for patients" if is_whole else "budget for patients"
    where = {
        "local": "Noise is added here, before anything leaves.",
        "shared": f"Each site adds a part of the noise; it is whole even where {privacy.colluding} sites tell theirs.",
        "central": "The hub is trusted to add the noise: its operator sees what leaves this site without any.",
    }[privacy.noise]
    assumed = "; ".join(dict.fromkeys(mechanisms.sampling(one) for one in private.composed(plan)))
    return [
        f"Differential privacy hides {whom}: epsilon {private.epsilon(plan):.3g} at delta {privacy.delta:g} for the "  # noqa: ISC004
        f"whole study (neighbours: one of the {whose}, replaced by zeros; {assumed}). {where}",
        f"This is charged to this site's privacy {charged}. How many {whose} there are is not hidden, "  # noqa: ISC004
        "and who is treated at several sites has the sum of their epsilons.",
    ]


def _audited(plan: Plan) -> list[str]:
    """What sites do before the model is released."""
    if not plan.audits:
        return []
    return [
        f"Before the model is released, {plan.audits} or more sites must have attacked it with their own records and "  # noqa: ISC004
        "found no more than is allowed; one that finds more stops the release. Whether a site's audit passed leaves it."
    ]


def _leaving(plan: Plan, *, standardize: bool) -> list[str]:
    """What leaves the site, and who can see it."""
    secure = plan.secure
    sums = "Once, the sum, sum of squares and count of each column leave the site. " if standardize else ""
    if plan.summaries:
        named = ", ".join(sorted({type(summary).__name__.lower() for summary in plan.summaries}))
        sums += f"Once, numbers for {len(plan.summaries)} summaries leave it ({named}). "
    if plan.analyses:
        named = "; ".join(analysis.describe(one, plan.data) for one in plan.analyses)
        sums += f"In up to {analysis.rounds(plan.analyses)} rounds, numbers leave it for {named}. "
    if plan.appraisal is not None:
        groups = ", ".join(plan.appraisal.subgroups)
        sums += (
            f"At the end, counts for curves and intervals leave it{f', also of subgroups ({groups})' * bool(groups)}. "
        )
    counted = "patients" if plan.privacy else "records"
    update = f"a model update of {plan.initial.size:,} bytes, the number of training {counted}"
    if secure is not None and not plan.training.rounds:
        noise = "noise" if plan.privacy else "no noise"
        return [
            f"{sums}No record leaves it.",
            f"All of it is masked: the hub sees only sums over at least {plan.min_participants} sites. "  # noqa: ISC004
            f"The sites' keys are those of roster {secure.roster[:16]}…; the sums have {noise}.",
        ]
    left = f"{sums}In each round {update}, and metrics on held-out records leave the site. No record leaves it."
    if plan.privacy is not None and not plan.privacy.evaluation_noise:
        left = f"{sums}In each round {update} leave the site, and no metric. No record leaves it."
    if secure is None:
        noised = "and has no noise" if plan.privacy is None else "but has noise as said below"
        return [left, f"The update is not masked, {noised}: the hub's operator can see it."]
    metrics = "The metrics are seen per site. " if secure.site_metrics else ""
    return [
        left,
        f"All of it is masked: the hub sees only sums over at least {plan.min_participants} sites. {metrics}"  # noqa: ISC004
        f"The sites' keys are those of roster {secure.roster[:16]}…; at most {secure.max_weight:,} records count.",
        *([] if plan.privacy else ["The sum has no noise: it can still tell something about who is in it."]),
    ]
