"""The same chunks on a Ray cluster as on this machine's threads: equal bytes."""

import sys

import numpy as np
import pytest

from wardround.aggregation import robust
from wardround.errors import ConfigError, NotFoundError
from wardround.services import updates
from wardround.services.threads import Threads
from wardround.storage.blobs import FolderBlobs, FolderReader

pytestmark = pytest.mark.processes
HEAD = b"h" * 64
WIDTH = 3 * updates.CHUNK + 17
SITES = 7


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray")
    from wardround.hub.cluster import RayPool

    pool = RayPool("local")
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    blobs = FolderBlobs(tmp_path_factory.mktemp("hub"))
    generator = np.random.default_rng(1)  # noqa: TID251, seeded
    refs = [blobs.put(HEAD + generator.standard_normal(WIDTH, dtype=np.float32).tobytes()) for _ in range(SITES)]
    return updates._Columns(blobs, tuple(ref.digest for ref in refs), len(HEAD), WIDTH, np.dtype(np.float32))


def combined(read, rule, pool):
    found = updates._geometry(read, SITES, [], pool) if rule.needs_geometry else None
    parts = updates._combined(rule, [10] * SITES, np.ones(SITES), found, read, bytes(32), pool)
    return b"".join(part.tobytes() for part in parts)


@pytest.mark.parametrize(
    "rule",
    [
        robust.Rule("mean"),
        robust.Rule("median", hostile=1),
        robust.Rule("multi-krum", hostile=1),
        robust.Rule("trimmed-mean", hostile=1, mixing="nearest-neighbours"),
    ],
    ids=lambda rule: rule.name,
)
def test_a_cluster_gives_the_bytes_that_threads_give(cluster, read, rule):
    assert combined(read, rule, cluster) == combined(read, rule, Threads())


def test_an_error_in_a_task_is_the_tasks_own(cluster, read):
    missing = updates._Columns(read.blobs, ("0" * 64,), len(HEAD), WIDTH, read.dtype)
    with pytest.raises(NotFoundError):
        list(cluster.map(missing, [0]))


def test_what_another_process_gets_of_a_blob_folder_can_only_read(read):
    kind, arguments = read.blobs.__reduce__()
    reader = kind(*arguments)
    assert type(reader) is FolderReader
    digest = read.digests[0]
    assert reader.read(digest, 0, 64) == HEAD
    assert not hasattr(reader, "put")
    assert not hasattr(reader, "delete")


def test_without_ray_or_without_a_cluster_the_hub_says_so(monkeypatch):
    from wardround.hub.cluster import RayPool

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="pip install"):
        RayPool("auto")
