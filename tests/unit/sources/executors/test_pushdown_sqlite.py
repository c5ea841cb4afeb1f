"""The plan inside SQLite gives the harvest that DuckDB gives of the same rows, or says what it cannot follow."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.sources.executors import world

from wardround.harmonization import embedded
from wardround.sources import pushdown

PLACE = {"kind": "sqlite", "path": "ehr.db"}
RUN = {}


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    st.integers(0, 2**32),
    st.sampled_from([("first", None), ("each", 2 * world.DAY), ("last", None)]),
    st.sampled_from(["", "ns"]),
)
def test_the_harvest_is_the_same(tmp_path_factory, seed, how, namespace):
    folder = RUN.setdefault("folder", tmp_path_factory.mktemp("world"))
    world.sqlite_of(world.rows_of(seed), folder / "ehr.db")
    mapping = world.mapping_of(PLACE)
    sources, site = world.sources_of(mapping, folder)
    spaces = {"labs": namespace, "adt": namespace}
    here = embedded.harvest(world.reading_of(sources, *how, namespaces=spaces))
    told = world.reports_of(sources)
    run = RUN.setdefault(how, pushdown.executor(world.event_mapping_of(mapping), site))
    there = run(world.reading_of(sources, *how, namespaces=spaces))
    assert world.told_by(there) == world.told_by(here)
    assert world.reports_of(sources) == told
