"""A site's policy only ever says no, and says every reason."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.simulation import fakes

from wardround.analysis import Glm
from wardround.clinical.appraisal import Appraisal
from wardround.codec.tensors import TensorSpec
from wardround.errors import PolicyError
from wardround.protocol import plan as plans
from wardround.protocol import policy as policies
from wardround.protocol.plan import BlobRef, CodePackage, Local
from wardround.protocol.policy import SitePolicy

NOW = 1000.0
DIGEST = "a" * 64


def plan(**changes):
    made = fakes.make_plan(
        sites=["berlin", "cadiz", "delft"],
        quorum=2,
        rounds=3,
        scaling="federated",
        server={},
        limits={},
        expires=2000.0,
    )
    return msgspec.structs.replace(made, **changes)


def refusals(policy=None, *, site="berlin", now=NOW, **changes):
    return policies.refusals(policy or SitePolicy(), plan(**changes), site, now)


def test_the_default_policy_allows_an_ordinary_plan():
    assert refusals() == []
    policies.check(SitePolicy(), plan(), "berlin", NOW)


def test_the_approver_reads_what_tells_patients_apart():
    assert not any("several records" in line for line in policies.explain(plan()))
    made = plan(data=msgspec.structs.replace(plan().data, patient="mrn"))
    assert (
        "One patient may have several records, told apart by the column 'mrn'; "
        "the identifiers do not leave the process that reads the records."
    ) in policies.explain(made)


def test_a_site_that_the_plan_does_not_name_takes_no_part():
    assert refusals(site="espoo") == ["the plan does not name espoo"]


@pytest.mark.parametrize(("now", "reasons"), [(1999.9, []), (2000.0, ["the plan has expired"])])
def test_an_expired_plan_is_refused(now, reasons):
    assert refusals(now=now) == reasons


def test_a_list_of_researchers_admits_only_these():
    assert refusals(SitePolicy(researchers=("ada",))) == []
    assert refusals(SitePolicy(researchers=("grace",))) == ["this site's policy does not list the researcher ada"]


def test_study_code_must_be_listed_by_digest():
    model = CodePackage(package=BlobRef(DIGEST, 10), factory="m:f")
    assert refusals(SitePolicy(code_digests=(DIGEST,)), model=model) == []
    for policy in (SitePolicy(), SitePolicy(code_digests=("b" * 64,))):
        assert refusals(policy, model=model) == [f"this site's policy does not allow the study code {DIGEST[:16]}…"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("min_participants", 2),
        ("max_rounds", 3),
        ("max_model_bytes", plan().initial.size),
        ("max_worker_seconds", 3600.0),
        ("max_worker_memory_bytes", 8 * 1024**3),
    ],
)
def test_each_bound_allows_its_value_and_refuses_the_next(setting, value):
    stricter = value + 1 if setting.startswith("min") else value - 1
    assert refusals(SitePolicy(**{setting: value})) == []
    assert len(refusals(SitePolicy(**{setting: stricter}))) == 1


def test_every_reason_is_given_at_once():
    policy = SitePolicy(researchers=("grace",), max_rounds=1)
    with pytest.raises(PolicyError) as refused:
        policies.check(policy, plan(), "espoo", 5000.0)
    assert str(refused.value).count(";") == 3


def test_the_explanation_says_what_leaves_the_site():
    words = "\n".join(policies.explain(plan()))
    assert "No record leaves it." in words
    assert "age (a)" in words
    assert "sum of squares" in words
    assert "sum of squares" not in "\n".join(
        policies.explain(plan(data=msgspec.structs.replace(plan().data, scaling="none")))
    )


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 10_000), st.booleans())
def test_a_stricter_policy_never_allows_more(participants, rounds, size, named):
    loose = SitePolicy(min_participants=1)
    strict = SitePolicy(
        min_participants=participants,
        max_rounds=rounds,
        max_model_bytes=size,
        researchers=("ada",) if named else ("grace",),
    )
    assert set(refusals(loose)) <= set(refusals(strict))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "can move the model anywhere"),
        ({"aggregation": plans.Aggregation(rule="median", hostile=1)}, "Up to 1 hostile sites are withstood"),
        ({"aggregation": plans.Aggregation(rule="trust", reference="berlin")}, "as long as berlin is honest"),
        ({"screening": plans.Screening()}, "after 3 in a row the site is asked no more"),
        (
            {"secure": plans.SecureAggregation(roster="ab" * 32, group_size=3)},
            "groups of at least 3, and a hostile site spoils its group",
        ),
    ],
)
def test_an_approver_reads_how_many_hostile_sites_are_withstood(changes, words):
    assert words in "\n".join(policies.explain(plan(**changes)))


def test_an_approver_reads_that_training_is_asynchronous():
    late = plans.Asynchronous(buffer=2, max_staleness=7)
    training = msgspec.structs.replace(plan().training, asynchronous=late)
    words = "\n".join(policies.explain(plan(training=training)))
    assert "2 updates make a step, and one that is up to 7 steps late counts for less" in words


@pytest.mark.parametrize(
    ("local", "words"),
    [
        (Local(algorithm="fedprox", strength=0.5), "Local steps follow fedprox with strength 0.5."),
        (Local(kept=("norm*",)), "The arrays norm* stay at this site"),
        (Local(personal=0.1), "A second model of this site's own"),
        (Local(finetune_epochs=3), "tuned here for 3 pass(es)"),
        (Local(divergence=True), "The angle between this site's update and all sites' leaves it"),
    ],
)
def test_an_approver_reads_what_the_site_does_otherwise(local, words):
    training = msgspec.structs.replace(plan().training, local=local)
    assert words in "\n".join(policies.explain(plan(training=training)))


def test_an_approver_reads_of_batch_normalization_that_nobody_took_care_of():
    norm = (*plan().manifest, TensorSpec("norm.running_var", (2,)))
    said = "The model has batch normalization"
    assert said in "\n".join(policies.explain(plan(manifest=norm)))
    kept = msgspec.structs.replace(plan().training, local=Local(kept=("norm*",)))
    assert said not in "\n".join(policies.explain(plan(manifest=norm, training=kept)))
    code = plans.CodePackage(package=plan().initial, factory="m:f", normalization="group")
    assert "replaced by group normalization" in "\n".join(policies.explain(plan(manifest=norm, model=code)))


def test_an_approver_reads_which_analyses_ask_for_numbers():
    secure = plans.SecureAggregation(roster="ab" * 32)
    asked = (Glm(family="binomial", columns=("age",), iterations=12),)
    words = "\n".join(policies.explain(plan(secure=secure, analyses=asked, appraisal=Appraisal(subgroups=("sex",)))))
    assert "In up to 12 rounds, numbers leave it for binomial glm of " in words
    assert " on age. " in words
    assert "also of subgroups (sex)" in words
    alone = msgspec.structs.replace(plan().training, rounds=0)
    words = "\n".join(policies.explain(plan(secure=secure, analyses=asked, training=alone)))
    assert "a model update" not in words
    assert "It trains no model." in words
    assert "hostile site" not in words
    assert "roster abababab" in words
