"""Private studies, run whole in this process; and what a site pays before it does anything."""

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest

import wardround
from wardround.clinical.summaries import Counts, Moments
from wardround.clinical.table import LoadReport, StudyTable
from wardround.codec import canonical
from wardround.errors import BudgetExceededError, PolicyError
from wardround.ids import Digest, RunId, StudyId
from wardround.privacy import noising
from wardround.protocol import private
from wardround.protocol.messages import Receipt, Task
from wardround.protocol.plan import BlobRef, Privacy, SecureAggregation, Training
from wardround.protocol.policy import SitePolicy
from wardround.sdk.predict import predict
from wardround.services.budgets import Budgets
from wardround.services.participant import Participant
from wardround.services.safeguard import Safeguard, table_digest
from wardround.storage.memory import MemoryVault

SITES = ("angus", "banff", "clyde", "deeside")
SECURE = SecureAggregation(roster="ab" * 32)
KEY = bytes(range(32))
WIDE = 1200


def table(site, width):
    draw = np.random.default_rng(SITES.index(site))  # noqa: TID251, a test's own
    features = draw.uniform(-1, 1, (80, width)).astype(np.float32)
    labels = (features[:, 0] + features[:, 1] > 0).astype(np.float32)
    return StudyTable(features, labels, np.arange(80) % 4 == 0, LoadReport(80, 80, 0))


def declared(privacy=None, width=2, **changes):
    fields = {
        "title": "hidden",
        "purpose": "a test",
        "legal_basis": "numbers",
        "researcher": "ada",
        "participants": SITES,
        "min_participants": 3,
        "data": wardround.DataContract(
            columns=tuple(wardround.Column(name=f"x{place}", minimum=-1, maximum=1) for place in range(width)),
            label=wardround.Label(name="died"),
            scaling="none",
        ),
        "model": wardround.BuiltinModel(name="logistic"),
        "training": Training(rounds=1, epochs=0, steps=1, optimizer=wardround.Optimizer(learning_rate=0.5)),
        "expires": 4_000_000_000,
        "privacy": Privacy(**{"delta": 1e-3, "noise_multiplier": 3.0, "clip": 0.2} | (privacy or {})),
    }
    return wardround.declare(**fields | changes)


def run(study, width=2, key=KEY):
    done = wardround.simulate(study, {site: table(site, width) for site in SITES}, noise_key=key)
    assert done.status.phase == "completed", (done.status.reason, done.declined)
    return done


def flat(done):
    return np.concatenate([np.ravel(done.arrays()[spec.name]) for spec in done.plan.manifest])


@pytest.mark.parametrize(
    ("noise", "secure", "expected"),
    [
        # Over 240 patients in all: each site's noise is the whole, so theirs together is twice as much.
        ("local", None, 0.5 * 3.0 * 0.2 * 2 / 240),
        ("local", SECURE, 0.5 * 3.0 * 0.2 * 2 / 240),
        # Updates are float32, so another patient may round those of all others: of up to a million (`max_records`)
        # records by a unit of 2**-23 each, which the hub's noise covers too.
        ("central", None, 0.5 * 3.0 * 0.2 * (1 + 2**-23 * 1_000_000) / 240),
        # Four took part where three are guaranteed, one of which may tell: each added half of the variance.
        ("shared", SECURE, 0.5 * 3.0 * 0.2 * math.sqrt(4 / 2) / 240),
    ],
)
def test_the_model_has_the_noise_that_the_plan_says(noise, secure, expected):
    # Records of zeros have no gradient for any weight, so whoever is drawn, a weight moves by its noise alone.
    privacy = {"noise": noise} | ({"colluding": 1} if noise == "shared" else {})
    study = declared(privacy, WIDE, secure=secure)
    blank = {site: replace(table(site, WIDE), features=np.zeros((80, WIDE), np.float32)) for site in SITES}
    done = wardround.simulate(study, blank, noise_key=KEY)
    assert done.status.phase == "completed", (done.status.reason, done.declined)
    (weights,) = (array for array in done.arrays().values() if array.size == WIDE)
    # Of 1,200 draws the deviation is known to 2 % (one deviation of it).
    assert weights.std() == pytest.approx(expected, rel=0.07)
    assert abs(weights.mean()) < 4 * expected / math.sqrt(WIDE)


