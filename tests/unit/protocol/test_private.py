import math

import msgspec
import pytest

import wardround
from wardround.analysis import Glm, KaplanMeier, Quantiles
from wardround.clinical.appraisal import Appraisal
from wardround.clinical.summaries import Counts, Moments
from wardround.errors import CodecError
from wardround.privacy import rdp
from wardround.privacy.mechanisms import Gaussian, Laplace, SampledGaussian
from wardround.protocol import plan as plans
from wardround.protocol import policy, private
from wardround.protocol.plan import Aggregation, Privacy, SecureAggregation, Training
from wardround.protocol.secure import encoding, secure_terms

SECURE = SecureAggregation(roster="ab" * 32)
ONE_STEP = Training(rounds=4, epochs=0, steps=1)
BOUNDED = (wardround.Column(name="age", minimum=0, maximum=120), wardround.Column(name="smoker", kind="boolean"))


def private_plan(**changes):
    privacy = {"delta": 1e-3, "noise_multiplier": 2.0} | changes.pop("privacy", {})
    fields = {
        "title": "hidden",
        "purpose": "a test",
        "legal_basis": "numbers",
        "researcher": "ada",
        "participants": ("angus", "banff", "clyde"),
        "min_participants": 3,
        "data": wardround.DataContract(columns=BOUNDED, label=wardround.Label(name="died"), scaling="bounds"),
        "model": wardround.BuiltinModel(name="logistic"),
        "training": Training(rounds=4, epochs=0, steps=5),
        "expires": 4_000_000_000,
        "privacy": Privacy(**privacy),
    }
    return wardround.declare(**fields | changes).plan


def data(**changes):
    fields = {"columns": BOUNDED, "label": wardround.Label(name="died"), "scaling": "bounds"}
    return wardround.DataContract(**fields | changes)


@pytest.mark.parametrize(
    "figures",
    [
        *({"delta": value} for value in (0.0, -1e-3, 0.5, 1.0)),
        *({"noise_multiplier": value} for value in (0.0, -1.0, 1e5)),
        *({"clip": value} for value in (0.0, -1.0, 1e9)),
        *({"sampling_rate": value} for value in (0.0, -0.1, 1.0001, 2.0)),
        *({"clip_quantile": value} for value in (-0.1, 1.0)),
        {"statistics_noise": -1.0},
        {"evaluation_noise": 1e-9},
        {"patient_records": 0},
        {"band": 0},
        {"band": 2},
        {"colluding": -1},
        {"colluding": 1},
    ],
    ids=str,
)
def test_a_figure_that_cannot_be_is_refused(figures):
    with pytest.raises(CodecError, match="privacy"):
        private_plan(privacy=figures)


@pytest.mark.parametrize("name", ["delta", "noise_multiplier", "clip", "sampling_rate", "clip_quantile"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_figure_that_is_no_number_is_refused(name, value):
    with pytest.raises(CodecError):
        private_plan(privacy={name: value})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": Training(rounds=4, epochs=1)}, "steps instead of epochs"),
        ({"data": data(scaling="federated")}, "statistics_noise"),
        ({"data": data(columns=(wardround.Column(name="age"),))}, "minimum and a maximum"),
        ({"appraisal": Appraisal()}, "appraisal"),
        ({"training": Training(rounds=4, epochs=0, steps=5, local=wardround.Local(personal=0.1))}, "personal"),
        ({"training": Training(rounds=4, epochs=0, steps=5, local=wardround.Local(finetune_epochs=1))}, "personal"),
        ({"model": wardround.BuiltinModel(name="logistic", dtype="float16")}, "float32"),
        ({"privacy": {"statistics_noise": 1.0}}, "has statistics"),
        ({"privacy": {"distribution": "laplace"}}, "laplace"),
        ({"privacy": {"unit": "site", "sampling_rate": 0.5}}, "nothing is sampled"),
        ({"privacy": {"unit": "site", "evaluation_noise": 1.0}}, "unit patient"),
        ({"privacy": {"noise": "shared"}}, "secure aggregation"),
        ({"privacy": {"noise": "central"}, "secure": SECURE}, "secure aggregation"),
        ({"privacy": {"noise": "central"}}, "steps = 1"),
        ({"privacy": {"noise": "central"}, "training": ONE_STEP, "screening": wardround.Screening()}, "screening"),
        *(
            (
                {
                    "privacy": {"noise": "central"},
                    "training": msgspec.structs.replace(ONE_STEP, optimizer=wardround.Optimizer(learning_rate=rate)),
                },
                "learning_rate",
            )
            for rate in (1e-43, 1e39)
        ),
        ({"data": data(columns=(wardround.Column(name="age", minimum=0, maximum=1, missing="refuse"),))}, "refusal"),
        ({"privacy": {"noise": "shared", "colluding": 3}, "secure": SECURE, "training": ONE_STEP}, "add noise"),
        ({"privacy": {"noise": "central", "clip_quantile": 0.5}, "training": ONE_STEP}, "clip_quantile"),
        (
            {
                "privacy": {"noise": "central"},
                "training": ONE_STEP,
                "aggregation": Aggregation(rule="median", hostile=1),
            },
            "no other rule",
        ),
        (
            {
                "privacy": {"noise": "central"},
                "training": msgspec.structs.replace(ONE_STEP, optimizer=wardround.Optimizer(momentum=0.9)),
            },
            "plain sgd",
        ),
        (
            {
                "secure": SECURE,
                "privacy": {"statistics_noise": 1.0},
                "analyses": (Glm(family="binomial", columns=("age",)),),
            },
            "quantiles",
        ),
    ],
)
def test_what_would_leave_something_without_noise_is_refused(changes, words):
    with pytest.raises(CodecError, match=words):
        private_plan(**changes)


