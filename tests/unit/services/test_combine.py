"""Combining: the same bytes whatever the chunks, the crashes and the replica; and the textbook's numbers."""

import dataclasses
import hashlib
import itertools
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulation import arithmetic, fakes
from tests.simulation.bench import SITES, Bench, Killed

from wardround.codec import tensors
from wardround.errors import LocalProtocolError, NotFoundError, TensorMismatchError
from wardround.protocol.plan import BlobRef
from wardround.services import updates
from wardround.services.combine import check_file, combine
from wardround.services.threads import Threads
from wardround.storage.memory import MemoryBlobs

RULES = ["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi"]
SPECS = [(spec.name, spec.shape, spec.dtype) for spec in fakes.MANIFEST]


def closed(name="fedavg", trained=1, **changes):
    """A bench whose `trained`-th training round waits to be combined."""
    bench = Bench(server={"name": name, "learning_rate": 0.5}, scaling="none", rounds=3, **changes).start()
    for number in range(1, trained + 1):
        for site in SITES:
            bench.contribute(site, data=fakes.trained_update(site, number, b"", b""))
        if number < trained:
            bench.coordinator.combine(bench.run)
    return bench


def textbook(name, trained):
    rule = {"name": name, "learning_rate": 0.5, "momentum": 0.9, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3}
    server = arithmetic.Server(fakes.initial_model(0), SPECS, rule)
    for number in range(1, trained + 1):
        files = [fakes.trained_update(site, number, b"", b"") for site in SITES]
        server.step(files, [fakes.records_of(site) for site in SITES])
    return server


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("trained", [1, 2, 3])
def test_every_rule_gives_the_textbooks_bytes(name, trained):
    bench = closed(name, trained)
    found = combine(bench.state(), bench.plan, bench.blobs, Threads())
    server = textbook(name, trained)
    assert bytes(bench.blobs.read(found.model.digest, 0, found.model.size)) == server.model
    assert [bytes(bench.blobs.read(ref.digest, 0, ref.size)) for ref in found.server_state] == server.state
    assert found.number == trained


@pytest.mark.parametrize("name", ["fedavg", "fedadam"])
@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5])
def test_the_size_of_a_chunk_does_not_matter(name, chunk, monkeypatch):
    bench = closed(name, 2)
    whole = combine(bench.state(), bench.plan, bench.blobs, Threads())
    monkeypatch.setattr(updates, "CHUNK", chunk)
    assert combine(bench.state(), bench.plan, bench.blobs, Threads()) == whole


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=4, max_size=4), min_size=3, max_size=3),
    st.lists(st.integers(1, 1000), min_size=3, max_size=3),
    st.integers(1, 4),
)
def test_any_updates_in_any_chunks_give_the_textbooks_bytes(vectors, records, chunk):
    bench = Bench(scaling="none").start()
    files = [tensors.header(fakes.MANIFEST) + np.array(vector, "<f4").tobytes() for vector in vectors]
    for site, data, count in zip(SITES, files, records, strict=True):
        assert bench.contribute(site, data=data, records=count).outcome == "accepted"
    rule = {"name": "fedavg", "learning_rate": 1.0, "tau": 1e-3}
    model = arithmetic.Server(fakes.initial_model(0), SPECS, rule).step(files, records)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(updates, "CHUNK", chunk)
        found = combine(bench.state(), bench.plan, bench.blobs, Threads())
    assert found.model.digest == hashlib.sha256(model).hexdigest()


@pytest.mark.parametrize("name", RULES)
def test_state_files_survive_a_crash_in_the_middle_of_a_combine(name):
    for fault in ("killed", "killed after"):
        bench = closed(name, 2)
        expected = combine(closed(name, 2).state(), bench.plan, closed(name, 2).blobs, Threads())
        for _ in range(1 + textbook_vectors(name)):
            bench.fail("blobs", fault)
            with pytest.raises(Killed):
                combine(bench.state(), bench.plan, bench.blobs, Threads())
            bench.boot()
        found = combine(bench.state(), bench.plan, bench.blobs, Threads())
        assert found == expected


def textbook_vectors(name):
    return {"fedavg": 0, "fedavgm": 1}.get(name, 2)


def test_what_an_interrupted_combine_left_behind_is_not_used():
    bench = closed("fedadam")
    for part in range(3):
        bench.blobs.upload(f"combine-{bench.run}-{part}").append(b"half of something")
    found = combine(bench.state(), bench.plan, bench.blobs, Threads())
    assert found.model.digest == hashlib.sha256(textbook("fedadam", 1).model).hexdigest()


