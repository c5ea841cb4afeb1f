"""How three engines spell what the feature plan needs of a hospital's own tables: texts, numbers and instants.

What is written here gives in each engine what `wardround.sources.event_cells` and `wardround.sources.event_times` give
for the same cells; a cell for which it would not has a kind that is not listed, and is refused by its column's name.

Texts compare by their bytes, whatever collation a column has. Numbers are written as a whole number and powers of two,
so that no engine has to read a decimal: not all of them round it to the nearest.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlglot import exp

from wardround.harmonization import times
from wardround.sources.event_cells import BLANKS

__all__ = ["SPELLINGS", "Spelling", "number"]

_SPACES: Final = "".join(chr(place) for place in range(0x3001) if chr(place).isspace())
"""What Python's own `str.strip` takes from an identifier's ends."""
_PER_US: Final = {"s": "1000000.0", "ms": "1000.0", "us": "1.0"}
_DAY: Final = "86400000000"
_MOST_POWER: Final = 62
_SQLITE_DAY: Final = "TRIM(SUBSTRING({x}, 1, 10), {blanks})"
_DIGIT: Final = "[0-9]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """One engine's SQL; in a template ``{x}`` is the SQL of a cell.

    Attributes:
        dialect: sqlglot's name of it.
        compiler: ibis' name of it.
        text: A cell as a text, without the characters `{chars}` at its ends.
        length: A text's length in bytes.
        instants: For each kind of column that states instants their microseconds; null where they are beyond all years.
        naive: The same for columns that state times of no zone, where the site's zone is UTC.
        days: For each kind of column that states days their microseconds; null where it is no day.
        vague: Whether a text is a year or a month, and so no day.
        numbers: Kinds of columns that are numbers, exactly.
        texts: Kinds of columns whose cells are texts as they are.
        infinity: The number.
        binary: What makes a text compare by its bytes, where it would not.
        keeps: Whether a step's rows can be kept for the next steps, rather than be computed again for each.
    """

    dialect: str
    compiler: str
    text: str
    length: str
    instants: Mapping[str, str] = field(default_factory=dict)
    naive: Mapping[str, str] = field(default_factory=dict)
    days: Mapping[str, str] = field(default_factory=dict)
    vague: str = "1 = 0"
    numbers: frozenset[str] = frozenset({"integer", "double"})
    texts: frozenset[str] = frozenset({"text", "integer", "boolean"})
    infinity: str = "CAST('Infinity' AS DOUBLE)"
    binary: str = ""
    keeps: bool = True

    def column(self, name: str, table: str = "q") -> str:
        """A column of a table, by the name that the engine gave it."""
        return exp.column(exp.to_identifier(name, quoted=True), table=table).sql(self.dialect)

    def literal(self, text: str) -> str:
        """A text."""
        return exp.Literal.string(text).sql(self.dialect)

    def cell(self, value: object, kind: str) -> str:
        """A value of our own, of one of the kinds of the plan's tables: int64, float64 or string."""
        if value is None:
            written = "NULL"
        elif isinstance(value, float):
            return number(value, self.type("float64"))
        else:
            written = self.literal(value) if isinstance(value, str) else str(value)
        return f"CAST({written} AS {self.type(kind)})"

    def type(self, kind: str) -> str:
        """The engine's type for a kind of the plan's tables."""
        name = {"int64": "BIGINT", "float64": "DOUBLE", "string": "TEXT"}[kind]
        return exp.DataType.build(name).sql(self.dialect)

    def trimmed(self, x: str) -> str:
        """A cell as a text without white space around it; null where nothing is left."""
        return f"NULLIF({self._stripped(x, BLANKS)}, '')"

    def stripped(self, x: str) -> str:
        """A text as `str.strip` leaves it."""
        return self._stripped(x, _SPACES)

    def without(self, x: str, tokens: Sequence[str]) -> str:
        """A text, null where it is one of the tokens."""
        listed = ", ".join(self.literal(token) for token in tokens)
        return f"CASE WHEN NOT {x} IN ({listed}) THEN {x} END" if tokens else x

    def meant(self, x: str, words: Iterable[tuple[str, str]]) -> str:
        """A text by a list of words and the SQL of what each means; null for others."""
        cases = " ".join(f"WHEN {self.literal(word)} THEN {meaning}" for word, meaning in words)
        return f"CASE {x} {cases} END" if cases else "NULL"

    def counted(self, x: str, epoch: str) -> str:
        """Whole seconds, or parts of them, since 1970 as microseconds."""
        double = self.type("float64")
        return self._within(f"CAST({x} AS {double}) * {_PER_US[epoch]}")

    def instant(self, x: str, template: str) -> str:
        """An instant or a day as microseconds; null where it lies beyond the years that there are."""
        return self._within(template.format(x=x, blanks=self.literal(BLANKS), day=_DAY))

    def _within(self, micros: str) -> str:
        inside = f"{micros} >= {times.EARLIEST_US} AND {micros} < {times.LATEST_US}"
        return f"CASE WHEN {inside} THEN CAST({micros} AS {self.type('int64')}) END"

    def _stripped(self, x: str, chars: str) -> str:
        return self.text.format(x=x, chars=self.literal(chars))


