"""Local algorithms in whole runs: where sites differ, what a plain mean gets wrong and these get right."""

import msgspec
import numpy as np
import pytest
from tests.unit.services.test_secure_rounds import ROSTER

import wardround
from wardround.errors import CodecError, PeerProtocolError
from wardround.ids import RunId, StudyId
from wardround.protocol import events, run_state
from wardround.protocol.messages import Task
from wardround.protocol.plan import Aggregation, Local, Optimizer, Screening, SecureAggregation, Training
from wardround.secagg.messages import Delivery
from wardround.services import participant

SITES = ("angus", "banff", "crail")
NUMBER = wardround.DataContract(
    columns=(wardround.Column(name="a"), wardround.Column(name="b")),
    label=wardround.Label(name="y", outcome="number"),
    scaling="none",
    min_records=1,
)
RATE = 0.05


def table(site, *, records=60):
    """Records whose columns and outcome have other spreads at each site."""
    place = SITES.index(site)
    generator = np.random.default_rng(place)  # noqa: TID251, seeded
    features = generator.normal(0, (0.4, 2.5, 1.0)[place], (records, 2)) * (1.0, (2.0, 0.3, 1.0)[place])
    labels = features @ np.array([(1.0, -1.0), (-2.0, 3.0), (0.5, 0.5)][place]) + place
    held_out = np.arange(records) % 5 == 0
    report = wardround.LoadReport(read=records, used=records, dropped=0)
    return wardround.StudyTable(features.astype(np.float32), labels.astype(np.float32), held_out, report)


def study(local, *, rounds=40, steps=10, **changes):
    changes = {"training": Training(
        rounds=rounds, epochs=0, steps=steps, batch_size=1000, optimizer=Optimizer(learning_rate=RATE), local=local,
    ), "participants": SITES} | changes  # fmt: skip
    return wardround.declare(
        title="t", purpose="p", legal_basis="l", researcher="ada", min_participants=3,
        data=NUMBER, model=wardround.BuiltinModel(name="linear"), expires=4_000_000_000, **changes,
    )  # fmt: skip


def run(study):
    told = []
    done = wardround.simulate(study, {site: table(site) for site in SITES}, progress=lambda s: told.extend(s.events))
    assert done.status.phase == "completed", done.status.reason
    return done, told


def pooled():
    """The least squares answer over all sites' records."""
    tables = [table(site) for site in SITES]
    features = np.concatenate([one.features[~one.held_out] for one in tables]).astype(np.float64)
    labels = np.concatenate([one.labels[~one.held_out] for one in tables]).astype(np.float64)
    return np.linalg.lstsq(np.column_stack([features, np.ones(len(labels))]), labels, rcond=None)[0]


def off(done):
    found = np.concatenate([np.ravel(done.arrays()[name]) for name in ("weight", "bias")])
    return float(np.abs(found - pooled()).max())


SECURE = SecureAggregation(roster=ROSTER, max_weight=100, clip=16.0)


@pytest.mark.parametrize("secure", [None, SECURE], ids=["plain", "secure"])
@pytest.mark.parametrize(
    "local", [Local(algorithm="scaffold"), Local(algorithm="feddyn", strength=1.0)], ids=lambda one: one.algorithm
)
def test_corrections_reach_the_pooled_answer_that_a_plain_mean_misses(local, secure):
    plain, _ = run(study(Local(), rounds=150))
    corrected, _ = run(study(local, rounds=150, secure=secure))
    assert off(plain) > 0.05
    assert off(corrected) < 0.002


def test_what_did_not_count_is_not_remembered():
    """The own model of a site whose updates are all set aside begins anew in each round."""
    names = (*SITES, "dunbar")
    tables = {site: table(site if site in SITES else "crail") for site in names}
    rule = Screening(norm_multiple=3.0, suspend_after=100)
    told = []
    wardround.simulate(
        study(Local(personal=0.1), rounds=4, screening=rule, participants=names),
        tables,
        attacks={"dunbar": "replacement"},
        progress=lambda status: told.extend(status.events),
    )
    aside = [event["site"] for event in told if event["event"] == "update-set-aside"]
    assert aside == ["dunbar"] * 4
    for event in told:
        if event["event"] == "update-accepted":
            found = event["evaluation"]
            is_fresh = event["number"] == 1 or event["site"] == "dunbar"
            assert (found["metrics"] == found["personal"]) == is_fresh


