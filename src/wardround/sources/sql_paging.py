"""Pages of a query by a key, so that a live system is never held for long, and not asked for more than it can bear.

    SELECT columns FROM (the mapping's query) AS page WHERE key >= last ORDER BY key LIMIT rows + 1

Each page is a statement and a transaction of its own. It begins with the last row of the page before, which must be
there, once: so that two rows of one key are noticed wherever a page ends, and nothing is left out without a word. Rows
without a key are looked for in the end.

The rows are those that were there when their page was read. What is added behind the key meanwhile is read, what
changes before it is not read again; the last key is the high-water mark.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from sqlglot import exp

from wardround.errors import ClinicalError, UnavailableError
from wardround.sources.sql_sessions import Session

__all__ = ["PAGE", "Pace", "column", "pages", "within"]

PAGE: Final = "wardround_page"
"""What the mapping's query is called where more is asked of it."""


class Pace:
    """A bucket of tokens: rows that may be read, so many in a second, and at once as many as in one second.

    Args:
        rows_per_second: At most; None: without bound.
        clock: Seconds that only grow.
        wait: Waits for so many seconds.
    """

    def __init__(
        self, rows_per_second: float | None, clock: Callable[[], float], wait: Callable[[float], None]
    ) -> None:
        self._rate = rows_per_second
        self._clock = clock
        self._wait = wait
        self._tokens = rows_per_second or 0.0
        self._then = clock()

    def spend(self, rows: int) -> None:
        """Rows were read: wait until they may have been."""
        if self._rate is None:
            return
        now = self._clock()
        self._tokens = min(self._rate, self._tokens + (now - self._then) * self._rate) - rows
        self._then = now
        if self._tokens < 0:
            self._wait(-self._tokens / self._rate)


def column(name: str) -> exp.Column:
    """A column of `PAGE`, by the name that the database gave it."""
    return exp.column(exp.to_identifier(name, quoted=True), table=PAGE)


def within(query: exp.Query, columns: list[str], conditions: Sequence[exp.Expression]) -> exp.Select:
    """The query, with these of its columns, narrowed."""
    asked = exp.Select().select(*(column(name) for name in columns)).from_(query.copy().subquery(PAGE))
    return asked.where(*conditions) if conditions else asked


def pages(
    session: Session,
    query: exp.Query,
    columns: list[str],
    *,
    key: str,
    page_rows: int,
    pace: Pace,
    conditions: Sequence[exp.Expression],
    values: dict[str, object],
) -> Iterator[pa.RecordBatch]:
    """All rows of the query in the order of its key.

    Raises:
        ClinicalError: The key is no key: it is null somewhere, occurs twice, or is neither a number nor a text.
        UnavailableError: The row of the last key is gone: the table changed, read it again.
    """
    read = list(dict.fromkeys([*columns, key]))
    last: object = None
    beyond = exp.GTE(this=column(key), expression=exp.Placeholder(this="last"))
    while True:
        asked = within(query, read, conditions if last is None else [*conditions, beyond])
        asked = asked.order_by(column(key)).limit(page_rows if last is None else page_rows + 1)
        page = session.fetch(asked, values if last is None else values | {"last": last})
        pace.spend(page.num_rows)
        _check_keys(page.column(key), key, last)
        fresh = page if last is None else page.slice(1)
        if fresh.num_rows:
            last = page.column(key)[-1].as_py()
            yield fresh
        if fresh.num_rows < page_rows:
            break
    _check_no_nulls(session, query, key, conditions, values)


def _check_keys(keys: pa.Array, name: str, last: object) -> None:
    if not (pa.types.is_integer(keys.type) or pa.types.is_string(keys.type) or pa.types.is_null(keys.type)):
        raise ClinicalError(f"the key {name!r} is neither a whole number nor a text")
    if keys.null_count:
        raise ClinicalError(f"the key {name!r} is null in some rows: choose one that every row has")
    if len(keys) > 1 and pc.any(pc.equal(keys[1:], keys[:-1])).as_py():
        raise ClinicalError(f"the key {name!r} occurs twice: choose one that is unique")
    if last is not None and (not len(keys) or keys[0].as_py() != last):
        raise UnavailableError(f"rows changed while they were read by the key {name!r}: read them again")


def _check_no_nulls(
    session: Session, query: exp.Query, key: str, conditions: Sequence[exp.Expression], values: dict[str, object]
) -> None:
    missing = exp.Is(this=column(key), expression=exp.Null())
    if session.fetch(within(query, [key], [*conditions, missing]).limit(1), values).num_rows:
        raise ClinicalError(f"the key {key!r} is null in some rows: choose one that every row has")
