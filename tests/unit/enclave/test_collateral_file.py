"""The collateral that a machine verifies by: signed by its own officers, valid, never older than what it has used."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.attestation import processors
from tests.unit.enclave.confidential_machine import Clock

from wardround.attestation import collateral
from wardround.crypto import signing
from wardround.enclave.collateral_file import CollateralFile, officers_of
from wardround.errors import AttestationError, ConfigError, SignatureError, WardroundError
from wardround.storage.memory import MemoryVault

OFFICERS = [signing.generate() for _ in range(3)]
PUBLIC = [signing.public_bytes(one.public_key()) for one in OFFICERS]
ONE = PUBLIC[0].hex()


def signed(number=3, officers=(0, 1), **times):
    made = collateral.unsigned(msgspec.structs.replace(processors.bundle(**times), number=number))
    for one in officers:
        made = collateral.sign(made, OFFICERS[one])
    return msgspec.json.encode(made)


class Machine:
    def __init__(self, folder, vault=None):
        self.path, self.clock = folder / "collateral.json", Clock()
        self.vault = vault if vault is not None else MemoryVault()
        self.file = CollateralFile(self.path, PUBLIC, 2, clock=self.clock, vault=self.vault)

    def write(self, data):
        # Another file in its place, as it is replaced in the field.
        part = self.path.with_suffix(".part")
        part.write_bytes(data)
        part.replace(self.path)


def test_a_bundle_that_enough_officers_signed_is_used_and_read_anew_when_it_changes(tmp_path):
    machine = Machine(tmp_path)
    machine.write(signed(3))
    assert machine.file.bundle().number == 3
    assert machine.file.bundle() is machine.file.bundle()
    machine.write(signed(4))
    assert machine.file.bundle().number == 4


def test_too_few_officers_or_other_ones_do_not_make_collateral(tmp_path):
    machine = Machine(tmp_path)
    machine.write(signed(officers=(1,)))
    with pytest.raises(SignatureError):
        machine.file.bundle()
    made = collateral.sign(collateral.sign(collateral.unsigned(processors.bundle()), signing.generate()), OFFICERS[0])
    machine.write(msgspec.json.encode(made))
    with pytest.raises(SignatureError):
        machine.file.bundle()


def test_an_older_bundle_is_refused_after_a_restart_too(tmp_path):
    machine = Machine(tmp_path)
    machine.write(signed(5))
    machine.file.bundle()
    machine.write(signed(4))
    with pytest.raises(AttestationError, match="bundle 4 is older than bundle 5"):
        machine.file.bundle()
    again = Machine(tmp_path, machine.vault)
    with pytest.raises(AttestationError, match="bundle 4 is older than bundle 5"):
        again.file.bundle()
    again.write(signed(5))
    assert again.file.bundle().number == 5


def test_what_has_become_wrong_is_refused_and_the_bundle_before_is_not_used_in_its_place(tmp_path):
    machine = Machine(tmp_path)
    machine.write(signed(3))
    machine.file.bundle()
    machine.write(b"{}")
    for _ in range(2):
        with pytest.raises(ConfigError, match="holds no signed bundle"):
            machine.file.bundle()
    machine.path.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        machine.file.bundle()


def test_a_bundle_ends_while_it_is_in_use(tmp_path):
    machine = Machine(tmp_path)
    machine.write(signed(3))
    machine.file.bundle()
    machine.clock.instant = processors.END
    with pytest.raises(AttestationError, match="not valid at this time"):
        machine.file.bundle()


def test_a_file_that_is_too_large_is_refused_unread(tmp_path):
    machine = Machine(tmp_path)
    machine.write(signed(3) + b" " * (8 * 1024 * 1024))
    with pytest.raises(ConfigError, match="larger than"):
        machine.file.bundle()


@given(data=st.binary(max_size=200), keep=st.integers(0, 3000))
@settings(max_examples=60)
def test_hostile_bytes_are_refused_in_words(tmp_path_factory, data, keep):
    machine = Machine(tmp_path_factory.mktemp("hostile"))
    machine.write(signed(3)[:keep] + data)
    with suppress(WardroundError):
        # What was not changed where it matters is still what the officers signed.
        assert machine.file.bundle() == msgspec.structs.replace(processors.bundle(), number=3)


@pytest.mark.parametrize(
    ("texts", "quorum"),
    [
        ([], 1),
        (["00"], 1),
        (["xy" * 32], 1),
        ([PUBLIC[0].hex()], 2),
        ([PUBLIC[0].hex()] * 2, 2),
        ([PUBLIC[0].hex()], 0),
    ],
)
def test_settings_that_nobody_could_fulfil_are_refused(texts, quorum):
    with pytest.raises(ConfigError, match="collateral_"):
        officers_of(texts, quorum)


def test_officers_are_read_from_the_settings():
    assert officers_of([one.hex() for one in PUBLIC], 3) == tuple(sorted(PUBLIC))
