"""The feature plan as one statement of an engine's: every step a common table expression, every result a part of it.

    the mapping's queries -> wanted codes -> rows -> events -> facts -> judged -> records -> within_windows -> results

One statement sees one state of the database. It makes no temporary table, so that a session that may only read can run
it. All names of our own begin with ``wardround_``, and no query of a mapping's may name such a table: what a query
reads is the database's, and never a step.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import sqlglot
from sqlglot import exp

from wardround.errors import UnsafeQueryError
from wardround.harmonization import facts
from wardround.harmonization.events import KEPT_STATUSES, STATUSES
from wardround.harmonization.harvest import CONSENTS, MEDIANS, PICKED, RECORDS, SUMS
from wardround.harmonization.plan import UNITS, WINDOWS, Plan, facts_schema
from wardround.sources.pushdown_facts import BORN, COLUMNS, SEX, Outcome, Remark, Table
from wardround.sources.pushdown_spelling import Spelling

__all__ = ["PREFIX", "RESULT", "STEPS", "Statement", "result_of"]

PREFIX: Final = "wardround_"
STEPS: Final = (
    "records",
    "sums",
    "first",
    "last",
    "medians",
    "counted",
    "earliest",
    "misplaced",
    "consents",
    "conflicts",
    "told",
    "people",
    "strays",
)
"""The parts of the result, by their numbers."""

RESULT: Final = pa.schema(
    [
        pa.field("step", pa.int64()),
        pa.field("patient", pa.string()),
        *((name, pa.int64()) for name in ("index_us", "need", "facts")),
        *((name, pa.float64()) for name in ("least", "most")),
        *((name, pa.int64()) for name in ("total", "first_us", "last_us", "t", "tt", "v", "tv")),
        *((name, pa.string()) for name in ("value", "array")),
    ]
)
_TABLES: Final = {
    "records": RECORDS,
    "sums": SUMS,
    "first": PICKED,
    "last": PICKED,
    "medians": MEDIANS,
    "consents": CONSENTS,
}
_KINDS: Final = {pa.int64(): "int64", pa.float64(): "float64", pa.string(): "string"}
_SEXES: Final = "'male', 'female', 'other'"
_DAY: Final = 86_400_000_000
_LONG_AGO: Final = -(2**62)
_LIFE: Final = facts._EARLIEST_US, facts._LATEST_US  # noqa: SLF001, the same bounds of a life
_KEPT: Final = {"events", "judged", "within_windows"}
_CELLS: Final[Mapping[str, Mapping[str, str]]] = {
    "first": {"least": "number"},
    "last": {"least": "number"},
    "counted": {"need": "quantity", "total": "reason"},
    "earliest": {"index_us": "earliest"},
    "misplaced": {"need": "quantity", "total": "before_birth"},
    "consents": {"first_us": "time_us", "last_us": "at", "total": "status"},
    "told": {"need": "place", "total": "outcome", "t": "remark", "v": "told"},
}
"""Where a part's column stands in the result, if not under its own name."""