def test_the_servers_part_counts_only_those_who_are_in_the_mean():
    """One of four is set aside, so three quarters of FedDyn's first step come on top of a plain one."""
    names = (*SITES, "dunbar")
    tables = {site: table(site if site in SITES else "crail") for site in names}

    def moved(local):
        settings = {"rounds": 1, "steps": 1, "participants": names, "screening": Screening(norm_multiple=3.0)}
        done = wardround.simulate(study(local, **settings), tables, attacks={"dunbar": "replacement"})
        return np.concatenate([np.ravel(array) for array in done.arrays().values()])

    np.testing.assert_allclose(moved(Local(algorithm="feddyn", strength=1.0)), 1.75 * moved(Local()), rtol=1e-5)


def test_equal_work_does_not_favour_the_site_with_more_steps():
    """With epochs a site of three times the records takes three times the steps: FedNova takes that back."""

    def biased(local):
        training = Training(
            rounds=200, epochs=4, batch_size=12, optimizer=Optimizer(learning_rate=0.004), local=local,
        )  # fmt: skip
        tables = {site: table(site, records=240 if site == "banff" else 60) for site in SITES}
        done = wardround.simulate(study(local, training=training), tables)
        rows = [(one.features[~one.held_out], one.labels[~one.held_out]) for one in tables.values()]
        features, labels = (np.concatenate(part).astype(np.float64) for part in zip(*rows, strict=True))
        best = np.linalg.lstsq(np.column_stack([features, np.ones(len(labels))]), labels, rcond=None)[0]
        found = np.concatenate([np.ravel(done.arrays()[name]) for name in ("weight", "bias")])
        return np.abs(found - best).max()

    assert biased(Local(normalized_steps=16)) < 0.7 * biased(Local())


@pytest.mark.parametrize("secure", [None, SECURE], ids=["plain", "secure"])
def test_what_stays_at_each_site_is_its_own_and_the_rest_is_shared(secure):
    done, _ = run(study(Local(kept=("bias",)), secure=secure))
    start = study(Local(kept=("bias",)))
    assert not np.any(np.ravel(done.arrays()["bias"])), "the released model has the initial one"
    own = {site: float(model["bias"][0]) for site, model in done.personal.items()}
    assert set(own) == set(SITES)
    assert len(set(own.values())) == 3
    for model in done.personal.values():
        np.testing.assert_array_equal(model["weight"], done.arrays()["weight"])
    assert start.plan.training.local.is_personal


def test_a_personal_model_is_measured_at_every_round_and_the_divergence_after_the_first():
    _, told = run(study(Local(personal=0.1, divergence=True), rounds=3))
    accepted = [event for event in told if event["event"] == "update-accepted"]
    assert all(event["evaluation"]["personal"].keys() == {"mae", "r2", "rmse"} for event in accepted)
    last = [event for event in accepted if event["number"] == 4]
    gains = [event["evaluation"]["metrics"]["rmse"] - event["evaluation"]["personal"]["rmse"] for event in last]
    assert min(gains) > 0, "sites that differ so gain by a model of their own"
    assert all((event["evaluation"]["divergence"] is None) == (event["number"] == 1) for event in accepted)


def test_under_secure_aggregation_nothing_about_one_site_leaves_it():
    _, told = run(study(Local(personal=0.1, divergence=True), rounds=2, secure=SECURE))
    assert all(event["evaluation"] is None for event in told if event["event"] == "update-accepted")
    combined = [event for event in told if event["event"] == "round-combined"]
    assert all(event["evaluation"]["personal"]["rmse"] is not None for event in combined)


def test_corrections_need_the_mean():
    with pytest.raises(CodecError, match="needs the rule mean"):
        study(Local(algorithm="scaffold"), aggregation=Aggregation(rule="median", hostile=1))


def test_the_hub_gives_sites_its_control_and_nobody_else_gets_it():
    _, told = run(study(Local(algorithm="scaffold"), rounds=2))
    states = [event["server_state"] for event in told if event["event"] == "round-combined"]
    assert [len(state) for state in states] == [1, 1, 1]


def test_the_terms_say_whether_sites_work_from_the_rules_state():
    from wardround.ids import RunId
    from wardround.protocol.agenda import terms_of

    plan = study(Local(algorithm="scaffold")).plan
    assert terms_of(RunId("0" * 64 + ".1"), plan, SITES).is_controlled
    plain = msgspec.structs.replace(plan.training, local=Local())
    assert not terms_of(RunId("0" * 64 + ".1"), msgspec.structs.replace(plan, training=plain), SITES).is_controlled


