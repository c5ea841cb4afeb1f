"""A hospital in three tables, as spiteful as a mapping allows, and a contract that asks for every kind of column."""

import math
import random
import sqlite3
from contextlib import closing
from functools import lru_cache

import msgspec

from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.derivation import Cohort, Consent, Criterion, Derivation, Window
from wardround.harmonization.embedded import Reading
from wardround.harmonization.needs import Atoms, needs
from wardround.harmonization.plan import Plan
from wardround.sources import event_mapping
from wardround.sources.site import Site

DAY = 86_400_000_000
CONVERSIONS = {"mg/dL": (1.0, 0.0), "g/L": (100.0, 0.0), "Cel": (1.8, 32.0), "[degF]": (1.0, 0.0), "odd": (0.1, 1 / 3)}
TRANSLATIONS = {("local:lab", "CHOL"): ("loinc", "2093-3"), ("local:lab", "7"): ("loinc", "8310-5")}
EVER = (None, None)


def column(name, concepts, aggregate, *, window=(-365, 0), low=1.0, high=500.0, unit="mg/dL", **rest):
    derive = Derivation(
        concepts=concepts, aggregate=aggregate, window=Window(from_days=window[0], to_days=window[1]), **rest
    )
    return Column(name=name, unit=unit, minimum=low, maximum=high, derive=derive, missing="mean")


CHOLESTEROL = ("loinc|2093-3", "local:lab|HDL")
CONTRACT = DataContract(
    columns=(
        column("last", CHOLESTEROL, "last"),
        column("first", CHOLESTEROL, "first", window=EVER),
        column("mean", CHOLESTEROL, "mean"),
        column("sum", ("local:lab|HDL",), "sum", window=(-3, 2)),
        column("least", CHOLESTEROL, "min"),
        column("middle", CHOLESTEROL, "median", window=(None, 5)),
        column("slope", CHOLESTEROL, "slope", window=EVER),
        column("number", CHOLESTEROL, "count", high=1000.0),
        column("since", CHOLESTEROL, "time_since_last", high=1000.0),
        column("later", CHOLESTEROL, "value_at", window=EVER, at_days=3.0),
        column("fever", ("loinc|8310-5",), "max", low=90.0, high=110.0, unit="[degF]"),
        column("age", ("patient|birth-date",), "age", window=EVER, low=0.0, high=130.0, unit="a"),
        Column(
            name="sex",
            kind="category",
            categories=("male", "female"),
            missing="mask",
            derive=Derivation(concepts=("patient|sex",), window=Window(from_days=None, to_days=None)),
        ),
        Column(
            name="smoker",
            kind="category",
            categories=("yes", "no"),
            missing="mask",
            derive=Derivation(concepts=("local:lab|SMOKE",), window=Window(from_days=None, to_days=None)),
        ),
    ),
    label=Label(
        name="event",
        derive=Derivation(concepts=("icd10cm|I2*",), window=Window(from_days=0, to_days=9), aggregate="exists"),
    ),
    cohort=Cohort(
        index=("icd10cm|I25.*",),
        criteria=(
            Criterion(name="measured", minimum=0.0, derive=Derivation(concepts=("loinc|2093-3",), aggregate="count")),
        ),
    ),
    consent=Consent(purpose="HRESCH"),
    scaling="none",
    holdout=0.0,
    min_records=1,
)
NEEDS = needs(CONTRACT)
LAB = {
    "query": "SELECT * FROM lab -- every result",
    "key": "k",
    "patient": "mrn",
    "time": "at_us",
    "known": "known_us",
    "epoch": "us",
    "code": "item",
    "system": "local:lab",
    "number": "num",
    "value": "val",
    "values": {"Y": "yes", "N": "no", "it's": "no"},
    "unit": "uom",
    "status": "st",
    "statuses": {"F": "final", "C": "corrected", "X": "entered-in-error"},
    "comparator": "cmp",
    "order_key": "ok",
    "missing": ["-1", "n/a"],
}
DIAGNOSES = {
    "query": "SELECT k, pid, at_s, sys, code FROM diag",
    "key": "k",
    "patient": "pid",
    "time": "at_s",
    "epoch": "s",
    "code": "code",
    "system_column": "sys",
    "systems": {"10": "icd10cm", "L": "loinc"},
}
WORDS = ["a", "B", "Ä", "ä", "a b", "a-c", None]
PEOPLE = {
    "query": "SELECT * FROM people",
    "key": "k",
    "patient": "pid",
    "columns": [
        {"from": "born", "code": "patient|birth-date"},
        {"from": "sex", "code": "patient|sex", "values": {"m": "male", "f": "female"}},
        {"from": "hdl", "code": "local:lab|HDL", "unit": "mg/dL"},
        {"from": "dead_us", "code": "patient|death"},
        {"from": "once", "code": "local:lab|SMOKE", "text": True},
        {"from": "twice", "code": "local:lab|SMOKE", "values": {word: word for word in WORDS if word}},
    ],
    "epoch": "us",
}
CONSENTS = {
    "query": "SELECT * FROM said",
    "key": "k",
    "patient": "pid",
    "time": "at_us",
    "epoch": "us",
    "status": "st",
    "columns": [{"from": "answer", "code": "patient|consent:HRESCH", "values": {"y": "permit", "n": "deny"}}],
}
NAMES = {
    "lab": ("k", "mrn", "at_us", "known_us", "item", "num", "val", "uom", "st", "cmp", "ok"),
    "diag": ("k", "pid", "at_s", "sys", "code"),
    "people": ("k", "pid", "born", "sex", "hdl", "dead_us", "once", "twice"),
    "said": ("k", "pid", "at_us", "st", "answer"),
}
SOURCES = [{"name": "labs", "events": [LAB]}, {"name": "adt", "events": [DIAGNOSES, PEOPLE, CONSENTS]}]

