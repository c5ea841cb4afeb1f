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
from wardround.harmonization.harvest import MEDIANS, PICKED, RECORDS, SUMS
from wardround.harmonization.plan import UNITS, WINDOWS, Plan, facts_schema
from wardround.sources.pushdown_facts import Outcome, Table
from wardround.sources.pushdown_spelling import Spelling

__all__ = ["PREFIX", "RESULT", "STEPS", "Statement", "result_of"]

PREFIX: Final = "wardround_"
STEPS: Final = ("records", "sums", "first", "last", "medians", "counted", "earliest", "conflicts", "told", "strays")
"""The parts of the result, by their numbers."""

RESULT: Final = pa.schema(
    [
        pa.field("step", pa.int64()),
        pa.field("patient", pa.string()),
        *((name, pa.int64()) for name in ("index_us", "need", "facts")),
        *((name, pa.float64()) for name in ("least", "most")),
        *((name, pa.int64()) for name in ("total", "first_at", "last_at", "t", "tt", "v", "tv")),
        *((name, pa.string()) for name in ("value", "array")),
    ]
)
_TABLES: Final = {"records": RECORDS, "sums": SUMS, "first": PICKED, "last": PICKED, "medians": MEDIANS}
_KINDS: Final = {pa.int64(): "int64", pa.float64(): "float64", pa.string(): "string"}
_SEXES: Final = "'male', 'female', 'other'"
_DAY: Final = 86_400_000_000
_KEPT: Final = {"events", "judged", "within_windows"}
_CELLS: Final[Mapping[str, Mapping[str, str]]] = {
    "first": {"least": "number"},
    "last": {"least": "number"},
    "counted": {"need": "quantity", "total": "reason"},
    "earliest": {"index_us": "earliest"},
    "told": {"need": "place", "total": "outcome", "t": "remark"},
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
        """A mapping's query, as a step.

        Raises:
            UnsafeQueryError: It names a table as our own steps are named.
        """
        if any(table.name.lower().startswith(PREFIX) for table in query.find_all(exp.Table, exp.TableAlias)):
            raise UnsafeQueryError(f"the mapping's query names a table {PREFIX}…: such names are kept for the plan")
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
        self.step("events", " UNION ALL ".join(events))
        fact = [name for name in facts_schema() if name != "array"]
        columns = ", ".join([*(f"e.{name}" for name in fact), f"{self._spelling.cell(None, 'string')} AS array"])
        self.step("facts", f"SELECT {columns} FROM wardround_events AS e WHERE e.outcome = {int(Outcome.EVENT)}")

    def plan(self, plan: Plan, units: Iterable[tuple[object, ...]], windows: Iterable[tuple[object, ...]]) -> None:
        """The plan's own steps; ``facts`` and ``serves`` are steps already."""
        self.values("units", {**UNITS, "unit": "string"}, units)
        self.values("windows", WINDOWS, windows)
        steps = plan.statements(self._spelling.compiler)
        later = ("counted", "earliest", "within_windows", "sums", "first", "last", "medians")
        for name in ("judged", "records", *(one for one in later if one in steps)):
            tree = self._parsed(steps[name])
            for table in tree.find_all(exp.Table):
                table.set("this", exp.to_identifier(PREFIX + table.name, quoted=True))
            self._steps[PREFIX + name] = tree
        births = f"CASE WHEN e.told = 1 THEN FLOOR(e.time_us / {self._spelling.cell(float(_DAY), 'float64')}) END"
        sexes = f"CASE WHEN e.told = 2 AND e.value IN ({_SEXES}) THEN e.value END"
        self.step(
            "conflicts",
            f"SELECT e.patient FROM wardround_events AS e WHERE e.outcome = 0 AND e.told > 0 GROUP BY e.patient "
            f"HAVING MIN({births}) <> MAX({births}) OR MIN({sexes}) <> MAX({sexes})",
        )
        self.step(
            "told",
            "SELECT e.place, e.outcome, e.remark, COUNT(*) AS facts FROM wardround_events AS e "
            "GROUP BY e.place, e.outcome, e.remark",
        )

    def strays(self, tables: Sequence[Table]) -> None:
        """How many rows of each table hold what they did not hold before; for engines whose columns hold anything."""
        counts = " UNION ALL ".join(
            f"SELECT {one.place} AS need, s.n AS facts FROM ({one.strays()}) AS s" for one in tables
        )
        self.step("strays", counts)

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
            "conflicts": ("patient",),
            "told": ("need", "facts", "total", "t"),
            "strays": ("need", "facts"),
        }
        names = own.get(step) or tuple("least" if one == "number" else one for one in _TABLES[step].names)
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
        return f"SELECT {', '.join(cells)} FROM {PREFIX}{step} AS p"

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
    columns = [mine["least" if name == "number" else name] for name in schema.names]
    return pa.table(columns, schema=schema).sort_by([(name, "ascending") for name in schema.names[:3]])