def secure_run_with_a_crash(local, monkeypatch):
    """Four sites; one loses what it holds between its answer and its masked vector of the first round."""
    names = (*SITES, "dunbar")
    perform, lost = participant.Participant.perform, []

    def crashing(self, task):
        step = getattr(task, "step", None)
        if self._site == "dunbar" and isinstance(step, Delivery) and not lost:
            lost.append(task.number)
            self._work.held.clear()
        return perform(self, task)

    monkeypatch.setattr(participant.Participant, "perform", crashing)
    told = []
    done = wardround.simulate(
        study(local, rounds=2, participants=names, secure=SECURE),
        {site: table(site if site in SITES else "crail") for site in names},
        progress=lambda status: told.extend(status.events),
    )
    assert lost
    assert done.status.phase == "completed", done.status.reason
    opened = [set(event["survivors"]) for event in told if event["event"] == "cohort-opened"]
    return opened, told


def test_a_site_that_lost_its_work_of_the_evaluation_keeps_its_own_model(monkeypatch):
    """The crash comes between its answer to the last round and its numbers for the cohort."""
    names = (*SITES, "dunbar")
    tables = {site: table(site if site in SITES else "crail") for site in names}
    asked = study(Local(personal=0.1), rounds=2, participants=names, secure=SECURE)
    calm = wardround.simulate(asked, tables).personal["dunbar"]
    perform = participant.Participant.perform

    def crashing(self, task):
        if self._site == "dunbar" and isinstance(getattr(task, "step", None), Delivery) and task.number == 3:
            self._work.held.clear()
        return perform(self, task)

    monkeypatch.setattr(participant.Participant, "perform", crashing)
    after = wardround.simulate(asked, tables).personal["dunbar"]
    for name, array in calm.items():
        np.testing.assert_array_equal(after[name], array)


def test_a_task_of_another_study_touches_nothing():
    done, told = run(study(Local(personal=0.1), rounds=1))
    assert done.status.phase == "completed"
    task = Task(run=RunId("f" * 64 + ".1"), study=StudyId("e" * 64), number=1, kind="train", base=done.plan.initial)
    with pytest.raises(PeerProtocolError, match="not one of its study"):
        participant.Participant._perform(object.__new__(participant.Participant), task)
    assert told


def test_half_precision_counts_a_step_that_its_bytes_do_not_show():
    names = {"model": wardround.BuiltinModel(name="linear", dtype="bfloat16")}
    slow = Training(
        rounds=4, epochs=0, steps=1, batch_size=1000, optimizer=Optimizer(learning_rate=1e-7),
        local=Local(personal=0.1),
    )  # fmt: skip
    plain = study(Local(personal=0.1))
    made = wardround.declare(
        title="t", purpose="p", legal_basis="l", researcher="ada", participants=SITES, min_participants=3,
        data=NUMBER, expires=4_000_000_000, training=slow, **names,
    )  # fmt: skip
    _, told = run(made)
    state = run_state.run_of(events.decode_run(msgspec.json.encode(one)) for one in told)
    assert state.counted == dict.fromkeys(SITES, 4)
    assert plain.plan.manifest != made.plan.manifest


def test_a_site_that_lost_its_work_makes_it_again_only_where_nothing_hangs_on_earlier_rounds(monkeypatch):
    opened, _ = secure_run_with_a_crash(Local(), monkeypatch)
    assert all("dunbar" in survivors for survivors in opened)


def test_a_site_that_lost_its_work_leaves_the_cohort_and_remembers_nothing_of_the_round(monkeypatch):
    opened, told = secure_run_with_a_crash(Local(algorithm="feddyn", strength=1.0), monkeypatch)
    assert "dunbar" not in opened[0]
    assert all("dunbar" in survivors for survivors in opened[1:])
    terms = run_state.run_of(events.decode_run(msgspec.json.encode(one)) for one in told)
    assert terms.counted == {"angus": 2, "banff": 2, "crail": 2, "dunbar": 2}
    first = next(one for one in told if one["event"] == "round-combined")
    until = [events.decode_run(msgspec.json.encode(one)) for one in told[: told.index(first) + 1]]
    assert run_state.run_of(until).counted == {"angus": 1, "banff": 1, "crail": 1}