@pytest.mark.parametrize(
    ("noise", "secure"), [("local", None), ("local", SECURE), ("central", None), ("shared", SECURE)]
)
def test_a_site_as_a_whole_can_be_hidden(noise, secure):
    training = Training(rounds=1, epochs=1)
    fields = {"unit": "site", "noise": noise, "noise_multiplier": 0.5}
    loud = flat(run(declared(fields, WIDE, training=training, secure=secure), WIDE))
    quiet = flat(run(declared(fields | {"noise_multiplier": 1e-3}, WIDE, training=training, secure=secure), WIDE))
    # The mean of four updates, each counting once.
    share = {"local": 2 / 4, "central": 1 / 4, "shared": math.sqrt(4 / 3) / 4}[noise]
    assert (loud - quiet).std() == pytest.approx(0.5 * 0.2 * share, rel=0.12)


def test_shared_and_central_noise_learn_what_one_pooled_step_learns():
    pooled = None
    for noise, secure in (("central", None), ("shared", SECURE)):
        found = flat(run(declared({"noise": noise, "noise_multiplier": 1e-3, "clip": 10.0}, secure=secure)))
        inputs = np.concatenate([table(site, 2).features[~table(site, 2).held_out] for site in SITES])
        labels = np.concatenate([table(site, 2).labels[~table(site, 2).held_out] for site in SITES])
        pooled = 0.5 * (np.column_stack([inputs, np.ones(len(inputs))]) * (labels - 0.5)[:, None]).mean(axis=0)
        assert found == pytest.approx(pooled, abs=1e-3)


def test_it_learns_under_privacy():
    training = Training(rounds=5, epochs=0, steps=4, optimizer=wardround.Optimizer(learning_rate=2.0))
    done = run(declared({"noise_multiplier": 8.0, "clip": 0.5, "evaluation_noise": 3.0}, training=training))
    features = np.concatenate([table(site, 2).features for site in SITES])
    labels = np.concatenate([table(site, 2).labels for site in SITES])
    right = (predict(done.plan, done.model, done.standardization, features) >= 0) == (labels > 0.5)
    assert right.mean() > 0.85
    assert private.epsilon(done.plan) < 5


def test_noise_is_never_drawn_again_without_its_key():
    study = declared(width=WIDE)
    again = [flat(run(study, WIDE, key=b"")) for _ in range(2)]
    assert not (again[0] == again[1]).any()
    assert (flat(run(study, WIDE)) == flat(run(study, WIDE))).all()


def test_no_metric_and_no_time_leaves_a_site_without_noise():
    events = run(declared()).status.events
    accepted = [event for event in events if event["event"] == "update-accepted"]
    assert accepted
    for event in accepted:
        assert not any((event["evaluation"] or {"metrics": {}})["metrics"].values())
        assert event["train_seconds"] == 0.0
        assert event["records"] in {0, 60}  # training patients, and none where a round trains nothing


def test_statistics_come_with_noise_and_their_use_is_said():
    study = declared(
        {"statistics_noise": 2.0},
        secure=SECURE,
        summaries=(Moments(columns=("x0",)), Counts(column="died")),
        data=wardround.DataContract(
            columns=(
                wardround.Column(name="x0", minimum=-1, maximum=1),
                wardround.Column(name="x1", minimum=-1, maximum=1),
            ),
            label=wardround.Label(name="died"),
        ),
    )
    done = run(study)
    import json

    moments, counts = json.loads(done.findings["summaries"])
    assert moments["columns"]["x0"]["count"] == pytest.approx(320, abs=80)
    assert abs(moments["columns"]["x0"]["mean"]) < 0.5
    assert sum(counts["counts"].values()) == pytest.approx(320, abs=80)
    assert moments["columns"]["x0"]["count"] != 320 or sum(counts["counts"].values()) != 320


def test_a_site_drops_out_and_the_noise_is_still_whole():
    # Three of four are the least cohort; without `colluding` three parts are the whole.
    plan = declared({"noise": "shared"}, WIDE, secure=SECURE)
    tables = {site: table(site, WIDE) for site in SITES}
    tables["deeside"] = StudyTable(
        tables["deeside"].features[:2], tables["deeside"].labels[:2], np.zeros(2, np.bool_), LoadReport(2, 2, 0)
    )
    few = wardround.simulate(plan, tables, noise_key=KEY)
    assert few.status.phase == "completed"
    assert "deeside" in few.declined
    quiet = wardround.simulate(
        declared({"noise": "shared", "noise_multiplier": 1e-3}, WIDE, secure=SECURE), tables, noise_key=KEY
    )
    assert (flat(few) - flat(quiet)).std() == pytest.approx(0.5 * 3.0 * 0.2 / 180, rel=0.12)


