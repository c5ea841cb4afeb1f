"""The feature plan: from facts to what every record needs, as Ibis expressions that any engine can run.

Nothing here names an engine. Times are whole microseconds, "the last" is a rank, sums are sums of whole numbers, and
every order is settled to the last tie, so that DuckDB, PostgreSQL, SQLite or Spark give the same numbers, bit for bit.

Steps, in this order; what a step leaves out is counted under its `Reason`:

1. Of several versions of one fact (one patient, source and order key) only the latest row stands, by when it was known,
   then by its number; a version that was given another code, which nobody wants, is not seen and replaces nothing.
2. Facts of another status than final, amended or corrected are left out, and so are facts from the future.
3. A number is converted into the need's unit; one without a conversion, or outside the plausible range, is left out.
4. Facts that say the same of the same patient at the same time are one: the same value, or numbers within 0.2 %
   of each other (a temperature charted in two units).
5. The index event gives each record its time; a record's facts are those known within the need's window.
6. For each record and need: how many, the extremes, exact sums, and the first, last or middle one.

A sum is exact: a number counts in units of 2^-40 of its need's range (`quantum`), slopes' numbers in 2^-20 and their
times in minutes.
"""

import math
from enum import IntEnum
from typing import Any, Final

from wardround.harmonization.events import KEPT_STATUSES, STATUSES
from wardround.harmonization.needs import Need, quantities
from wardround.harmonization.times import DAY_US

__all__ = [
    "SERVES",
    "UNITS",
    "WINDOWS",
    "Plan",
    "Reason",
    "facts_schema",
    "quantum",
    "serves_rows",
    "windows_rows",
]

SAME: Final = 0.002
SERVES: Final = {
    "atom": "int64",
    "quantity": "int64",
    "is_numeric": "int64",
    "minimum": "float64",
    "maximum": "float64",
}
WINDOWS: Final = {"quantity": "int64", "need": "int64", "from_us": "int64", "to_us": "int64", "scale": "float64"}
UNITS: Final = {"quantity": "int64", "unit": "int64", "factor": "float64", "shift": "float64"}

_MINUTE_US: Final = 60_000_000
_LONG_AGO: Final = -(2**62)
_FAR_OFF: Final = 2**62
_FINE, _COARSE = 40, 20
_KEPT: Final = tuple(STATUSES.index(status) for status in KEPT_STATUSES)


class Reason(IntEnum):
    """What became of a fact that serves a need."""

    USED = 0
    SUPERSEDED = 1
    STATUS = 2
    FUTURE = 3
    NO_VALUE = 4
    UNKNOWN_UNIT = 5
    TOO_LOW = 6
    TOO_HIGH = 7
    DUPLICATE = 8


def facts_schema(text: str = "int64") -> dict[str, str]:
    """The columns of the facts; patients, units, values, order keys, sources and arrays are numbers or texts."""
    return {
        "patient": text,
        "atom": "int64",
        "time_us": "int64",
        "known_us": "int64",
        "number": "float64",
        "value": text,
        "unit": text,
        "status": "int64",
        "order_key": text,
        "source": "int64",
        "row": "int64",
        "array": text,
    }


def quantum(need: Need) -> float:
    """The power of two by which a need's numbers are multiplied before they are summed as whole numbers.

    Numbers in the need's range come out below 2^40, so that four million of them can be summed.
    """
    largest = max(abs(need.minimum or 0.0), abs(need.maximum or 0.0), 2.0**-60)
    return 2.0 ** (_FINE - math.ceil(math.log2(largest)))


def serves_rows(served: list[frozenset[int]], needs: tuple[Need, ...]) -> list[tuple[Any, ...]]:
    """The rows of the table ``serves``: for each atom its quantities, with what is plausible of them."""
    of = quantities(needs)[0]
    rows = []
    for atom, places in enumerate(served):
        for place in sorted(places):
            need = of[place]
            bounds = (need.minimum, need.maximum) if need.is_numeric else (None, None)
            rows.append((atom, place, int(need.is_numeric), *bounds))
    return rows


def windows_rows(needs: tuple[Need, ...]) -> list[tuple[Any, ...]]:
    """The rows of the table ``windows``: for each need of a record its quantity, its window, and how it is summed."""
    rows = []
    for place, (need, quantity) in enumerate(zip(needs, quantities(needs)[1], strict=True)):
        if need.role not in {"index", "birth", "death", "consent"}:
            is_summed = need.is_numeric and need.derive.aggregate in {"mean", "sum", "slope"}
            rows.append((quantity, place, *need.window_us, quantum(need) if is_summed else None))
    return rows


