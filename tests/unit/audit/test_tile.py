"""Tiles as tlog-tiles says: names, widths, bundles; and the edge that makes them."""

import hashlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.audit.test_merkle import LEAVES, mth

from wardround.audit import merkle, tile
from wardround.audit.tree_edge import TreeEdge
from wardround.errors import AuditError, CodecError


def test_names_are_those_of_the_specification():
    assert tile.tile_path(0, 1234067, 256) == "tile/0/x001/x234/067"
    assert tile.tile_path(1, 0, 17) == "tile/1/000.p/17"
    assert tile.tile_path(63, 999, 256) == "tile/63/999"
    assert tile.bundle_path(1000, 255) == "tile/entries/x001/000.p/255"


@given(st.integers(0, 63), st.integers(0, 10**15), st.integers(1, 256))
def test_every_name_is_known_as_one(level, index, width):
    assert tile.is_path(tile.tile_path(level, index, width))
    assert tile.is_path(tile.bundle_path(index, width))


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile",
        "tile/0/000/",
        "tile/64/000",
        "tile/00/000",
        "tile/0/../../etc",
        "tile/0/000.p/256",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/0000",
        "tile/0/x001/x234/067/..",
        "tile/0/000\n",
        "/tile/0/000",
        "tile/entries/000.p/",
        "tile/0/٠٠٠",
        "../tile/0/000",
    ],
)
def test_nothing_else_is_a_name(path):
    assert not tile.is_path(path)


def test_a_log_of_seventy_thousand_has_the_tiles_of_the_specifications_example():
    names = list(tile.paths(70_000))
    assert sum(n.startswith("tile/0/") and ".p" not in n for n in names) == 273
    assert {n for n in names if ".p/" in n} == {
        "tile/0/273.p/112",
        "tile/1/001.p/17",
        "tile/2/000.p/1",
        "tile/entries/273.p/112",
    }
    assert sum(n.startswith("tile/1/") and ".p" not in n for n in names) == 1
    assert list(tile.paths(256)) == ["tile/entries/000", "tile/0/000", "tile/1/000.p/1"]
    assert list(tile.paths(0)) == []


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=20))
def test_a_bundle_comes_back_and_is_length_then_bytes(entries):
    data = tile.encode_bundle(entries)
    assert data == b"".join(len(e).to_bytes(2, "big") + e for e in entries)
    assert tile.decode_bundle(data, len(entries)) == entries
    for bad, width in ((data + b"\0", len(entries)), (data[:-1], len(entries)), (data, len(entries) + 1)):
        with pytest.raises(CodecError):
            tile.decode_bundle(bad, width)


@given(st.binary(max_size=600), st.integers(0, 256))
def test_hostile_bundles_give_our_error_only(data, width):
    with suppress(CodecError):
        assert tile.encode_bundle(tile.decode_bundle(data, width)) == data


def test_an_entry_that_two_bytes_cannot_count_is_refused():
    assert tile.decode_bundle(tile.encode_bundle([bytes(65_535)]), 1) == [bytes(65_535)]
    with pytest.raises(CodecError):
        tile.encode_bundle([bytes(65_536)])


@pytest.mark.parametrize("steps", [[1] * 12, [255, 1, 1], [256], [300, 212], [511, 2], [5, 1000, 3], [256] * 3])
def test_the_edge_gives_the_files_of_the_specification_whatever_the_steps(steps):
    edge, held, entries = TreeEdge(), {}, []
    for step in steps:
        new = [f"entry {len(entries) + i}".encode() for i in range(step)]
        edge.add(new)
        entries += new
        plan = edge.plan()
        assert plan.root == edge.root() == mth(entries)
        held.update(plan.files)
        edge.settle(plan)
        assert TreeEdge.load(held.get, len(entries)).root() == mth(entries)
    leaves = [hashlib.sha256(b"\x00" + entry).digest() for entry in entries]
    for path in tile.paths(len(entries)):
        width = tile.width_at(0, int(path.split("/")[2].partition(".")[0]), len(entries))
        index = int(path.split("/")[2].partition(".")[0]) * 256
        if path.startswith("tile/entries"):
            assert tile.decode_bundle(held[path], width) == entries[index : index + width]
        elif path.startswith("tile/0/"):
            assert held[path] == b"".join(leaves[index : index + width])
        else:
            assert held[path] == b"".join(mth(entries[i : i + 256]) for i in range(0, len(entries) - 255, 256))
    reader = tile.subtree_reader(held.get, len(entries))
    for index in (0, len(entries) // 2, len(entries) - 1):
        proof = merkle.inclusion_proof(index, len(entries), reader)
        merkle.check_inclusion(leaves[index], index, len(entries), proof, mth(entries))


def test_a_plan_that_was_not_carried_out_is_the_same_again():
    edge = TreeEdge()
    edge.add(LEAVES[:300])
    first = edge.plan()
    assert edge.plan().files == first.files
    edge.add(LEAVES[:5])
    later = edge.plan()
    assert later.size == 305
    edge.settle(later)
    assert edge.published == 305


def opened(files):
    merkle.root(600, tile.subtree_reader(files.get, 600))
    TreeEdge.load(files.get, 600)


def test_a_missing_short_or_altered_tile_is_refused():
    edge = TreeEdge()
    edge.add([b"entry %d" % i for i in range(600)])
    files = dict(edge.plan().files)
    for path in list(files):
        # Full tiles and bundles stand behind the tile above them: who reads the edge does not need them.
        if path.startswith(("tile/entries", "tile/0/")) and ".p" not in path:
            continue
        for bad in (None, files[path][:-1], files[path] + b"\0"):
            changed = {**files, path: bad}
            with pytest.raises((AuditError, CodecError)):
                opened(changed)
    changed = {**files, "tile/entries/002.p/88": tile.encode_bundle([b"other"] * 88)}
    with pytest.raises(AuditError, match="altered"):
        TreeEdge.load(changed.get, 600)