# What a site pays.


class Clock:
    def __init__(self):
        self.time = 1_800_000_000.0

    def now(self):
        return self.time


def opened(epsilon=3.0, delta=1e-3, unit="patient", vault=None):
    budgets = Budgets("records", vault=vault or MemoryVault(), clock=Clock())
    if epsilon:
        budgets.grant(unit, epsilon, delta, person="steward", reason="a test")
    return budgets, Safeguard(KEY, ledger=budgets)


STUDY = StudyId("c" * 64)
RUN = RunId(f"{STUDY}.1")
RECORDS = table_digest(table("angus", 2))


def task(number=1, base="1", kind="train", run=RUN):
    return Task(run=run, study=STUDY, number=number, kind=kind, base=BlobRef(Digest(base * 64), 100))


def plan_of(rounds=4, **privacy):
    return declared(privacy, training=Training(rounds=rounds, epochs=0, steps=1)).plan


def test_a_plan_that_does_not_fit_is_refused_before_records_are_read():
    _, guard = opened(epsilon=0.5)
    with pytest.raises(BudgetExceededError) as refused:
        guard.admit(plan_of(rounds=100, noise_multiplier=1.0), RUN)
    assert "Of epsilon 0.5 at delta 0.001, 0 % is spent" in str(refused.value)
    # The hub is told the class's first line alone: no figure in it.
    assert not any(sign.isdigit() for sign in type(refused.value).__doc__.splitlines()[0])


def test_without_a_grant_nothing_private_runs():
    _, guard = opened(epsilon=0)
    with pytest.raises(PolicyError):
        guard.admit(plan_of(), RUN)


def test_a_plan_without_privacy_is_not_the_ledgers_business():
    _, guard = opened(epsilon=0)
    plan = msgspec.structs.replace(plan_of(), privacy=None)
    guard.admit(plan, RUN)
    assert guard.seed(plan, task(), RECORDS) == b""


def test_the_same_round_is_paid_once_and_any_other_again():
    budgets, guard = opened()
    plan = plan_of(rounds=2)
    guard.admit(plan, RUN)
    first = guard.seed(plan, task(), RECORDS)
    spent = budgets.status("patient").spent_share
    assert guard.seed(plan, task(), RECORDS) == first
    assert budgets.status("patient").spent_share == spent > 0
    # The hub asks the same round with another model: other noise, and the reservation's last use.
    assert guard.seed(plan, task(base="2"), RECORDS) != first
    with pytest.raises(BudgetExceededError):
        guard.seed(plan, task(base="3"), RECORDS)
    with pytest.raises(BudgetExceededError):
        guard.seed(plan, task(), table_digest(table("banff", 2)))
    assert guard.seed(plan, task(), RECORDS) == first


def test_records_that_changed_draw_other_noise():
    _, guard = opened()
    plan = plan_of()
    guard.admit(plan, RUN)
    records = table("angus", 2)
    before = guard.seed(plan, task(), table_digest(records))
    records.features[0, 0] += 1e-3
    assert guard.seed(plan, task(), table_digest(records)) != before
    assert guard.seed(plan, task(number=2), RECORDS) != guard.seed(plan, task(number=2), RECORDS, Digest("f" * 64))
    other = Safeguard(KEY, ledger=None, software="another version")
    assert other.seed(plan, task(), RECORDS) != Safeguard(KEY, ledger=None).seed(plan, task(), RECORDS)
    assert Safeguard(bytes(32), ledger=None).seed(plan, task(), RECORDS) != before


def test_what_a_run_did_not_spend_is_free_when_it_is_over():
    budgets, guard = opened(epsilon=1.0)
    plan = plan_of(rounds=4, noise_multiplier=7.0)
    guard.admit(plan, RUN)
    guard.seed(plan, task(), RECORDS)
    with pytest.raises(BudgetExceededError):
        guard.admit(plan, RunId(f"{STUDY}.2"))
    guard.release(RUN)
    status = budgets.status("patient")
    assert status.reserved_share == pytest.approx(0, abs=1e-9)
    assert 0 < status.spent_share < 1
    with pytest.raises(PolicyError):
        guard.seed(plan, task(number=2), RECORDS)