def number(value: float, double: str) -> str:
    """A finite number as an expression that is exact in any engine whose `double` has 53 bits."""
    mantissa, divisor = value.as_integer_ratio()
    power = -(divisor.bit_length() - 1)
    while mantissa and not mantissa % 2:
        mantissa, power = mantissa // 2, power + 1
    written, sign = f"CAST({mantissa} AS {double})", "*" if power > 0 else "/"
    left = abs(power)
    while left:
        step = min(left, _MOST_POWER)
        written, left = f"{written} {sign} CAST({2**step} AS {double})", left - step
    return written


_SQLITE: Final = Spelling(
    dialect="sqlite",
    compiler="sqlite",
    text="TRIM(CAST({x} AS TEXT), {chars})",
    length="LENGTH(CAST({x} AS BLOB))",
    days={
        "text": f"CASE WHEN {_SQLITE_DAY} GLOB '{_DIGIT * 4}-{_DIGIT * 2}-{_DIGIT * 2}' "
        f"AND STRFTIME('%Y-%m-%d', {_SQLITE_DAY}) = {_SQLITE_DAY} "
        f"THEN CAST(JULIANDAY({_SQLITE_DAY}) - 2440587.5 AS INTEGER) * {{day}} END"
    },
    vague=f"({_SQLITE_DAY} GLOB '{_DIGIT * 4}' OR {_SQLITE_DAY} GLOB '{_DIGIT * 4}-{_DIGIT * 2}')",
    texts=frozenset({"text", "integer"}),
    infinity="9e999",
    binary=" COLLATE BINARY",
)
_POSTGRES: Final = Spelling(
    dialect="postgres",
    compiler="postgres",
    text='TRIM({chars} FROM CAST({x} AS TEXT)) COLLATE "C"',
    binary=' COLLATE "C"',
    length="OCTET_LENGTH({x})",
    instants={
        "timestamptz": "CASE WHEN ISFINITE({x}) THEN CAST(EXTRACT(EPOCH FROM {x}) * 1000000 AS BIGINT) END",
    },
    naive={
        "timestamp": "CASE WHEN ISFINITE({x}) THEN CAST(EXTRACT(EPOCH FROM {x}) * 1000000 AS BIGINT) END",
        "date": "CASE WHEN ISFINITE({x}) THEN CAST({x} - DATE '1970-01-01' AS BIGINT) * {day} END",
    },
    days={
        "timestamp": "CASE WHEN ISFINITE({x}) THEN CAST(CAST({x} AS DATE) - DATE '1970-01-01' AS BIGINT) * {day} END",
        "date": "CASE WHEN ISFINITE({x}) THEN CAST({x} - DATE '1970-01-01' AS BIGINT) * {day} END",
    },
    numbers=frozenset({"integer", "double", "numeric"}),
    infinity="CAST('Infinity' AS DOUBLE PRECISION)",
)
_SPARK: Final = Spelling(
    dialect="spark",
    compiler="pyspark",
    text="TRIM(BOTH {chars} FROM CAST({x} AS STRING))",
    length="OCTET_LENGTH({x})",
    days={"date": "CAST(DATEDIFF(DAY, DATE '1970-01-01', {x}) AS BIGINT) * {day}"},
    keeps=False,
)
SPELLINGS: Final[Mapping[str, Spelling]] = {one.dialect: one for one in (_SQLITE, _POSTGRES, _SPARK)}
"""The engines that are known to compute what DuckDB computes in this process, by sqlglot's name of their SQL."""
