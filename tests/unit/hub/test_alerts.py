"""The operator is told of updates that were set aside."""

from types import SimpleNamespace

import structlog
from tests.unit.services.test_robust_rounds import SITES, bench, file, honest, screened

from wardround.hub import app
from wardround.hub.state import Metrics


def test_an_update_that_is_set_aside_is_logged_and_counted_without_its_values():
    on = bench(quorum=4, screening=screened())
    for site in SITES:
        on.contribute(site, data=file(-honest(site) if site == "haarlem" else honest(site)))
    state = SimpleNamespace(coordinator=on.coordinator, studies=on.studies, metrics=Metrics())
    with structlog.testing.capture_logs() as lines:
        app._work(state)
    told = [line for line in lines if line["event"] == "an update was set aside"]
    assert [(line["log_level"], line["site"], line["run"]) for line in told] == [("warning", "haarlem", on.run)]
    assert "points away" in told[0]["reason"]
    assert state.metrics.registry.get_sample_value("wardround_updates_set_aside_total") == 1.0