def test_a_survival_label_has_no_gradient_of_one_patient():
    label = wardround.Label(name="months", outcome="survival", event="died")
    with pytest.raises(CodecError, match="mixes patients"):
        private_plan(data=data(label=label), model=wardround.BuiltinModel(name="cox"))


def test_training_is_a_sampled_gaussian_a_step():
    plan = private_plan(privacy={"sampling_rate": 0.1})
    once = SampledGaussian(noise_multiplier=2.0, sampling_rate=0.1, steps=5)
    assert private.uses(plan) == {"train": (once, 4)}
    assert private.composed(plan) == [msgspec.structs.replace(once, steps=20)]
    assert private.epsilon(plan) == rdp.epsilon(rdp.cost(private.composed(plan)[0]), 1e-3)


def test_passes_count_turns_and_the_band_raises_what_one_turn_costs():
    alone = private_plan(privacy={"sampling": "passes", "sampling_rate": 0.5})
    assert private.uses(alone)["train"] == (Gaussian(noise_multiplier=2.0, steps=3), 4)  # 5 steps of 2 batches
    banded = private_plan(privacy={"sampling": "passes", "sampling_rate": 0.5, "band": 2})
    assert private.uses(banded)["train"][0].noise_multiplier == pytest.approx(2.0 / math.sqrt(1.25))
    with pytest.raises(CodecError, match="band"):
        private_plan(privacy={"sampling": "passes", "sampling_rate": 0.5, "band": 3})


def test_every_kind_of_round_is_counted():
    plan = private_plan(
        secure=SECURE,
        privacy={"statistics_noise": 3.0, "evaluation_noise": 4.0, "distribution": "gaussian"},
        summaries=(Moments(columns=("age",)), Counts(column="smoker")),
        analyses=(Quantiles(columns=("age",), rounds=2),),
    )
    assert private.uses(plan) == {
        "statistics": (Gaussian(noise_multiplier=3.0), 1),
        "analysis": (Gaussian(noise_multiplier=3.0), 2),
        "train": (Gaussian(noise_multiplier=2.0, steps=5), 4),
        "evaluate": (Gaussian(noise_multiplier=4.0), 1),
    }


def test_laplace_is_counted_as_such():
    label = wardround.Label(name="months", outcome="survival", event="died")
    plan = private_plan(
        data=data(label=label),
        model=wardround.BuiltinModel(name="cox"),
        secure=SECURE,
        training=Training(rounds=0),
        privacy={"statistics_noise": 3.0, "distribution": "laplace"},
        analyses=(KaplanMeier(edges=(12.0, 24.0)),),
    )
    assert private.uses(plan) == {"analysis": (Laplace(scale=3.0), 1)}
    sites = private_plan(privacy={"unit": "site", "distribution": "laplace"}, training=Training(rounds=4))
    assert private.uses(sites) == {"train": (Laplace(scale=2.0), 4)}


