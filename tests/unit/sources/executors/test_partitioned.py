"""Patients in parts give what they give together; a part that dies is halved; nothing but codes and counts is told."""

import dataclasses
import multiprocessing.context

import msgspec
import pyarrow as pa
import pytest
from tests.unit.harmonization.test_feature_plan import Recorded, reading
from tests.unit.harmonization.test_harmonize import Made
from tests.unit.sources.executors import world

from wardround.errors import ClinicalError, UnavailableError
from wardround.harmonization import embedded
from wardround.harmonization.harvest import Harvest, joined
from wardround.sources import event_mapping, partitioned
from wardround.sources.partitioned import Partitioned

PLACE = {"kind": "sqlite", "path": "ehr.db"}
SECRET = "Xanthippe-4711"
HDL = ("local:lab", "HDL")


class Here:
    """Runs the tasks in this process; those whose number is in `dying` do not come back, the first time."""

    name = "here"

    def __init__(self, dying=(), times=1):
        self.dying, self.times = dying, times
        self.rounds = []

    def run(self, tasks):
        self.rounds.append(len(tasks))
        dies = len(self.rounds) <= self.times
        return [None if dies and place in self.dying else partitioned.perform(task) for place, task in enumerate(tasks)]


@pytest.fixture
def site(tmp_path):
    world.sqlite_of(world.rows_of(3), tmp_path / "ehr.db")
    (tmp_path / "codes.toml").write_text("")
    return tmp_path


def mapping():
    return world.event_mapping_of(world.mapping_of(PLACE, timezone="UTC", memory_mb=64))


def run(folder, pool, parts=3, **rest):
    execute = Partitioned(mapping(), folder, world.CONTRACT, parts=parts, runner="processes")
    execute._pool = pool
    sources = event_mapping.site_data(mapping(), folder, {}).sources
    return execute(reading_of(sources, **rest)), sources


def reading_of(sources, **rest):
    made = world.reading_of(sources, memory_limit_bytes=64 * 2**20, **rest)
    return dataclasses.replace(made, atoms=world.Atoms(world.NEEDS, {}))


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_the_harvest_is_the_same_whatever_the_number_of_parts(site, parts, monkeypatch):
    monkeypatch.setattr(partitioned.harmonize.__globals__["ucum"], "affine", lambda *_: None)
    got, sources = run(site, Here(), parts)
    told = world.reports_of(sources)
    whole_sources = event_mapping.site_data(mapping(), site, {}).sources
    whole = embedded.harvest(dataclasses.replace(reading_of(whole_sources), affine=lambda *_: None))
    assert world.told_by(got) == world.told_by(whole)
    assert world.reports_of(whole_sources) == told
    assert got.engine == f"{whole.engine}, in {parts} parts (here)"
    assert got.statements == whole.statements


def test_people_of_two_numbers_are_one_in_whatever_bucket_the_numbers_fall():
    made = Made()
    links = []
    for person in range(12):
        made.add(f"p{person}", "icd10cm", "I25.1", 0).add(
            f"old{person}", "loinc", "2093-3", -3, 100.0 + person, "mg/dL"
        )
        made.add(f"p{person}", "loinc", "2093-3", -2, 90.0, "mg/dL")
        links.append((f"old{person}", f"p{person}"))
    whole = embedded.harvest(reading([Recorded("s", made.facts, links=links)]))
    parts = [
        embedded.harvest(reading([Recorded("s", made.facts, links=links)]), bucket=(number, 4)) for number in range(4)
    ]
    assert sum(part.records.num_rows > 0 for part in parts) > 1
    assert world.told_by(joined(parts)) == world.told_by(whole)
    assert whole.records.num_rows == 12


def test_a_part_that_dies_is_halved_and_the_rest_is_kept(site):
    whole, _ = run(site, Here())
    pool = Here(dying={1})
    got, _ = run(site, pool)
    assert pool.rounds == [3, 2]
    assert world.told_by(got) == world.told_by(whole)
    assert "in 4 parts" in got.engine


def test_parts_that_always_die_end_in_a_plain_error(site):
    pool = Here(dying=set(range(100)), times=100)
    with pytest.raises(ClinicalError, match="died 4 times, the last time with 1/24 of them"):
        run(site, pool)
    assert pool.rounds == [3, 6, 12, 24]


def test_a_part_that_runs_out_of_memory_is_halved(site, monkeypatch):
    harvest = embedded.harvest
    wanted = []

    def small(reading, *, bucket):
        wanted.append(bucket)
        if bucket == (0, 2):
            raise MemoryError
        return harvest(reading, bucket=bucket)

    monkeypatch.setattr(partitioned.embedded, "harvest", small)
    run(site, Here(), parts=2)
    assert wanted == [(0, 2), (1, 2), (0, 4), (2, 4)]


@pytest.mark.parametrize(
    ("raised", "error", "message"),
    [
        (UnavailableError("the database does not answer"), UnavailableError, "does not answer"),
        (KeyError(SECRET), ClinicalError, r"could not be computed \(KeyError\)"),
    ],
)
def test_an_error_comes_back_as_its_class_and_a_foreign_one_without_its_message(
    site, monkeypatch, raised, error, message
):
    def broken(*_args, **_rest):
        raise raised

    monkeypatch.setattr(partitioned.embedded, "harvest", broken)
    with pytest.raises(error, match=message) as caught:
        run(site, Here())
    assert SECRET not in str(caught.value)


def test_codes_that_were_confirmed_meanwhile_stop_the_run(site):
    pool = Here()
    perform = pool.run

    def changed(tasks):
        (site / "codes.toml").write_text("# another\n")
        return perform(tasks)

    pool.run = changed
    with pytest.raises(UnavailableError, match="confirmed codes changed"):
        run(site, pool)


def test_units_are_asked_about_once_more_where_the_parts_meet(site):
    asked = []
    sources = event_mapping.site_data(mapping(), site, {}).sources
    execute = Partitioned(mapping(), site, world.CONTRACT, parts=2, runner="processes")
    execute._pool = Here()
    execute(dataclasses.replace(reading_of(sources), affine=lambda need, unit: asked.append((need.name, unit))))
    assert ("sum", "MG/DL") in asked
    assert len(asked) == len(set(asked))


def test_all_of_a_harvest_crosses_a_process_boundary(site):
    harvest, _ = run(site, Here())
    part = partitioned._Part(harvest=harvest, reports=[], units=[])
    data = msgspec.msgpack.encode(part, enc_hook=partitioned._arrow_bytes)
    found = partitioned._answer(data).harvest
    for field in dataclasses.fields(Harvest):
        assert getattr(found, field.name) == getattr(harvest, field.name), field.name
    assert isinstance(found.sums, pa.Table)


def test_processes_are_started_afresh_and_one_that_is_killed_is_noticed(site, monkeypatch):
    whole, _ = run(site, Here(), parts=2)
    start = multiprocessing.context.SpawnProcess.start
    started = []

    def killed(process):
        start(process)
        started.append(process)
        if len(started) == 1:
            process.kill()

    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "start", killed)
    got, _ = run(site, partitioned._Processes(2), parts=2)
    assert len(started) == 4
    assert world.told_by(got) == world.told_by(whole)
    assert not any(process.is_alive() for process in started)
