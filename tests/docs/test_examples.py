"""The examples run, and say what they claim."""

import importlib.util
import time
from pathlib import Path

import pytest

import wardround

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


def run(name):
    path = next(path for path in EXAMPLES if path.stem == name)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main()


def test_there_are_at_most_six_short_examples():
    assert 1 <= len(EXAMPLES) <= 6
    assert all(path.read_text(encoding="utf-8").count("\n") < 150 for path in EXAMPLES)


def test_simulated_hospitals_learn_to_tell_malignant_from_benign():
    accuracy = run("simulate_breast_cancer")
    assert set(accuracy) == {"north", "south", "east", "west"}
    assert min(accuracy.values()) > 0.9


def test_study_code_learns_what_no_linear_model_can(capsys):
    assert run("own_model") > 0.85
    assert "code_digests" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")  # lifelines' and pandas' own
def test_survival_over_three_files_agrees_with_lifelines_on_all_records_together():
    lifelines = pytest.importorskip("lifelines")
    from lifelines.datasets import load_lung

    ratios = run("cox_lung")
    lung = load_lung()
    lung = lung[lung["inst"].isin((1, 12, 13, 3, 11, 22))].dropna(subset=["ph.ecog"])
    scaled = lung.assign(
        sex=(lung["sex"] == 1) * 1.0,
        age=(lung["age"] - lung["age"].mean()) / lung["age"].std(),
        ecog=(lung["ph.ecog"] - lung["ph.ecog"].mean()) / lung["ph.ecog"].std(),
    )[["sex", "age", "ecog", "time", "status"]]
    fitted = lifelines.CoxPHFitter().fit(scaled, "time", "status")
    for name, ratio in ratios.items():
        # A quarter is held out and the groups' risk sets stay apart, so they agree to about a standard error.
        assert abs(ratio - fitted.params_[name]) < 1.5 * fitted.standard_errors_[name], name


def test_whole_numbers_are_taken_where_a_plan_has_fractions():
    study = wardround.declare(
        title="t",
        purpose="p",
        legal_basis="l",
        researcher="ada",
        participants=["north"],
        min_participants=1,
        data=wardround.DataContract(
            columns=(wardround.Column(name="age", minimum=18, maximum=110),), label=wardround.Label(name="ill")
        ),
        model=wardround.BuiltinModel(name="logistic"),
        training=wardround.Training(rounds=1, optimizer=wardround.Optimizer(learning_rate=1)),
        expires=int(time.time()) + 60,
    )
    assert isinstance(study.plan.data.columns[0].minimum, float)
    assert isinstance(study.plan.training.optimizer.learning_rate, float)


def test_a_researchers_folder_may_be_named_by_a_string_as_the_packages_help_shows():
    assert 'wardround.connect("researcher")' in wardround.__doc__
    with pytest.raises(wardround.WardroundError, match="there is no researcher in nowhere"):
        wardround.connect("nowhere")