def test_nothing_is_counted_without_privacy():
    plan = msgspec.structs.replace(private_plan(), privacy=None)
    assert private.uses(plan) == {}
    assert private.epsilon(plan) == math.inf


def test_learning_the_clipping_norm_costs_no_more_than_the_plan_says():
    privacy = private_plan(privacy={"clip_quantile": 0.5}).privacy
    gradient, count = private.gradient_noise(privacy), 2 * private.clipped_share_noise(privacy)
    assert gradient**-2 + count**-2 == pytest.approx(privacy.noise_multiplier**-2)


def shared(**privacy):
    return private_plan(secure=SECURE, training=ONE_STEP, privacy={"noise": "shared", **privacy})


def test_the_noise_of_the_least_honest_cohort_is_the_whole():
    plan = shared(sampling_rate=0.5, colluding=1)
    terms = secure_terms(plan)
    per_site, rule = terms.deviation, encoding(terms)
    # A patient moves the weighted sum by learning rate * clip / rate, in integers of limit / (clip * max_weight).
    moved = private.sensitivity(plan) * rule.scale / rule.max_weight
    assert math.sqrt(2) * per_site >= 2.0 * moved
    assert math.sqrt(2) * per_site == pytest.approx(2.0 * moved, rel=0.01)
    assert private.sensitivity(plan) == pytest.approx(0.1 * 1.0 / 0.5, rel=2e-3)
    assert private.sensitivity(plan) >= 0.1 * 1.0 / 0.5 * (1 + 2**-23 * SECURE.max_weight)


@pytest.mark.parametrize("noise", [0.01, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("unit", ["site", "patient"])
@pytest.mark.parametrize("max_weight", [1, 10_000])
def test_updates_and_noise_of_all_sites_fit_into_the_ring(noise, unit, max_weight):
    four = private_plan(
        participants=("angus", "banff", "clyde", "deeside"),
        secure=msgspec.structs.replace(SECURE, max_weight=max_weight),
        training=ONE_STEP,
        privacy={"noise": "shared", "noise_multiplier": noise, "unit": unit},
    )
    terms = secure_terms(four)
    assert 4 * encoding(terms).limit + 12 * math.sqrt(4) * terms.deviation < 2**31


def test_the_hub_cannot_say_how_much_noise_there_is():
    terms = secure_terms(shared())
    assert terms == secure_terms(shared())
    assert terms.deviation != secure_terms(shared(noise_multiplier=1.0)).deviation


def test_a_people_readable_plan_says_what_is_hidden_and_what_is_not():
    words = " ".join(policy.explain(private_plan(privacy={"sampling_rate": 0.1})))
    assert f"epsilon {private.epsilon(private_plan(privacy={'sampling_rate': 0.1})):.3g} at delta 0.001" in words
    assert "own secret coin of 0.1" in words
    assert "replaced by zeros" in words
    assert "sum of their epsilons" in words
    assert "no noise" not in words
    assert "no noise" in " ".join(policy.explain(msgspec.structs.replace(private_plan(), privacy=None)))


def test_a_site_can_insist_on_privacy_and_not_on_the_hub():
    strict = policy.SitePolicy(private_only=True)
    bare = msgspec.structs.replace(private_plan(), privacy=None)
    assert any("differential privacy" in reason for reason in policy.refusals(strict, bare, "angus", 0.0))
    assert not policy.refusals(strict, private_plan(), "angus", 0.0)
    central = private_plan(privacy={"noise": "central"}, training=ONE_STEP)
    assert any("trusts the hub" in reason for reason in policy.refusals(policy.SitePolicy(), central, "angus", 0.0))
    assert not policy.refusals(policy.SitePolicy(hub_noise=True), central, "angus", 0.0)


def test_a_site_says_which_column_is_a_patient():
    mrn = policy.SitePolicy(patient="mrn")
    visits = private_plan(data=data(patient="visit"))
    assert any("'mrn'" in reason for reason in policy.refusals(mrn, visits, "angus", 0.0))
    assert not policy.refusals(mrn, private_plan(data=data(patient="mrn")), "angus", 0.0)


def test_a_private_plan_survives_being_signed():
    from wardround.crypto import signing

    key = signing.generate()
    plan = private_plan(privacy={"sampling_rate": 0.1})
    assert plans.verify(plans.sign(plan, key), key.public_key()) == plan
