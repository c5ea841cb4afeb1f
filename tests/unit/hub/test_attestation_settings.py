"""A hub's attestation by its settings: what is opened, made and kept, and what the audit log is told."""

import pytest
from tests.unit.hub.test_attesting import ARRAN, RUN, STUDY, Run, World, _pinned

from wardround.audit.entry import AttestationVerdict, KeyChange
from wardround.config import HubConfig
from wardround.crypto import signing
from wardround.errors import ConfigError
from wardround.hub.attesting import open_attesting, recorded
from wardround.services.attestation_events import told

__all__ = ["_pinned"]


class Trail:
    def __init__(self):
        self.entries = []

    def record(self, event, *, actor=None, study=None, run=None):
        self.entries.append((event, actor, study, run))


def test_what_happens_is_written_down_with_its_run_study_and_site():
    trail = Trail()
    record = recorded(trail)
    record(told("attested", 1.0, STUDY, ARRAN))
    record(told("released", 2.0, RUN, ARRAN, key="model-key"))
    record(told("refused", 3.0, "../x", ARRAN, reason="no"))
    record(told("closed", 4.0, RUN))
    assert [type(one[0]) for one in trail.entries] == [AttestationVerdict, KeyChange, AttestationVerdict, KeyChange]
    assert [one[1:] for one in trail.entries] == [
        (ARRAN, STUDY, None), (ARRAN, STUDY, RUN), (ARRAN, None, None), (None, STUDY, RUN)]  # fmt: skip


def config(**more):
    return HubConfig(tls_certificate="tls.crt", **more)


def opened(folder, settings, vault=None, run_of=None):
    return open_attesting(folder, settings, plan_of=None, run_of=run_of, key_of=None, vault=vault)


def test_a_hub_destroys_what_is_left_of_ended_runs_before_it_answers(tmp_path):
    world = World(tmp_path)
    world.keys_of()
    (tmp_path / "keys").mkdir(mode=0o700)
    opened(tmp_path, config(confidential=True), world.vault, lambda run: Run(run, is_ended=True))
    assert world.vault.names(f"key-release/{RUN}/key:") == []


def test_a_hub_whose_settings_say_nothing_has_no_attestation_and_makes_no_keys(tmp_path):
    assert opened(tmp_path, config()) is None
    assert list(tmp_path.iterdir()) == []


def test_a_hub_makes_its_own_keys_and_keeps_them(tmp_path):
    (tmp_path / "keys").mkdir(mode=0o700)
    officer = signing.public_bytes(signing.generate().public_key()).hex()
    settings = config(confidential=True, collateral="collateral.json", collateral_officers=(officer,))
    first = opened(tmp_path, settings)
    names = {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    assert set(names) == {"state.key", "attestation.key"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "keys").iterdir())
    opened(tmp_path, settings)
    assert {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()} == names
    with pytest.raises(ConfigError, match="cannot be read"):
        first._bundle()
    with pytest.raises(ConfigError, match=r"tls\.crt"):
        first.prover()


@pytest.mark.parametrize(
    "wrong", [{"collateral": "c.json"}, {"confidential": True, "collateral_officers": ("ab" * 32,)}]
)
def test_settings_that_are_half_made_are_refused(tmp_path, wrong):
    (tmp_path / "keys").mkdir(mode=0o700)
    with pytest.raises(ConfigError, match="collateral"):
        opened(tmp_path, config(**wrong))