PATIENTS = ["1", "1", "1 ", "2", "2", "2", " 2", "3", "3\u00a0", "\t3 ", "4", "5", "1" * 201, "", "\u00a0", None]
ITEMS = ["CHOL", "CHOL", " CHOL", "HDL", "HDL", "HDL", "SMOKE", "7", "7", "chol", "zzz", "n/a", "", None]
NUMBERS = [36.6, 97.88, 98, 0.0, 2, 2.001, 200.0, 200.3, 499.0, -1.0, 5e9, math.inf, 2**60 + 1, 0.1, None, None]
VALUES = [None, None, None, None, "Y", "N ", "it's", "maybe", "-1", "x" * 201]
UNITS = ["mg/dL", "mg/dL", "mg/dL ", "g/L", "Cel", "[degF]", "odd", "odd", "furlong", "MG/DL", "n/a", None]
STATES = [None, None, None, None, "F", "F", "F", "C", "X", "final", "?", ""]
KEYS = [*[None] * 12, "k1", "K1", "k1 ", "k2"]
CODES = ["I25.1", "I25.1", "I25.1", "I21.9", "i25.1", "I2", "J45", "2093-3", None]
BORN = ["1950-02-28", "1950-02-28", "1911-12-01", "2020-02-29", None]


def rows_of(seed):
    """Rows of each table, as Python's values."""
    some = random.Random(seed)

    def day():
        return None if some.random() < 0.05 else 10**6 if some.random() < 0.02 else some.randint(-8, 14)

    def number():
        return some.choice(NUMBERS) if some.random() < 0.5 else some.uniform(0.5, 600)

    lab = [
        (
            key,
            some.choice(PATIENTS),
            micros(day(), key),
            micros(day() if some.random() < 0.3 else None, 0),
            some.choice(ITEMS),
            number(),
            some.choice(VALUES),
            some.choice(UNITS),
            some.choice(STATES),
            some.choice([None, None, None, None, "<", "=", "≤", "~"]),
            some.choice(KEYS),
        )
        for key in some.sample(range(-100, 300), some.randint(0, 120))
    ]
    diagnoses = [
        (
            f"{key:03}" if key % 2 else f"d{key}",
            some.choice([1, 1, 2, 2, 3, 4, None]),
            seconds(day()),
            some.choice(["10", "10", "10", "10", "10", "10", "L", "snomed", "http://loinc.org", None]),
            some.choice(CODES),
        )
        for key in range(some.randint(3, 25))
    ]
    # A number may stand for two people: born twice, or of two sexes.
    people = [
        (
            key,
            some.choice([1, 2, 3, 4, 5, 6, None]),
            some.choice(BORN),
            some.choice(["m", "f", "f", "?", None]),
            number(),
            micros(day(), 3),
            some.choice(WORDS),
            some.choice(WORDS),
        )
        for key in range(some.randint(0, 6))
    ]
    said = [
        (
            key,
            some.randint(1, 4),
            micros(day(), 0),
            some.choice([None, "final", "preliminary", "entered-in-error"]),
            some.choice("yyn?"),
        )
        for key in range(some.randint(0, 6))
    ]
    return {"lab": lab, "diag": diagnoses, "people": people, "said": said}


def micros(days, more):
    return None if days is None else days * DAY // 2 + more


def seconds(days):
    return None if days is None else days * 43_200


def sqlite_of(rows, path):
    """The tables in a SQLite file, some of whose columns compare texts in a way of their own."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        for table, names in NAMES.items():
            columns = ", ".join(f"{name} COLLATE NOCASE" if name in {"item", "ok", "uom"} else name for name in names)
            connection.execute(f"CREATE TABLE {table} ({columns})")
            places = ", ".join("?" * len(names))
            connection.executemany(f"INSERT INTO {table} VALUES ({places})", rows[table])


def mapping_of(place, **rest):
    """The mapping, of the database that `place` names; `place` is the settings that say so."""
    return {"kind": "events", "sources": [place | source for source in SOURCES], **rest}


def sources_of(mapping, folder, environ=None):
    site = Site(folder, None, environ or {})
    return event_mapping.sources(event_mapping_of(mapping), site), site


def event_mapping_of(mapping):
    return msgspec.convert(mapping, event_mapping.EventMapping)


@lru_cache
def plan_of(pick, now_us):
    # Compiling takes longer than running: once for all examples.
    return Plan(NEEDS, pick, now_us)


def affine(_need, unit):
    return CONVERSIONS.get(unit)


def reading_of(sources, pick="first", now_us=None, **rest):
    return Reading(
        sources=sources,
        atoms=Atoms(NEEDS, TRANSLATIONS),
        plan=plan_of(pick, now_us),
        affine=affine,
        threads=1,
        **rest,
    )


def told_by(harvest):
    """A harvest as values that compare."""
    tables = {
        name: sorted(map(repr, getattr(harvest, name).to_pylist()))
        for name in ("records", "sums", "first", "last", "medians", "consents")
    }
    others = {
        name: getattr(harvest, name)
        for name in ("counted", "misplaced", "conflicts", "earliest", "patients", "undated", "bounds", "invalid")
    }
    return tables | others


def reports_of(sources):
    return {one.name: (one.report.events, clear(one.report.refused), clear(one.report.noted)) for one in sources}


def clear(counts):
    # Rows whose code nobody wants are not looked at where the database does the work.
    return {reason: count for reason, count in counts.items() if reason not in {"no code", "no code system"}}