class Plan:
    """The expressions of one contract, and their SQL.

    Args:
        needs: The contract's needs.
        pick: Which index event of a patient makes a record.
        now_us: Facts known after this are from the future; None where a site's dates are shifted.
        text: The type of patients, units and values in the engine's facts: "int64" where they are numbered.
    """

    def __init__(self, needs: tuple[Need, ...], pick: str, now_us: int | None, text: str = "int64") -> None:
        self.needs = needs
        self.pick = pick
        self.now_us = now_us
        self.text = text
        self.quantities, self._of = quantities(needs)
        self._statements: dict[str, dict[str, str]] = {}

    def statements(self, dialect: str) -> dict[str, str]:
        """The steps' SELECTs in an engine's dialect, by name.

        ``judged`` reads the tables ``facts``, ``serves`` and ``units``; ``records``, ``counted``, ``earliest`` and
        ``misplaced`` read ``judged``; ``within_windows`` reads ``judged``, ``records`` and the table ``windows``;
        ``sums``, ``first``, ``last`` and ``medians`` read ``within_windows``, and of the last three only those are
        there that some need wants.
        """
        if dialect not in self._statements:
            import ibis

            def step(name: str, expression: Any) -> Any:  # noqa: ANN401
                made[name] = str(ibis.to_sql(expression, dialect=dialect))
                return ibis.table(expression.schema(), name=name)

            made: dict[str, str] = {}
            judged = step("judged", self.judged())
            step("counted", self.counted(judged))
            step("earliest", self.earliest(judged))
            step("misplaced", self.misplaced(judged))
            if any(need.role == "consent" for need in self.needs):
                step("consents", self.consents(judged))
            within = step("within_windows", self.within(judged, step("records", self.records(judged))))
            step("sums", self.sums(within))
            for name in ("first", "last"):
                if places := self._wanting(name):
                    step(name, self.picked(within, places, last=name == "last"))
            if places := self._wanting("median"):
                step("medians", self.medians(within, places))
            self._statements[dialect] = made
        return self._statements[dialect]

    def _wanting(self, step: str) -> list[int]:
        # What is the value at a time is the last one known by then; arrays and consent are picked, never summed.
        also = {"value_at": "last", "array": "last"}
        return [
            place
            for place, need in enumerate(self.needs)
            if also.get(need.derive.aggregate, need.derive.aggregate) == step
            and need.role in {"column", "label", "holdout", "criterion"}
        ]

    def of_needs(self, counted: list[dict[str, int]]) -> dict[tuple[int, Reason], int]:
        """The rows of ``counted`` for each need, whose quantity's they are."""
        found = {(row["quantity"], Reason(row["reason"])): row["facts"] for row in counted}
        return {
            (place, reason): found[quantity, reason]
            for place, quantity in enumerate(self._of)
            for reason in Reason
            if (quantity, reason) in found
        }

    def misplaced_of_needs(self, rows: list[dict[str, int]]) -> dict[int, tuple[int, int]]:
        """The rows of ``misplaced`` for each need: facts before a birth, and after a death."""
        found = {row["quantity"]: (int(row["before_birth"]), int(row["facts"] - row["before_birth"])) for row in rows}
        return {place: found[quantity] for place, quantity in enumerate(self._of) if quantity in found}

    def _quantity(self, role: str) -> int:
        return next(place for place, need in zip(self._of, self.needs, strict=True) if need.role == role)

    def judged(self) -> Any:  # noqa: ANN401, ibis is loaded when wanted
        """Each fact for each quantity that it serves, converted, with the reason for which it counts or not."""
        import ibis

        facts = ibis.table(facts_schema(self.text), name="facts")
        serves = ibis.table(SERVES, name="serves")
        units = ibis.table({**UNITS, "unit": self.text}, name="units")
        facts = facts.mutate(at=ibis.coalesce(facts.known_us, facts.time_us))
        joined = _versioned(facts).join(serves, "atom").left_join(units, ["quantity", "unit"])
        joined = joined.drop("quantity_right", "unit_right")
        number = joined.number * joined.factor + joined.shift
        number = ibis.ifelse(joined.is_numeric == 1, number, joined.number)
        joined = joined.mutate(number=number, raw=joined.number)
        joined = joined.mutate(reason=self._reason(joined))
        window = ibis.window(
            group_by=[joined[name] for name in ("patient", "quantity", "reason", "time_us", "at", "value", "array")],
            order_by=[joined.number, joined.source, joined.row],
        )
        judged = joined.mutate(before=joined.number.lag().over(window), place=ibis.row_number().over(window))
        is_same = (judged.number - judged.before) <= SAME * judged.number.abs()
        is_same = is_same | (judged.number.isnull() & (judged.place > 0))
        reason = ibis.cases(((judged.reason == Reason.USED) & is_same, int(Reason.DUPLICATE)), else_=judged.reason)
        return judged.mutate(reason=reason).select(
            "patient", "quantity", "time_us", "at", "number", "value", "status", "source", "row", "array", "reason",
        )  # fmt: skip

    def counted(self, judged: Any) -> Any:  # noqa: ANN401
        """For each quantity and reason the number of facts."""
        return judged.group_by("quantity", "reason").aggregate(facts=judged.count()).order_by("quantity", "reason")

    def earliest(self, judged: Any) -> Any:  # noqa: ANN401
        """For each patient the first instant at which anything was known but the birth."""
        known = judged.filter(
            judged.quantity != self._quantity("birth"), judged.reason == Reason.USED, judged["at"].notnull()
        )
        return known.group_by("patient").aggregate(earliest=known["at"].min())

    def consents(self, judged: Any) -> Any:  # noqa: ANN401
        """All that was said of consent, whatever its status; only what a later version replaced is left out."""
        said = judged.filter(
            judged.quantity == self._quantity("consent"), ~judged.reason.isin([Reason.SUPERSEDED, Reason.DUPLICATE])
        )
        return said.select("patient", "time_us", "at", "value", "status")

    def misplaced(self, judged: Any) -> Any:  # noqa: ANN401
        """For each quantity the facts that hold a day or more before their patient's birth, or after the death."""
        import ibis

        used = judged.filter(judged.reason == Reason.USED, judged.time_us.notnull())
        births = used.filter(used.quantity == self._quantity("birth"))
        births = births.group_by("patient").aggregate(born=births.time_us.min())
        deaths = used.filter(used.quantity == self._quantity("death"))
        deaths = deaths.group_by("patient").aggregate(died=deaths.time_us.max())
        placed = used.left_join(births, "patient").drop("patient_right")
        placed = placed.left_join(deaths, "patient").drop("patient_right")
        early = placed.time_us < placed.born - DAY_US
        late = placed.time_us > placed.died + DAY_US
        wrong = placed.filter(early | late)
        return wrong.group_by("quantity").aggregate(
            before_birth=ibis.ifelse(wrong.time_us < wrong.born - DAY_US, 1, 0).sum().cast("int64"),
            facts=wrong.count(),
        )

    def records(self, judged: Any) -> Any:  # noqa: ANN401
        """One row for each record: the patient and the index time."""
        events = judged.filter(
            judged.quantity == self._quantity("index"), judged.reason == Reason.USED, judged["at"].notnull()
        )
        if self.pick == "each":
            return events.select(events.patient, index_us=events["at"]).distinct()
        moment = events["at"].min() if self.pick == "first" else events["at"].max()
        return events.group_by("patient").aggregate(index_us=moment)

    def within(self, judged: Any, records: Any) -> Any:  # noqa: ANN401
        """Each record's facts: those that count, and were known within their need's window."""
        import ibis

        used = judged.filter(judged.reason == Reason.USED).drop("reason")
        joined = used.join(records, "patient").join(ibis.table(WINDOWS, name="windows"), "quantity")
        delta = joined["at"] - joined.index_us
        is_ever = joined.from_us.isnull() & joined.to_us.isnull()
        is_after = joined.from_us.isnull() | (delta > joined.from_us)
        is_before = joined.to_us.isnull() | (delta <= joined.to_us)
        is_dated = joined["at"].notnull()
        return joined.filter(is_ever | (is_dated & is_after & is_before)).drop("from_us", "to_us", "quantity")

    def sums(self, within: Any) -> Any:  # noqa: ANN401
        """For each record and need: number, extremes, exact sums, and the first and last clinical time."""
        import ibis

        slopes = self._wanting("slope")
        when = ibis.coalesce(within.time_us, within["at"])
        minutes = ibis.cases((within.need.isin(slopes), ((when - within.index_us) / _MINUTE_US).floor()))
        fine = (within.number * within.scale + 0.5).floor().cast("int64")
        coarse = (within.number * within.scale * 2.0 ** (_COARSE - _FINE) + 0.5).floor().cast("int64")
        timed = within.mutate(when=when, minutes=minutes.cast("int64"), fine=fine, coarse=coarse)
        return timed.group_by("patient", "index_us", "need").aggregate(
            facts=timed.count(),
            least=timed.number.min(),
            most=timed.number.max(),
            total=timed.fine.sum().cast("int64"),
            first_us=timed.when.min(),
            last_us=timed.when.max(),
            t=timed.minutes.sum().cast("int64"),
            tt=(timed.minutes * timed.minutes).sum().cast("int64"),
            v=timed.coarse.sum().cast("int64"),
            tv=(timed.minutes * timed.coarse).sum().cast("int64"),
        )

    def picked(self, within: Any, places: list[int], *, last: bool) -> Any:  # noqa: ANN401
        """For each record and need of `places` its first or last fact, by clinical time."""
        import ibis

        some = within.filter(within.need.isin(places))
        # Undated facts come last either way; at one instant what was corrected stands over what was final.
        when = ibis.coalesce(some.time_us, some["at"], _LONG_AGO if last else _FAR_OFF)
        ties = [some.source, some.row, some.number, some.value, some.array]
        moment = ibis.desc(when) if last else when
        order = [moment, ibis.desc(some.status), *([ibis.desc(term) for term in ties] if last else ties)]
        window = ibis.window(group_by=[some.patient, some.index_us, some.need], order_by=order)
        ranked = some.mutate(place=ibis.row_number().over(window))
        return ranked.filter(ranked.place == 0).select("patient", "index_us", "need", "number", "value", "array")

    def medians(self, within: Any, places: list[int]) -> Any:  # noqa: ANN401
        """For each record and need of `places` the two middle numbers, which are one where their count is odd."""
        import ibis

        some = within.filter(within.need.isin(places) & within.number.notnull())
        grouping = [some.patient, some.index_us, some.need]
        ranked = some.mutate(
            place=ibis.row_number().over(ibis.window(group_by=grouping, order_by=[some.number])) * 2,
            facts=some.count().over(ibis.window(group_by=grouping)),
        )
        is_middle = (ranked.place >= ranked.facts - 2) & (ranked.place <= ranked.facts)
        middle = ranked.filter(is_middle)
        return middle.group_by("patient", "index_us", "need").aggregate(
            least=middle.number.min(), most=middle.number.max()
        )

    def _reason(self, joined: Any) -> Any:  # noqa: ANN401
        import ibis

        now_us = _FAR_OFF if self.now_us is None else self.now_us
        is_future = (joined["at"] > now_us) | (joined.time_us > now_us)
        is_numeric = joined.is_numeric == 1
        return ibis.cases(
            (joined.version > 0, int(Reason.SUPERSEDED)),
            (joined.status.notin(_KEPT), int(Reason.STATUS)),
            (is_future, int(Reason.FUTURE)),
            (is_numeric & joined.raw.isnull(), int(Reason.NO_VALUE)),
            (is_numeric & joined.factor.isnull(), int(Reason.UNKNOWN_UNIT)),
            (joined.number < joined.minimum, int(Reason.TOO_LOW)),
            (joined.number > joined.maximum, int(Reason.TOO_HIGH)),
            else_=int(Reason.USED),
        )


def _versioned(facts: Any) -> Any:  # noqa: ANN401
    import ibis

    keyed = facts.filter(facts.order_key.notnull())
    version = [keyed.patient, keyed.source, keyed.order_key]
    one_row = ibis.window(group_by=[*version, keyed.row])
    # What one row says, of birth and death as well, is one version.
    keyed = keyed.mutate(said=ibis.coalesce(keyed.known_us, _LONG_AGO).max().over(one_row))
    versions = ibis.window(
        group_by=[keyed[name] for name in ("patient", "source", "order_key")],
        order_by=[ibis.desc(keyed.said), ibis.desc(keyed.row)],
    )
    keyed = keyed.mutate(version=ibis.dense_rank().over(versions).cast("int64")).drop("said")
    alone = facts.filter(facts.order_key.isnull()).mutate(version=ibis.literal(0).cast("int64"))
    return keyed.union(alone)
