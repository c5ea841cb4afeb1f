"""One table of events as SQL: the rows of a mapping's query become the facts that they become in this process.

    query -> cells as texts, numbers, instants -> wanted codes, rows in the key's order -> what became of each -> facts

It says in SQL what `wardround.sources.event_rows` does to columns, row for row and reason for reason. Whatever cannot
be said exactly is refused, with the setting's name and what to write instead: texts that are to become numbers, times
of a zone's clocks, columns of two kinds (`wardround.sources.pushdown_checks`). Nothing here reads a database.

The SQL is made of our own names, of columns' names quoted by the dialect, and of literals escaped by it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from wardround.errors import ConfigError
from wardround.harmonization.events import PATIENT, STATUSES
from wardround.sources.event_cells import COMPARATORS
from wardround.sources.event_columns import WideColumn
from wardround.sources.event_rows import EventRows, coded
from wardround.sources.pushdown_spelling import Spelling
from wardround.sources.sql_events import QueryEvents

__all__ = ["BORN", "COLUMNS", "NOTED", "SEX", "Code", "Outcome", "Remark", "Table"]

COLUMNS: Final = (
    "patient",
    "atom",
    "time_us",
    "known_us",
    "number",
    "value",
    "unit",
    "status",
    "order_key",
    "source",
    "row",
    "told",
    "place",
    "outcome",
    "remark",
)
"""What `Table.events` gives: a fact's columns, what it tells of the patient, and what became of it."""

Code = tuple[str | None, str, int, int]
"""A system's text (None where the table has one system), a code's, the atom that they are, and what they tell."""

BORN, SEX, NOTED = 1, 2, 3
"""What a fact tells of its patient; from `NOTED` on its code is one that is counted by itself."""

_BLOCK_ROWS: Final = 2**48
_LONGEST: Final = 200
_BIRTH, _SEX = "birth-date", "sex"
_MOMENTS: Final = {_BIRTH, "death", "seen"}
_BOUNDS: Final = [sign for sign, meaning in COMPARATORS.items() if meaning]
_NUMBERED: Final = {status: str(number) for number, status in enumerate(STATUSES)}


class Outcome(IntEnum):
    """What became of a row; each but the first is a reason to leave it out."""

    EVENT = 0
    NO_PATIENT = 1
    UNPARSEABLE_TIME = 2
    NO_TIME = 3
    UNLISTED = 4
    ABSENT = 5
    TOO_LONG = 6
    VAGUE_BIRTH = 7
    NO_KEY = 8
    KEY_TWICE = 9
    NOTHING = 10
    NOBODY = 11
    OUT_OF_LIFE = 12