def test_statistics_are_added_exactly():
    bench = Bench().start()
    files = [bench.answer(site).update_inline for site in SITES]
    for site in SITES:
        bench.contribute(site)
    found = combine(bench.state(), bench.plan, bench.blobs, Threads())
    specs = [(name, (3,), "float64") for name in ("count", "sum", "sum_of_squares")]
    ref = found.standardization
    assert bytes(bench.blobs.read(ref.digest, 0, ref.size)) == arithmetic.statistics(files, specs)
    assert found.model == bench.plan.initial


def test_an_evaluation_changes_nothing():
    bench = Bench(rounds=1).start()
    bench.round()
    bench.round()
    before = bench.state()
    for site in SITES:
        bench.contribute(site)
    found = combine(bench.state(), bench.plan, bench.blobs, Threads())
    assert (found.model, found.standardization, found.server_state) == (
        before.model,
        before.standardization,
        before.server_state,
    )


def test_the_order_in_which_answers_arrive_does_not_matter():
    # In float64 the first two cancel, unless the third comes between them and is lost.
    values = dict(zip(SITES, (2.0**80, -(2.0**80), 1.0), strict=True))
    models = set()
    for order in itertools.permutations(SITES):
        bench = Bench(scaling="none").start()
        for site in order:
            data = tensors.header(fakes.MANIFEST) + np.full(4, values[site], "<f4").tobytes()
            assert bench.contribute(site, data=data, records=5).outcome == "accepted"
        models.add(combine(bench.state(), bench.plan, bench.blobs, Threads()).model)
    assert len(models) == 1


def test_only_contributors_count():
    bench = Bench(scaling="none").start()
    bench.contribute("cadiz")
    bench.contribute("delft", declined="no", data=b"")
    bench.contribute("berlin")
    found = combine(bench.state(), bench.plan, bench.blobs, Threads())
    files = [fakes.trained_update(site, 1, b"", b"") for site in ("berlin", "cadiz")]
    records = [fakes.records_of(site) for site in ("berlin", "cadiz")]
    rule = {"name": "fedavg", "learning_rate": 1.0, "tau": 1e-3}
    model = arithmetic.Server(fakes.initial_model(0), SPECS, rule).step(files, records)
    assert found.model.digest == hashlib.sha256(model).hexdigest()


def test_without_a_round_there_is_nothing_to_combine():
    bench = Bench()
    bench.propose()
    for site in SITES:
        bench.decide(site)
    with pytest.raises(LocalProtocolError):
        combine(dataclasses.replace(bench.state(), round=None), bench.plan, bench.blobs, Threads())


def test_a_missing_update_is_said():
    bench = closed()
    bench.blobs.delete([hashlib.sha256(fakes.trained_update("cadiz", 1, b"", b"")).hexdigest()])
    with pytest.raises(NotFoundError):
        combine(bench.state(), bench.plan, bench.blobs, Threads())


@pytest.mark.parametrize("name", RULES)
def test_a_result_that_is_not_finite_is_never_stored(name):
    bench = Bench(server={"name": name, "learning_rate": 10.0}, scaling="none").start()
    data = fakes.trained_update("berlin", 1, b"", b"")[:-4] + struct.pack("<f", 3e38)
    for site in SITES:
        bench.contribute(site, data=data)
    before = set(bench.blobs.digests())
    with pytest.raises(TensorMismatchError, match="NaN or infinite"):
        combine(bench.state(), bench.plan, bench.blobs, Threads())
    assert set(bench.blobs.digests()) == before


@pytest.mark.parametrize("place", [0, 1, 2, 3])
@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_a_file_is_checked_to_its_last_value(place, chunk, monkeypatch):
    monkeypatch.setattr(updates, "CHUNK", chunk)
    values = np.zeros(4, "<f4")
    blobs, head = MemoryBlobs(), tensors.header(fakes.MANIFEST)
    check_file(blobs, blobs.put(head + values.tobytes()), fakes.MANIFEST)
    values[place] = np.nan
    with pytest.raises(TensorMismatchError):
        check_file(blobs, blobs.put(head + values.tobytes()), fakes.MANIFEST)


def test_a_file_is_not_read_when_its_size_is_wrong():
    with pytest.raises(TensorMismatchError, match="too large"):
        check_file(MemoryBlobs(), BlobRef("0" * 64, 10**15), fakes.MANIFEST)