def test_hiding_a_site_is_charged_to_its_patients_too():
    budgets, guard = opened(epsilon=50.0, unit="site")
    plan = declared({"unit": "site", "noise_multiplier": 4.0}, training=Training(rounds=2)).plan
    with pytest.raises(PolicyError):
        guard.admit(plan, RUN)  # nobody granted anything for patients
    budgets.grant("patient", 50.0, 1e-3, person="steward", reason="a test")
    guard.admit(plan, RUN)
    guard.seed(plan, task(), RECORDS)
    (patients,), (site,) = budgets.status("patient").runs, budgets.status("site").runs
    # Without one patient a clipped update can turn round: twice as far as to zero.
    assert patients.uses[0].mechanism.noise_multiplier == site.uses[0].mechanism.noise_multiplier / 2
    assert patients.uses[0].used == site.uses[0].used == 1


def test_what_has_no_noise_in_it_has_no_seed():
    _, guard = opened()
    plan = plan_of()
    guard.admit(plan, RUN)
    assert guard.seed(plan, task(kind="evaluate"), RECORDS) == b""
    assert guard.mask_seed(plan, task(), Digest("1" * 64), 5) == b""
    shared = declared({"noise": "shared"}, secure=SECURE).plan
    seeds = {
        guard.mask_seed(shared, task(), Digest(base * 64), weight) for base, weight in (("1", 5), ("2", 5), ("1", 6))
    }
    assert len(seeds) == 3


@pytest.mark.parametrize(("patients", "is_fine"), [(999, True), (1000, False), (100_000, False)])
def test_delta_must_be_below_one_over_the_patients(patients, is_fine):
    _, guard = opened(delta=1e-6)
    if is_fine:
        guard.check(plan_of(), patients)
    else:
        with pytest.raises(PolicyError, match="delta"):
            guard.check(plan_of(), patients)
    guard.check(declared({"unit": "site"}, training=Training(rounds=1)).plan, patients)


def test_the_delta_of_the_budget_is_held_to_the_same():
    _, guard = opened(delta=0.3)
    with pytest.raises(PolicyError, match="budget"):
        guard.check(plan_of(), 10)


def test_a_hub_that_asks_for_what_the_plan_has_not_gets_nothing():
    budgets, guard = opened()
    plan = declared({"evaluation_noise": 2.0}, training=Training(rounds=2, epochs=0, steps=1)).plan
    guard.admit(plan, RUN)
    with pytest.raises(PolicyError, match="no such round"):
        guard.seed(plan, task(kind="statistics"), RECORDS)
    with pytest.raises(PolicyError, match="no such round"):
        guard.seed(plan, task(kind="analysis"), RECORDS)
    assert budgets.status("patient").spent_share == 0


class Hub:
    def __init__(self):
        self.told = []

    def contribute(self, contribution):
        self.told.append(contribution)
        return Receipt(contribution.command, "accepted")


@pytest.mark.parametrize(
    ("number", "kind"), [(1, "evaluate"), (3, "train"), (0, "train"), (9, "train"), (1, "analysis")]
)
def test_a_site_does_no_round_of_another_kind_than_the_plans_agenda_has(number, kind):
    hub, plan = Hub(), declared(training=Training(rounds=2, epochs=0, steps=1)).plan

    class Everything:
        def approved_plan(self, _study):
            return plan

    site = Participant(
        "angus", approvals=Everything(), hub=hub, files=None, policy=SitePolicy(), source=None, worker=None,
        safeguard=Safeguard(KEY, ledger=None),
    )  # fmt: skip
    site.perform(task(number=number, kind=kind))
    assert "policy" in hub.told[0].declined


def test_nobody_who_follows_a_run_with_central_noise_sees_what_an_update_was():
    events = run(declared({"noise": "central"})).status.events
    told = [event["update"] for event in events if event.get("update")]
    assert told
    assert all(ref["digest"] == "" for ref in told)
    local = [event["update"] for event in run(declared()).status.events if event.get("update")]
    assert all(len(ref["digest"]) == 64 for ref in local)


def test_the_key_of_a_round_is_not_the_noise_of_another_purpose():
    _, guard = opened()
    plan = plan_of()
    guard.admit(plan, RUN)
    seed = guard.seed(plan, task(), RECORDS)
    assert seed not in {KEY, noising.derive(KEY, "mask", RUN, 1, RECORDS, 1)}
    assert len(seed) == 32
    assert canonical.digest(seed) not in str(seed)
