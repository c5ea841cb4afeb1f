"""A model is released only when a site has audited it with its own records and found no more than is allowed."""

import json
from pathlib import Path

import pytest
from federation import Federation, declare, records, training, until, wardround_command, write_csv

from wardround.errors import PeerProtocolError
from wardround.node import setup as node_setup
from wardround.sdk import site_audit

pytestmark = pytest.mark.processes
SITES = ("arran", "bute")


def test_a_release_waits_for_an_audit_and_stops_at_one_that_failed(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    federation.start_hub()
    researcher = federation.enrol_researcher()
    try:
        for site in SITES:
            write_csv(federation.enrol_site(site), records(site, 160))
            federation.start_node(site)
        study = researcher.submit(declare(SITES, training=training(rounds=2, steps=20), audits=2)).study
        federation.approve(study, SITES)
        run = researcher.status(study).runs[-1]
        until("the run completes", lambda: researcher.hub.run(run).phase == "completed")
        until("the study is evaluated", lambda: researcher.status(study).phase == "evaluated")
        with pytest.raises(PeerProtocolError, match=r"0 sites have audited .* the stewards of arran, bute"):
            researcher.act(study, "release")

        bute = node_setup.open_node(tmp_path / "bute")
        found = site_audit.audit_study(tmp_path / "bute", bute, study, person="steward", most_found=0.001, references=4)
        assert not found.audit.passed
        with pytest.raises(PeerProtocolError, match="audit of bute failed"):
            researcher.act(study, "release")
        model, report = found.audit.document["model"], found.audit.digest
        with pytest.raises(PeerProtocolError, match="another model"):
            bute.approvals.hand_in_audit(run, report, report, passed=True, person="steward")
        bute.approvals.hand_in_audit(run, model, "0" * 64, passed=True, person="steward")
        bute.hub.close()
        bute.vault.close()
        with pytest.raises(PeerProtocolError, match=r"1 sites have audited .* the stewards of arran, with"):
            researcher.act(study, "release")

        audit = ("node", "audit", tmp_path / "arran", study[:12], "--references", "4", "--json")
        done = wardround_command(*audit, "--most-found", "0.6")
        assert done.returncode == 0, done.stdout + done.stderr
        report = json.loads(done.stdout)
        assert (tmp_path / "arran" / "state" / "audits") in Path(report["report"]).parents
        assert report["membership"]["members"] + report["membership"]["nonmembers"] == 160
        status = researcher.status(study)
        assert (status.audits, status.audits_needed) == ({"arran": "passed", "bute": "passed"}, 2)
        assert researcher.act(study, "release").phase == "released"
    finally:
        researcher.hub.close()
        federation.close()
