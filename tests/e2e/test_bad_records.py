"""Sites whose records, mapping or kept plan are wrong take no part; no cell of theirs leaves, and the others go on."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from federation import Federation, Followed, declare, records, training, wardround_command, write_csv

import wardround
from wardround.node import setup as node_setup
from wardround.protocol import messages
from wardround.protocol.messages import SignedPlan

pytestmark = pytest.mark.processes
SECRET = "planted-4711-secret"
GOOD = ("good-one", "good-two")


def _good(folder: Path) -> None:
    write_csv(folder, records(folder.name))


def _one_class(folder: Path) -> None:
    write_csv(folder, records(folder.name, label=lambda _: 0))


def _missing_column(folder: Path) -> None:
    write_csv(folder, records(folder.name), header="age,lactat,died")


def _no_header(folder: Path) -> None:
    write_csv(folder, records(folder.name), header=f"71.5,{SECRET},1")


def _other_unit(folder: Path) -> None:
    write_csv(folder, records(folder.name))
    with (folder / "mapping.toml").open("a") as file:
        file.write('[columns.age]\nunit = "kg"\n')


def _text(folder: Path) -> None:
    rows = records(folder.name)
    rows[57][1] = SECRET
    write_csv(folder, rows)


def _zero(folder: Path) -> None:
    write_csv(folder, [])


def _few(folder: Path) -> None:
    write_csv(folder, records(folder.name, 5))


def _writing_query(folder: Path) -> None:
    with sqlite3.connect(folder / "records.sqlite") as database:
        database.execute("CREATE TABLE patients (age REAL, lactate REAL, died INTEGER)")
        database.executemany("INSERT INTO patients VALUES (?, ?, ?)", records(folder.name))
    database.close()
    query = "WITH gone AS (SELECT 1) DELETE FROM patients RETURNING age, lactate, died"
    (folder / "mapping.toml").write_text(f'kind = "sqlite"\npath = "records.sqlite"\nquery = "{query}"\n')


def _no_mapping(folder: Path) -> None:
    (folder / "mapping.toml").unlink()


SITES: dict[str, tuple[Callable[[Path], None], str]] = {
    "good-one": (_good, ""),
    "good-two": (_good, ""),
    "one-class": (_one_class, ""),
    "missing-column": (_missing_column, "clinical/missing-column"),
    "no-header": (_no_header, "clinical/missing-column"),
    "other-unit": (_other_unit, "clinical/unit-mismatch"),
    "text": (_text, "clinical/column-type"),
    "zero": (_zero, "clinical/too-few-records"),
    "few": (_few, "clinical/too-few-records"),
    "writing-query": (_writing_query, "clinical/unsafe-query"),
    "no-mapping": (_no_mapping, "config"),
    "altered-plan": (_good, "crypto/digest-mismatch"),
    "no-longer-allowed": (_good, "policy"),
}
DECLINING = sorted(name for name, (_, code) in SITES.items() if code)


class World:
    """Good and bad sites after one run of all of them."""

    def __init__(self, place: Path) -> None:
        self.federation = Federation(place)
        self.federation.start_hub()
        self.researcher = self.federation.enrol_researcher()
        for site, (spoil, _) in SITES.items():
            spoil(self.federation.enrol_site(site))
        study = declare(
            SITES,
            min_participants=3,
            training=training(rounds=2, steps=5),
            limits=wardround.Limits(absence_seconds=60.0),
        )
        self.study = self.researcher.submit(study).study
        self.federation.approve(self.study, SITES)
        self.alter_plan("altered-plan")
        settings = place / "no-longer-allowed" / "node.toml"
        settings.write_text(settings.read_text().replace("[policy]", "[policy]\nmax_rounds = 1"))
        for site in SITES:
            self.federation.nodes[site].start()
        self.run = Followed(self.researcher, self.researcher.status(self.study).runs[-1])
        self.run.completed(seconds=90.0)

    def alter_plan(self, site: str) -> None:
        """Change one byte of the plan that a site keeps, and seal it again."""
        opened = node_setup.open_node(self.federation.place / site)
        kept = messages.decode(opened.vault.get(f"plan.{self.study}") or b"", SignedPlan)
        altered = kept.plan.replace(b'"steps":5', b'"steps":9')
        assert len(altered) == len(kept.plan)
        assert altered != kept.plan
        opened.vault.put(f"plan.{self.study}", messages.encode(msgspec.structs.replace(kept, plan=altered)))
        opened.vault.close()
        opened.hub.close()

    def check(self, site: str) -> str:
        done = wardround_command("node", "check", self.federation.place / site, self.study[:12])
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World.__new__(World)
    try:
        made.__init__(tmp_path_factory.mktemp("bad-records"))
        yield made
    finally:
        if hasattr(made, "researcher"):
            made.researcher.hub.close()
        if hasattr(made, "federation"):
            made.federation.close()


@pytest.mark.parametrize("site", DECLINING)
def test_the_site_declines_and_says_why_in_a_code(world: World, site: str) -> None:
    declined = world.run.of("site-declined", site=site)
    assert {event["reason"].split(":")[0] for event in declined} == {SITES[site][1]}
    assert "Must act: " in declined[0]["reason"]
    assert not world.run.of("update-accepted", site=site)


@pytest.mark.parametrize("site", DECLINING)
def test_the_log_of_the_node_holds_the_details(world: World, site: str) -> None:
    assert world.federation.nodes[site].lines("declined", SITES[site][1])


def test_the_run_goes_on_with_the_quorum(world: World) -> None:
    for event in world.run.of("round-closed"):
        assert event["contributors"] == ["good-one", "good-two", "one-class"]


def test_an_auc_over_one_class_is_undefined(world: World) -> None:
    last = world.run.of("update-accepted", site="one-class")[-1]["evaluation"]
    assert last["records"] > 0
    assert last["metrics"]["auc"] is None
    assert 0.0 <= last["metrics"]["accuracy"] <= 1.0
    other = world.run.of("update-accepted", site="good-one")[-1]["evaluation"]
    assert 0.0 <= other["metrics"]["auc"] <= 1.0


def test_no_planted_value_is_in_any_log_or_at_the_hub(world: World) -> None:
    place = world.federation.place
    files = [path for path in (place / "hub").rglob("*") if path.is_file()] + list(place.glob("*.log"))
    assert len(files) > len(SITES)
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in str(world.run.events)


def test_counts_of_records_of_declining_sites_do_not_reach_the_hub(world: World) -> None:
    for event in world.run.of("site-declined"):
        assert not any(character.isdigit() for character in event["reason"]), event


@pytest.mark.parametrize(
    ("site", "column"),
    [("missing-column", "lactate"), ("other-unit", "age"), ("text", "lactate"), ("no-header", "lactate")],
)
def test_check_names_the_column_and_no_value(world: World, site: str, column: str) -> None:
    said = world.check(site)
    assert column in said
    assert SITES[site][1] in said
    assert SECRET not in said


@pytest.mark.parametrize("site", ["zero", "few", "writing-query", "no-mapping"])
def test_check_says_what_is_wrong(world: World, site: str) -> None:
    assert SITES[site][1] in world.check(site)


def test_check_of_good_records_prints_counts(world: World) -> None:
    assert "120 records read, 120 used" in world.check("good-one")


def test_a_query_that_writes_has_written_nothing(world: World) -> None:
    database = sqlite3.connect(world.federation.place / "writing-query" / "records.sqlite")
    try:
        assert database.execute("SELECT count(*) FROM patients").fetchone() == (120,)
    finally:
        database.close()


def test_a_quorum_that_cannot_be_reached_stops_the_run_and_names_the_sites(world: World) -> None:
    study = declare(["good-one", "text", "zero"], min_participants=2, training=training(rounds=2, steps=5))
    submitted = world.researcher.submit(study)
    world.federation.approve(submitted.study, study.plan.participants)
    run = Followed(world.researcher, world.researcher.status(submitted.study).runs[-1])
    reason = str(run.until("run-stopped")["reason"])
    assert "text: clinical/column-type" in reason
    assert "zero: clinical/too-few-records" in reason
    assert "Must act: the site's data steward" in reason
    assert world.researcher.status(submitted.study).phase == "stopped"
