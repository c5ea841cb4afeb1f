"""A study that comes in a file demands nothing that one over the network may not."""

import msgspec
import pytest
from tests.simulation import fakes
from tests.simulation.bench import plan
from tests.unit.enclave.confidential_machine import accepted

from wardround.errors import CodecError, SignatureError
from wardround.hub import importing, setup
from wardround.protocol import plan as plans
from wardround.protocol.attested import Enclaves


@pytest.fixture
def folder(tmp_path):
    setup.init(tmp_path / "hub", listen="127.0.0.1:8443", hosts=["127.0.0.1"], people="none")
    return tmp_path / "hub"


def signed(enclaves):
    made = msgspec.structs.replace(plan(), enclaves=enclaves)
    return plans.sign(made, fakes.key_of(made.researcher))


@pytest.mark.parametrize(
    ("settings", "enclaves", "words"),
    [
        ("", Enclaves(nodes=accepted()), "not set up for attestation"),
        ("", Enclaves(hub=accepted()), "not set up for attestation"),
        ("confidential = true\n", Enclaves(nodes=accepted()), "no collateral"),
        ('collateral = "bundle.json"\n', Enclaves(hub=accepted()), "confidential machine"),
    ],
)
def test_a_plan_that_demands_what_this_hub_cannot_do_is_refused(folder, settings, enclaves, words):
    path = folder / "hub.toml"
    path.write_text(settings + path.read_text())
    with pytest.raises(CodecError, match=words):
        importing.propose(folder, signed(enclaves), [])


def test_one_that_demands_nothing_is_looked_at_further(folder):
    with pytest.raises(SignatureError, match="nobody is enrolled"):
        importing.propose(folder, signed(None), [])
