"""From two officers' keys to a verified secure run, by commands alone."""

import json
import time
from pathlib import Path

import pytest
from federation import Federation, records, until, wardround_command, write_csv

pytestmark = pytest.mark.processes
SITES = ("angus", "banff", "clyde")
STUDY = """
title = "Lactate and death"
purpose = "a test"
legal_basis = "synthetic numbers"
participants = ["angus", "banff", "clyde"]
min_participants = 3
expires = {expires}
summaries = [{{ type = "counts", column = "died" }}]
analyses = [{{ type = "glm", family = "binomial", columns = ["age", "lactate"] }}]

[data]
columns = [{{ name = "age", unit = "a" }}, {{ name = "lactate", unit = "mmol/L" }}]
label = {{ name = "died" }}

[model]
name = "logistic"

[training]
rounds = 2

[training.local]
personal = 0.1

[appraisal]
resamples = 20

[secure]
roster = "{roster}"
"""


def done(*arguments: str | Path) -> dict:
    """What a command prints with ``--json``."""
    result = wardround_command(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_secure_study_by_commands_alone(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    federation.start_hub()
    researcher = federation.enrol_researcher()
    try:
        officers = [done("officer", "init", tmp_path / name)["officer"] for name in ("olga", "otto")]
        assert wardround_command("officer", "init", tmp_path / "olga").returncode == 2
        fingerprints = {}
        for site in SITES:
            folder = federation.enrol_site(site)
            write_csv(folder, records(site))
            settings = folder / "node.toml"
            text = settings.read_text().replace("officers = []", f"officers = {json.dumps(officers)}")
            settings.write_text(text.replace("officer_quorum = 1", "officer_quorum = 2"))
            fingerprints[site] = done("node", "card", folder)["fingerprint"]
            federation.start_node(site)
        file, folder = tmp_path / "roster.json", ("--folder", tmp_path / "ada")
        roster = done("roster", "draft", file, "--consortium", "Scotland", *folder)["roster"]
        shown = wardround_command("roster", "show", file).stdout
        assert all(f"{site:20} {fingerprint}" in shown for site, fingerprint in fingerprints.items())
        assert wardround_command("roster", "publish", file, *folder).returncode != 0  # nobody has signed
        for count, name in enumerate(("olga", "otto"), 1):
            assert done("officer", "sign", tmp_path / name, file, "--yes") == {"roster": roster, "signatures": count}
        assert done("roster", "publish", file, *folder) == {"roster": roster}
        missing = wardround_command("roster", "draft", file, "--consortium", "x", "--site", "nobody", *folder)
        assert "no card has been handed in by nobody" in missing.stderr

        study = tmp_path / "study.toml"
        study.write_text(STUDY.format(expires=int(time.time()) + 3600, roster=roster))
        words = wardround_command("study", "check", study).stdout
        assert "the hub sees only sums over at least 3 sites" in words
        submitted = done("study", "submit", study, *folder)["study"]
        for site in SITES:
            done("node", "approve", tmp_path / site, submitted, "--yes")
        run = researcher.status(submitted).runs[-1]
        until("the run completes", lambda: researcher.hub.run(run).phase == "completed")

        for site in SITES:
            checked = done("node", "verify", tmp_path / site, run)
            numbers = [one["number"] for one in checked]
            assert (numbers[:3], numbers[-3:]) == ([1, 2, 3], [27, 28, 29]), "rounds that were not needed are skipped"
            assert all("this site's vector is among them" in one["finding"] and one["holds"] for one in checked)
        done("study", "fetch", submitted, "--to", tmp_path / "result", *folder)
        summary = json.loads((tmp_path / "result" / "summaries.json").read_text())[0]
        assert sum(summary["counts"].values()) == 3 * 120
        report = json.loads((tmp_path / "result" / "report.json").read_text())
        assert report["sites"] == {}
        assert report["analyses"][0]["status"] == "converged"
        assert [term["name"] for term in report["analyses"][0]["terms"]] == ["intercept", "age", "lactate"]
        assert report["appraisal"]["records"] == 3 * 30
        assert report["pooled"]["personal"]["auc"] is not None
        assert "95 % interval" in (tmp_path / "result" / "report.html").read_text()
    finally:
        researcher.hub.close()
        federation.close()