class Statement:
    """The steps of one statement, in their order; each may read those before it."""

    def __init__(self, spelling: Spelling) -> None:
        self._spelling = spelling
        self._steps: dict[str, exp.Query | exp.Values] = {}
        self._columns: dict[str, tuple[str, ...]] = {}

    @property
    def texts(self) -> dict[str, str]:
        """The SQL of each step but those that only list values."""
        return {
            name.removeprefix(PREFIX): step.sql(self._spelling.dialect)
            for name, step in self._steps.items()
            if name not in self._columns
        }

    def query(self, name: str, query: exp.Query) -> None:
        """A mapping's query, as a step."""
        self._steps[name] = query.copy()

    def step(self, name: str, text: str) -> None:
        """A step in the engine's SQL."""
        self._steps[PREFIX + name] = self._parsed(text)

    def values(self, name: str, columns: Mapping[str, str], rows: Iterable[tuple[object, ...]]) -> None:
        """A step that lists values; `columns` are their kinds."""
        kinds = tuple(columns.values())
        written = [self._row(kinds, row) for row in rows]
        if not written:
            empty = ", ".join(
                f"{self._spelling.cell(None, kind)} AS {self._quoted(column)}" for column, kind in columns.items()
            )
            self.step(name, f"SELECT {empty} WHERE 1 = 0")
            return
        self._steps[PREFIX + name] = exp.Values(expressions=written)
        self._columns[PREFIX + name] = tuple(columns)

    def facts(self, tables: Sequence[Table]) -> None:
        """The steps from the queries' rows to ``facts``; the queries are steps already."""
        events: list[str] = []
        for table in tables:
            if table.entry.code:
                self.values(f"codes_{table.place}", *table.code_rows())
            self.step(f"rows_{table.place}", table.cells())
            events += table.events()
        self.step("events", self._judged(" UNION ALL ".join(events)))
        fact = [name for name in facts_schema() if name != "array"]
        columns = ", ".join([*(f"e.{name}" for name in fact), f"{self._spelling.cell(None, 'string')} AS array"])
        self.step("facts", f"SELECT {columns} FROM wardround_events AS e WHERE e.outcome = 0 AND e.atom <> 0")  # noqa: S608, names and literals of our own

    def plan(self, plan: Plan, units: Iterable[tuple[object, ...]], windows: Iterable[tuple[object, ...]]) -> None:
        """The plan's own steps; ``facts`` and ``serves`` are steps already."""
        self.values("units", {**UNITS, "unit": "string"}, units)
        self.values("windows", WINDOWS, windows)
        steps = plan.statements(self._spelling.compiler)
        later = ("counted", "earliest", "misplaced", "consents", "within_windows", "sums", "first", "last", "medians")
        for name in ("judged", "records", *(one for one in later if one in steps)):
            tree = self._parsed(steps[name])
            for table in tree.find_all(exp.Table):
                table.set("this", exp.to_identifier(PREFIX + table.name, quoted=True))
            self._steps[PREFIX + name] = tree
        self.step("standing", self._standing())
        kept = ", ".join(str(STATUSES.index(status)) for status in KEPT_STATUSES)
        births = f"CASE WHEN s.told = {BORN} THEN FLOOR(s.time_us / {self._spelling.cell(float(_DAY), 'float64')}) END"
        sexes = f"CASE WHEN s.told = {SEX} AND s.value IN ({_SEXES}) THEN s.value END"
        self.step(
            "conflicts",
            "SELECT s.patient FROM wardround_standing AS s "  # noqa: S608, names and literals of our own
            f"WHERE (s.order_key IS NULL OR s.row = s.latest) AND s.status IN ({kept}) "
            f"GROUP BY s.patient HAVING MIN({births}) <> MAX({births}) OR MIN({sexes}) <> MAX({sexes})",
        )
        handed = ", ".join(str(int(one)) for one in (Outcome.EVENT, Outcome.OUT_OF_LIFE))
        self.step(
            "people",
            f"SELECT COUNT(DISTINCT e.patient) AS facts FROM wardround_events AS e WHERE e.outcome IN ({handed})",  # noqa: S608, names and literals of our own
        )
        self.step(
            "told",
            "SELECT e.place, e.outcome, e.remark, e.told, COUNT(*) AS facts FROM wardround_events AS e "
            "GROUP BY e.place, e.outcome, e.remark, e.told",
        )

    @staticmethod
    def _judged(events: str) -> str:
        outside = " OR ".join(
            f"(e.{name} IS NOT NULL AND (e.{name} < {_LIFE[0]} OR e.{name} > {_LIFE[1]}))"
            for name in ("time_us", "known_us")
        )
        outcome = (
            f"CASE WHEN e.outcome > 0 THEN e.outcome WHEN e.patient LIKE '%|' THEN {int(Outcome.NOBODY)} "
            f"WHEN {outside} THEN {int(Outcome.OUT_OF_LIFE)} ELSE 0 END"
        )
        own = {"outcome": outcome, "remark": f"e.remark + CASE WHEN e.atom = 0 THEN {int(Remark.UNWANTED)} ELSE 0 END"}
        columns = ", ".join(f"{own.get(name, f'e.{name}')} AS {name}" for name in COLUMNS)
        return f"SELECT {columns} FROM ({events}) AS e"  # noqa: S608, names and literals of our own

    def _standing(self) -> str:
        latest = f"ORDER BY COALESCE(e.known_us, {_LONG_AGO}) DESC, e.row DESC"
        latest = f"FIRST_VALUE(e.row) OVER (PARTITION BY e.patient, e.source, e.order_key {latest})"
        told = f"e.outcome = 0 AND e.atom <> 0 AND e.told IN ({BORN}, {SEX})"
        return f"SELECT e.*, {latest} AS latest FROM wardround_events AS e WHERE {told}"  # noqa: S608, names of our own

    def strays(self, tables: Sequence[Table]) -> None:
        """How many rows of each table hold what they did not hold before; for engines whose columns hold anything."""
        counts = [
            f"SELECT {one.place} AS need, s.n AS facts FROM ({one.strays()}) AS s"  # noqa: S608, names of our own
            for one in tables
        ]
        self.step("strays", " UNION ALL ".join(counts))

    def asking(self, text: str) -> exp.Query:
        """A question to the steps so far."""
        return self._whole(self._parsed(text))

    def results(self) -> exp.Query:
        """The statement whose rows are `RESULT`: all parts that there are."""
        parts = [self._part(number, step) for number, step in enumerate(STEPS) if PREFIX + step in self._steps]
        return self._whole(self._parsed(" UNION ALL ".join(parts)))

    def _part(self, number: int, step: str) -> str:
        own = {
            "counted": ("need", "facts", "total"),
            "earliest": ("patient", "index_us"),
            "misplaced": ("need", "facts", "total"),
            "consents": ("patient", "first_us", "last_us", "value", "total"),
            "conflicts": ("patient",),
            "people": ("facts",),
            "told": ("need", "facts", "total", "t", "v"),
            "strays": ("need", "facts"),
        }
        places = {mine: there for there, mine in _CELLS.get(step, {}).items()}
        names = own.get(step) or tuple(places.get(one, one) for one in _TABLES[step].names)
        cells = []
        for column in RESULT:
            kind = _KINDS[column.type]
            cell = (
                f"p.{self._quoted(_CELLS.get(step, {}).get(column.name, column.name))}"
                if column.name in names
                else "NULL"
            )
            cell = str(number) if column.name == "step" else cell
            cells.append(f"CAST({cell} AS {self._spelling.type(kind)}) AS {self._quoted(column.name)}")
        return f"SELECT {', '.join(cells)} FROM {PREFIX}{step} AS p"  # noqa: S608, names and literals of our own

    def _whole(self, asked: exp.Query) -> exp.Query:
        for name, step in self._steps.items():
            alias = exp.TableAlias(
                this=exp.to_identifier(name, quoted=True),
                columns=[exp.to_identifier(column, quoted=True) for column in self._columns.get(name, ())],
            )
            is_kept = self._spelling.keeps and name.removeprefix(PREFIX) in _KEPT
            asked = asked.with_(alias, as_=step.copy(), materialized=is_kept or None, copy=False)
        return asked

    def _parsed(self, text: str) -> exp.Query:
        tree = sqlglot.parse_one(text, read=self._spelling.dialect)
        if not isinstance(tree, exp.Query):
            raise UnsafeQueryError("a step of the plan is no SELECT")
        return tree

    def _row(self, kinds: tuple[str, ...], row: tuple[object, ...]) -> exp.Tuple:
        cells = [self._spelling.cell(value, kind) for value, kind in zip(row, kinds, strict=True)]
        return exp.Tuple(expressions=[sqlglot.parse_one(cell, read=self._spelling.dialect) for cell in cells])

    def _quoted(self, name: str) -> str:
        return exp.to_identifier(name, quoted=True).sql(self._spelling.dialect)


def result_of(rows: pa.Table, step: str) -> pa.Table:
    """One part of the result, with its own columns; without a row where the plan has no such part."""
    mine = rows.filter(pc.equal(rows["step"], STEPS.index(step)))
    if step not in _TABLES:
        return mine
    schema = _TABLES[step]
    places = {own: there for there, own in _CELLS.get(step, {}).items()}
    table = pa.table([mine[places.get(name, name)] for name in schema.names], schema=schema)
    return table.sort_by([(name, "ascending") for name in schema.names])