class Remark(IntEnum):
    """What is to be said of an event that is used."""

    NONE = 0
    UNREADABLE = 1
    UNLISTED = 2
    COMPARATOR = 4
    STATUS = 8
    BOUND = 16
    UNWANTED = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table of events of a source.

    Attributes:
        entry: What the mapping says of it.
        rows: The same, checked.
        spelling: The engine's SQL.
        kinds: What the columns of the query hold.
        source: The source's number among all.
        block: The table's place in its source.
        place: Its place among all tables; its steps are named by it.
        namespace: What its patients' identifiers are unique in.
        where: What it is called in an error.
        codes: Of a table with a column of codes those that are in scope, with their atoms.
        atoms: Of a wide table the atoms of its columns that are in scope, and what they tell, by their places.
    """

    entry: QueryEvents
    rows: EventRows
    spelling: Spelling
    kinds: Mapping[str, frozenset[str]]
    source: int
    block: int
    place: int
    namespace: str
    where: str
    codes: Sequence[Code] = ()
    atoms: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def query(self) -> str:
        """The name of the step that is the mapping's query."""
        return f"wardround_query_{self.place}"

    @property
    def counts_codes(self) -> bool:
        """Whether the codes are whole numbers in the database too, so that it may use its index of them."""
        return self.kinds[self.entry.code] == {"integer"} and not self.entry.system_column

    def distinct_codes(self) -> str:
        """How often each code of the table occurs, with its system's text where there is one."""
        system = self._text(self.entry.system_column, "q") if self.entry.system_column else "NULL"
        code = self._text(self.entry.code, "q")
        system = f"CAST({system} AS {self.spelling.type('string')})"
        return f"SELECT {system} AS system, {code} AS code, COUNT(*) AS n FROM {self.query} AS q GROUP BY 1, 2"  # noqa: S608, names and literals of our own

    def strays(self) -> str:
        """How many rows hold a cell of a kind that was not there when the kinds were asked (SQLite)."""
        allowed = {"integer": "integer", "double": "real", "text": "text"}
        strange = []
        for name, kinds in self.kinds.items():
            listed = ", ".join(f"'{allowed[kind]}'" for kind in sorted(kinds) if kind in allowed)
            strange.append(f"NOT TYPEOF({self.spelling.column(name)}) IN ('null'{', ' if listed else ''}{listed})")
        return f"SELECT COUNT(*) AS n FROM {self.query} AS q WHERE {' OR '.join(strange)}"  # noqa: S608, names and literals of our own

    def code_rows(self) -> tuple[dict[str, str], list[tuple[object, ...]]]:
        """The table of wanted codes: its columns and rows."""
        columns = {"code": "int64" if self.counts_codes else "string", "atom": "int64", "told": "int64"}
        if self.entry.system_column:
            columns = {"system": "string", **columns}
        rows: list[tuple[object, ...]] = []
        for system, code, atom, told in self.codes:
            spelled = int(code) if self.counts_codes else code
            rows.append((*((system,) if self.entry.system_column else ()), spelled, atom, told))
        return columns, rows

    def cells(self) -> str:
        """The step ``wardround_rows_N``: each row's cells, with its number in the key's order."""
        entry, spell = self.entry, self.spelling
        patient = self._text(entry.patient, "q", missing=False)
        given = {"key": spell.column(entry.key), "patient": patient}
        for setting in ("time", "known"):
            name = getattr(entry, setting)
            given[f"{setting}_us"] = self.instant(name, setting) if name else spell.cell(None, "int64")
            given[f"{setting}_cell"] = spell.column(name) if name else "NULL"
        if self.rows.fixed is not None:
            given["time_us"] = spell.cell(self.rows.fixed.time_us, "int64")
        for setting in ("status", "order_key", "value", "unit", "comparator"):
            name = getattr(entry, setting)
            missing = setting != "order_key"
            given[setting] = self._text(name, "q", missing=missing) if name else spell.cell(None, "string")
        given["number"] = spell.column(entry.number) if entry.number else spell.cell(None, "float64")
        for place in self.atoms:
            given[f"cell_{place}"] = spell.column(entry.columns[place].source)
        joined = ""
        if entry.code:
            given |= {"atom": "c.atom", "told": "c.told"}
            code = spell.column(entry.code) if self.counts_codes else self._text(entry.code, "q")
            joined = f" JOIN wardround_codes_{self.place} AS c ON {code} = c.code"
            if entry.system_column:
                joined += f" AND {self._text(entry.system_column, 'q')} = c.system"
        cells = ", ".join(f"{cell} AS {name}" for name, cell in given.items())
        over = "OVER (ORDER BY k.key)"
        return (
            f"SELECT k.*, ROW_NUMBER() {over} - 1 AS number_of_row, LAG(k.key) {over} AS key_before "  # noqa: S608, names and literals of our own
            f"FROM (SELECT {cells} FROM {self.query} AS q{joined}) AS k"
        )

    def events(self) -> Iterator[str]:
        """Each kind of fact of the rows, as `COLUMNS`."""
        if self.entry.code:
            yield self._long()
            return
        for count, place in enumerate(self.atoms):
            # What becomes of a whole row is counted once.
            again = "" if not count else f" WHERE {self._row_outcome()} = 0"
            yield self._wide(place) + again

    def _long(self) -> str:
        entry, spell = self.entry, self.spelling
        number, given, strange = self._number("r.number") if entry.number else ("NULL", "1 = 0", "1 = 0")
        value, unlisted = self._value("r.value", entry.values) if entry.value else ("NULL", "1 = 0")
        has_value = f"{value} IS NOT NULL" if entry.value else "1 = 0"
        odd = bound = "1 = 0"
        if entry.comparator and entry.number:
            bound = f"(COALESCE(r.comparator IN ({self._listed(_BOUNDS)}), 1 = 0))"
            odd = f"(r.comparator IS NOT NULL AND NOT r.comparator IN ({self._listed(COMPARATORS)}))"
            number = f"CASE WHEN NOT {odd} AND NOT {bound} THEN {number} END"
        cases = [(f"{unlisted} AND NOT {given}", Outcome.UNLISTED)]
        if entry.number or entry.value:
            cases.append((f"NOT ({given} OR {has_value} OR {strange})", Outcome.ABSENT))
        unit = spell.literal(entry.unit_fixed) if entry.unit_fixed else "r.unit"
        cases.append((self._too_long("r.patient", value, unit, "r.order_key"), Outcome.TOO_LONG))
        remarks = {
            f"({strange} AND NOT {unlisted})": Remark.UNREADABLE,
            odd: Remark.COMPARATOR,
            bound: Remark.BOUND,
            f"({unlisted} AND {given})": Remark.UNLISTED,
        }
        return self._event(
            {"atom": "r.atom", "told": "r.told", "number": number, "value": value, "unit": unit}, cases, remarks
        )

    def _wide(self, place: int) -> str:
        column = self.entry.columns[place]
        system, code = coded(column)
        cell = f"r.cell_{place}"
        given = dict(zip(("atom", "told"), map(str, self.atoms[place]), strict=True))
        if system == PATIENT and code in _MOMENTS:
            return self._moment(given, column, cell, is_birth=code == _BIRTH)
        if system == PATIENT and code == _SEX:
            given |= {"time_us": "NULL", "known_us": "NULL"}
        if column.values or column.text:
            text = self.spelling.without(self.spelling.trimmed(cell), self.rows.missing_texts.to_pylist())
            value, unlisted = self._value(text, column.values)
            given["value"] = value
            cases = [(unlisted, Outcome.UNLISTED), (f"{value} IS NULL", Outcome.ABSENT)]
            remarks = {}
        else:
            number, is_given, strange = self._number(cell)
            given |= {"number": number, "unit": self.spelling.literal(column.unit) if column.unit else "NULL"}
            cases, remarks = [(f"NOT ({is_given} OR {strange})", Outcome.ABSENT)], {strange: Remark.UNREADABLE}
        cases.append((self._too_long("r.patient", given.get("value", "NULL"), "r.order_key"), Outcome.TOO_LONG))
        return self._event(given, cases, remarks)

    def _moment(self, given: dict[str, str], column: WideColumn, cell: str, *, is_birth: bool) -> str:
        spell = self.spelling
        if is_birth:
            (kind,) = self.kinds[column.source] or {"date" if "date" in spell.days else "text"}
            time = spell.instant(cell, spell.days[kind])
            vague = spell.vague.format(x=cell, blanks=spell.literal(" \t\r\n"))
        else:
            time, vague = self.instant(column.source, "columns", cell), "1 = 0"
        blank = f"{cell} IS NULL"
        if self.kinds[column.source] == {"text"}:
            blank = f"{spell.without(spell.trimmed(cell), self.rows.missing_texts.to_pylist())} IS NULL"
        cases = [
            (blank, Outcome.NOTHING),
            (vague, Outcome.VAGUE_BIRTH),
            (f"{time} IS NULL", Outcome.UNPARSEABLE_TIME),
            (self._too_long("r.patient", "r.order_key"), Outcome.TOO_LONG),
        ]
        given |= {"time_us": time, "known_us": "NULL", "status": "0"}
        return self._event(given, cases, {}, is_moment=True)

    def _event(
        self,
        given: Mapping[str, str],
        cases: Sequence[tuple[str, Outcome]],
        remarks: Mapping[str, Remark],
        *,
        is_moment: bool = False,
    ) -> str:
        spell = self.spelling
        said = dict(remarks)
        status = "0"
        if self.entry.status:
            known = {**_NUMBERED, **{word: _NUMBERED[status] for word, status in self.entry.statuses.items()}}
            unknown = f"(r.status IS NOT NULL AND NOT r.status IN ({self._listed(known)}))"
            status = f"CASE WHEN r.status IS NULL THEN 0 WHEN {unknown} THEN {_NUMBERED['unknown']} "
            status += f"ELSE {spell.meant('r.status', known.items())} END"
            if not is_moment:
                said[unknown] = Remark.STATUS
        person = spell.literal(f"{self.namespace}|") + f" || {spell.stripped('r.patient')}"
        cells = {
            "patient": person,
            "time_us": "r.time_us",
            "known_us": "r.known_us",
            "number": "NULL",
            "value": "NULL",
            "unit": "NULL",
            "status": status,
            "order_key": "r.order_key",
            "source": str(self.source),
            "row": f"{self.block * _BLOCK_ROWS} + r.number_of_row",
            "place": str(self.place),
            "outcome": f"CASE WHEN {self._row_outcome()} > 0 THEN {self._row_outcome()} {_whens(cases)} ELSE 0 END",
            "remark": " + ".join(f"CASE WHEN {where} THEN {remark} ELSE 0 END" for where, remark in said.items())
            or "0",
            **given,
        }
        cells["unit"] = f"COALESCE({cells['unit']}, '')"
        kinds = {"number": "float64"} | dict.fromkeys(("patient", "value", "unit", "order_key"), "string")
        typed = {name: f"CAST({cells[name]} AS {spell.type(kinds.get(name, 'int64'))})" for name in COLUMNS}
        listed = ", ".join(
            f"{cell}{spell.binary if kinds.get(name) == 'string' else ''} AS {name}" for name, cell in typed.items()
        )
        return f"SELECT {listed} FROM wardround_rows_{self.place} AS r"  # noqa: S608, names and literals of our own

    def _row_outcome(self) -> str:
        bad = {setting: f"(r.{setting}_cell IS NOT NULL AND r.{setting}_us IS NULL)" for setting in ("time", "known")}
        cases = [
            ("r.key IS NULL", Outcome.NO_KEY),
            ("r.key = r.key_before", Outcome.KEY_TWICE),
            ("r.patient IS NULL", Outcome.NO_PATIENT),
        ]
        if self.entry.time:
            cases += [(bad["time"], Outcome.UNPARSEABLE_TIME), ("r.time_us IS NULL", Outcome.NO_TIME)]
        if self.entry.known:
            cases.append((bad["known"], Outcome.UNPARSEABLE_TIME))
        return f"(CASE {_whens(cases)} ELSE 0 END)"

    def _number(self, cell: str) -> tuple[str, str, str]:
        spell = self.spelling
        number = f"CAST({cell} AS {spell.type('float64')})"
        given = f"(ABS({number}) < {spell.infinity})"
        if missing := self.rows.missing_numbers.to_pylist():
            listed = ", ".join(spell.cell(float(one), "float64") for one in missing)
            given = f"({given} AND NOT {number} IN ({listed}))"
        given = f"(COALESCE({given}, 1 = 0))"
        strange = f"(COALESCE(ABS({number}) = {spell.infinity}, 1 = 0))"
        return f"CASE WHEN {given} THEN {number} END", given, strange

    def _value(self, text: str, words: Mapping[str, str]) -> tuple[str, str]:
        if not words:
            return text, "1 = 0"
        meant = self.spelling.meant(text, [(word, self.spelling.literal(value)) for word, value in words.items()])
        return meant, f"({text} IS NOT NULL AND {meant} IS NULL)"

    def _text(self, name: str, table: str, *, missing: bool = True) -> str:
        text = self.spelling.trimmed(self.spelling.column(name, table))
        return self.spelling.without(text, self.rows.missing_texts.to_pylist() if missing else ())

    def instant(self, name: str, setting: str, cell: str = "") -> str:
        """A column of times as microseconds.

        Raises:
            ConfigError: It holds something that the engine cannot place exactly.
        """
        entry, spell = self.entry, self.spelling
        cell = cell or spell.column(name)
        kinds = self.kinds[name]
        templates = {**spell.instants, **(spell.naive if self.rows.zone == "UTC" else {})}
        if not kinds:
            return spell.cell(None, "int64")
        if entry.epoch and kinds == {"integer"}:
            return spell.counted(cell, entry.epoch)
        if not entry.epoch and len(kinds) == 1 and (template := templates.get(next(iter(kinds)))):
            return spell.instant(cell, template)
        raise self.refused(
            f"cannot place the times of {setting} ({name!r} holds {self.held(name)}): give whole microseconds since "
            "1970 UTC in the query, and epoch = 'us'"
        )

    def held(self, name: str) -> str:
        """What a column holds, for an error."""
        return " and ".join(sorted(self.kinds[name])) or "nothing"

    def refused(self, what: str) -> ConfigError:
        """The error of a setting that cannot be followed exactly."""
        return ConfigError(f"{self.where}: executor 'push-down' {what}, or write executor = 'embedded'")

    def _listed(self, words: Iterable[str]) -> str:
        return ", ".join(self.spelling.literal(word) for word in words)

    def _too_long(self, *texts: str) -> str:
        return " OR ".join(
            f"COALESCE({self.spelling.length.format(x=f'({text})')}, 0) > {_LONGEST}"
            for text in texts
            if text != "NULL"
        )


def _whens(cases: Sequence[tuple[str, Outcome]]) -> str:
    return " ".join(f"WHEN {where} THEN {int(outcome)}" for where, outcome in cases)
