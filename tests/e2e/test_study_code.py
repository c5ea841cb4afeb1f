"""Study code from a researcher's folder to a trained model: packed, reviewed by two people, contained; and carried."""

import json
from pathlib import Path

import pytest
from federation import Federation, Followed, declare, records, training, wardround_command, write_csv

from wardround.errors import SandboxError
from wardround.sandbox.bubblewrap import Bubblewrap
from wardround.sandbox.settings import SandboxSettings

pytestmark = pytest.mark.processes
SITES = ("islay", "jura")
CODE = """from torch import nn


def make(width, outputs):
    return nn.Linear(width, outputs)
"""


def contained() -> None:
    try:
        Bubblewrap(SandboxSettings())
    except SandboxError as error:
        pytest.skip(str(error))


def done(*arguments: str | Path) -> dict:
    result = wardround_command(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def federation(tmp_path):
    world = Federation(tmp_path)
    world.start_hub()
    yield world
    world.close()


@pytest.fixture
def researcher(federation):
    found = federation.enrol_researcher()
    yield found
    found.hub.close()


def packed(tmp_path: Path, version: str = "1.0.0", source: str = CODE) -> Path:
    folder, target = tmp_path / f"code-{version}", tmp_path / f"net-{version}.zip"
    folder.mkdir()
    (folder / "net.py").write_text(source)
    arguments = ("--name", "net", "--version", version, "--factory", "net:make", "--to", target)
    done("package", "build", folder, *arguments, "--folder", tmp_path / "ada")
    return target


def submitted(researcher, package: Path, title: str) -> str:
    study = declare(SITES, title=title, model=package, factory="net:make", training=training(rounds=2, steps=10))
    return researcher.submit(study).study


def test_code_that_two_people_allowed_trains_in_the_sandbox(tmp_path, federation, researcher):
    contained()
    for site in SITES:
        write_csv(federation.enrol_site(site), records(site))
    study = submitted(researcher, packed(tmp_path), "Own code")
    place = tmp_path / "islay"
    refused = wardround_command("node", "approve", place, study, "--yes")
    assert refused.returncode == 3
    assert "does not allow the study code" in refused.stderr
    shown = done("package", "review", study, "--node", place)
    assert shown["signers"] == ["ada"]
    assert "+    return nn.Linear(width, outputs)" in shown["diff"]
    assert shown["weaknesses"] is None
    for site in SITES:
        first = done("package", "approve", study, "--node", tmp_path / site, "--person", "bea")
        assert first["missing"] == 1
        again = done("package", "approve", study, "--node", tmp_path / site, "--person", "Bea")
        assert again["missing"] == 1
        author = wardround_command("package", "approve", study, "--node", tmp_path / site, "--person", "ada")
        assert author.returncode == 3
        assert done("package", "approve", study, "--node", tmp_path / site, "--person", "carl")["missing"] == 0
        done("node", "approve", tmp_path / site, study, "--yes")
        federation.start_node(site)
    run = Followed(researcher, researcher.status(study).runs[-1])
    assert run.completed()
    # The next version is shown beside what was allowed last.
    later = submitted(researcher, packed(tmp_path, "1.1.0", f"import socket\n{CODE}"), "Own code, later")
    beside = done("package", "review", later, "--node", place)
    assert "+import socket" in beside["diff"]
    assert not any("nn.Linear" in line and line.startswith("+") for line in beside["diff"])
    assert {"network"} <= {found["kind"] for found in beside["findings"]}


def test_where_nothing_contains_it_code_is_not_run_and_built_in_models_are(tmp_path, federation, researcher):
    for site in SITES:
        folder = federation.enrol_site(site)
        write_csv(folder, records(site))
        settings = folder / "node.toml"
        settings.write_text(settings.read_text().replace("[sandbox]", '[sandbox]\nrunner = "none"'))
    study = submitted(researcher, packed(tmp_path), "Nowhere to run")
    for site in SITES:
        for person in ("bea", "carl"):
            done("package", "approve", study, "--node", tmp_path / site, "--person", person)
        done("node", "approve", tmp_path / site, study, "--yes")
        federation.start_node(site)
    run = Followed(researcher, researcher.status(study).runs[-1])
    declined = run.until("site-declined")
    assert "policy/sandbox" in declined["reason"]
    plain = researcher.submit(declare(SITES, title="Built in")).study
    federation.approve(plain, SITES)
    assert Followed(researcher, researcher.status(plain).runs[-1]).completed()


def test_a_study_is_carried_as_one_file_and_checked_on_the_other_side(tmp_path, federation, researcher):
    study = submitted(researcher, packed(tmp_path), "Carried")
    bundle, authority = tmp_path / "study.bundle", tmp_path / "ada" / "authority.crt"
    done("study", "export", study, "--to", bundle, "--folder", tmp_path / "ada")
    found = done("package", "import", bundle, "--authority", authority, "--to", tmp_path / "carried")
    assert found["index"]["study"] == study
    assert any("runs study code" in words for words in found["words"])
    assert {path.name for path in (tmp_path / "carried").iterdir()} == {
        "plan.msgpack",
        "plan.json",
        "initial.safetensors",
        "package.zip",
    }
    # At a hub of the federation that has never heard of it, and does not run.
    federation.hub.stop()
    (federation.hub_folder / "state" / "hub.sqlite").rename(tmp_path / "before.sqlite")
    refused = wardround_command("hub", "import", federation.hub_folder, bundle)
    assert refused.returncode == 1
    assert "nobody is enrolled" in refused.stderr
    for path in (federation.hub_folder / "state").glob("hub.sqlite*"):
        path.unlink()
    (tmp_path / "before.sqlite").rename(federation.hub_folder / "state" / "hub.sqlite")
    taken = done("hub", "import", federation.hub_folder, bundle)
    assert (taken["study"], taken["phase"]) == (study, "proposed")
    federation.start_hub()
    data = bytearray(bundle.read_bytes())
    data[-1] ^= 1
    (tmp_path / "altered").write_bytes(data)
    other = Federation(tmp_path / "elsewhere")
    for file, trusted in ((tmp_path / "altered", authority), (bundle, other.hub_folder / "authority.crt")):
        refused = wardround_command("package", "import", file, "--authority", trusted, "--to", tmp_path / "not")
        assert refused.returncode == 1
        assert not (tmp_path / "not").exists()
