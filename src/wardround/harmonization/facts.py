"""Events become facts: only what is wanted, told apart by small numbers, in a database that lives in memory.

Texts (patients, units, values, order keys, arrays) are numbered as they appear, so that a fact takes some seventy bytes
whatever its source wrote. Where facts outgrow the memory allowed, patients are dealt into buckets by a hash of their
identifier, and only those of the present bucket stay: each pass over the sources is exact, and the passes together are
everybody. Every need is per patient, so nothing is lost between buckets.
"""

import zlib
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from wardround.clinical import codes as codes_of
from wardround.errors import ClinicalError
from wardround.harmonization import identity
from wardround.harmonization.events import PATIENT, STATUSES
from wardround.harmonization.needs import UNWANTED, Atoms

__all__ = ["MOST_BUCKETS", "Facts", "Numbers"]

MOST_BUCKETS: Final = 4096
_LOCAL: Final = "local:"
_MOST_CODES: Final = 100_000
_STATUS_NUMBER: Final = {status: number for number, status in enumerate(STATUSES)}
_UNKNOWN: Final = _STATUS_NUMBER["unknown"]
_COLUMNS: Final = {
    "patient": "INTEGER",
    "atom": "INTEGER",
    "time_us": "BIGINT",
    "known_us": "BIGINT",
    "number": "DOUBLE",
    "value": "INTEGER",
    "unit": "INTEGER",
    "status": "TINYINT",
    "order_key": "BIGINT",
    "source": "SMALLINT",
    "row": "BIGINT",
    "array": "INTEGER",
}


class Numbers:
    """Texts numbered from 0 in order of appearance."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._places: dict[str, int] = {}

    def of(self, texts: pa.Array) -> pa.Array:
        """For each text its number, null for null."""
        encoded = texts.dictionary_encode()
        found = [self.number(text) for text in encoded.dictionary.to_pylist()]
        return pa.array(found, pa.int32()).take(encoded.indices)

    def number(self, text: str) -> int:
        """The number of one text."""
        place = self._places.setdefault(text, len(self.texts))
        if place == len(self.texts):
            self.texts.append(text)
        return place


class Facts:
    """The facts of some patients.

    Args:
        database: A connection of `memory_database.open_memory_database`.
        atoms: What is wanted.
        sources: The sources' names; a fact's source is its place among them, sorted.
        bucket: Which patients to keep, and of how many buckets.
        most: How many facts may be kept; beyond it the buckets are doubled, and those that leave the bucket dropped.
        canonical: For a patient's identifier the one that stands for it, where that is known beforehand.
    """

    def __init__(
        self,
        database: Any,  # noqa: ANN401, duckdb is loaded when wanted
        atoms: Atoms,
        sources: list[str],
        *,
        bucket: tuple[int, int] = (0, 1),
        most: int = 2_000_000,
        canonical: Mapping[str, str] | None = None,
    ) -> None:
        self.bucket = bucket
        self.patients, self.values, self.units, self.arrays = Numbers(), Numbers(), Numbers(), Numbers()
        self.unmapped: Counter[tuple[str, str]] = Counter()
        self.invalid: Counter[str] = Counter()
        self.held = 0
        self._database = database
        self._atoms = atoms
        self._sources = {name: place for place, name in enumerate(sorted(sources))}
        self._most = most
        self._canonical = canonical or {}
        self._in_bucket = np.empty(0, dtype=np.bool_)
        self._keys: list[npt.NDArray[np.int64]] = []
        self._told: list[pa.Table] = []
        self._linked: list[tuple[int, int]] = []
        columns = ", ".join(f'"{name}" {kind}' for name, kind in _COLUMNS.items())
        database.execute(f"CREATE TABLE admitted ({columns})")

    def add(self, batch: pa.RecordBatch, namespace: str = "") -> None:
        """Take from a batch of events what is wanted and in the bucket.

        Args:
            batch: Events of one source.
            namespace: What its patients' identifiers are unique in.

        Raises:
            ClinicalError: The facts of one patient are more than the memory allowed can hold.
        """
        atoms = self._told_apart(batch)
        wanted = np.flatnonzero(atoms != UNWANTED)
        if not len(wanted):
            return
        some = batch.take(pa.array(wanted))
        patients = self._numbered(some.column("patient"), namespace)
        here = self._in_bucket[patients]
        if not here.all():
            wanted, patients = wanted[here], patients[here]
            some = batch.take(pa.array(wanted))
        self._insert(some, atoms[wanted], patients)
        self._remember(some, patients)
        while self.held > self._most:
            self._divide()

    def finish(self) -> None:
        """Offer the facts as the view ``facts``; an order key that only one row has is null there."""
        found = np.concatenate(self._keys) if self._keys else np.empty(0, dtype=np.int64)
        self._keys = []
        found.sort()
        again = np.unique(found[1:][found[1:] == found[:-1]])
        table = pa.table({"order_key": pa.array(again, pa.int64())})
        self._fill("again", "order_key BIGINT", table)
        whole = [name for name in _COLUMNS if name not in {"number", "order_key"}]
        columns = [f'CAST(a."{name}" AS BIGINT) AS "{name}"' for name in whole]
        self._database.execute(
            f"CREATE VIEW facts AS SELECT {', '.join(columns)}, a.number, b.order_key "  # noqa: S608, names are our own
            "FROM admitted a LEFT JOIN again b ON a.order_key = b.order_key"
        )

    def conflicts(self) -> frozenset[str]:
        """Patients of whom two things are told that cannot both hold; after `relabel`."""
        if not self._told:
            return frozenset()
        told = pa.concat_tables(self._told)
        people = np.arange(len(self.patients.texts), dtype=np.int32)
        for former, present in self._linked:
            people[former] = present
        place = told.schema.get_field_index("patient")
        numbers = pa.array(people[told.column("patient").to_numpy()])
        told = told.set_column(place, "patient", pa.array(self.patients.texts, pa.string()).take(numbers))
        here = pa.array(self._in_bucket)
        return frozenset(identity.contradictory(told.filter(here.take(numbers))).to_pylist())

    def relabel(self, canonical: Mapping[str, str]) -> None:
        """Give each patient's facts to the identifier that stands for it; before `finish`."""
        places = {text: place for place, text in enumerate(self.patients.texts)}
        pairs = [
            (places[former], self.patients.number(present))
            for former, present in canonical.items()
            if former in places and former != present
        ]
        if not pairs:
            return
        self._linked = pairs
        fresh = self.patients.texts[len(self._in_bucket) :]
        self._in_bucket = np.concatenate([self._in_bucket, self._belonging(fresh)])
        table = pa.table({"former": [pair[0] for pair in pairs], "present": [pair[1] for pair in pairs]})
        self._fill("linked", "former INTEGER, present INTEGER", table)
        self._database.execute(
            "UPDATE admitted SET patient = linked.present FROM linked WHERE admitted.patient = linked.former"
        )

    def _told_apart(self, batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
        systems = batch.column("system").dictionary_encode()
        codes = batch.column("code").dictionary_encode()
        names, texts = systems.dictionary.to_pylist(), codes.dictionary.to_pylist()
        pairs = systems.indices.to_numpy().astype(np.int64) * len(texts) + codes.indices.to_numpy()
        distinct, places, counts = np.unique(pairs, return_inverse=True, return_counts=True)
        found = np.empty(len(distinct), dtype=np.int64)
        for place, pair in enumerate(distinct.tolist()):
            system, code = names[pair // len(texts)], texts[pair % len(texts)]
            found[place] = self._atoms.of(system, code)
            if found[place] == UNWANTED and system.startswith(_LOCAL) and len(self.unmapped) < _MOST_CODES:
                self.unmapped[system, code] += int(counts[place])
            if codes_of.valid(system, code) is False:
                self.invalid[system] += int(counts[place])
        atoms: npt.NDArray[np.int64] = found[places]
        return atoms

    def _remember(self, some: pa.RecordBatch, patients: npt.NDArray[np.int32]) -> None:
        is_told = pc.equal(some.column("system"), PATIENT)
        if pc.any(is_told).as_py():
            columns = [some.column(name) for name in ("system", "code", "time_us", "precision", "value")]
            names = ["system", "code", "time_us", "precision", "value", "patient"]
            self._told.append(pa.table([*columns, pa.array(patients)], names=names).filter(is_told))

    def _numbered(self, patients: pa.Array, namespace: str) -> npt.NDArray[np.int32]:
        encoded = patients.dictionary_encode()
        keys = [identity.key(namespace, text) for text in encoded.dictionary.to_pylist()]
        patients = pa.array([self._canonical.get(one, one) for one in keys], pa.string()).take(encoded.indices)
        numbers: npt.NDArray[np.int32] = self.patients.of(patients).to_numpy()
        if len(self._in_bucket) < len(self.patients.texts):
            fresh = self.patients.texts[len(self._in_bucket) :]
            self._in_bucket = np.concatenate([self._in_bucket, self._belonging(fresh)])
        return numbers

    def _belonging(self, texts: list[str]) -> npt.NDArray[np.bool_]:
        number, of = self.bucket
        return np.array([zlib.crc32(text.encode(errors="surrogatepass")) % of == number for text in texts], np.bool_)

    def _insert(self, some: pa.RecordBatch, atoms: npt.NDArray[np.int64], patients: npt.NDArray[np.int32]) -> None:
        numbers = some.column("number")
        status = some.column("status").dictionary_encode()
        statuses = [_STATUS_NUMBER.get(text, _UNKNOWN) for text in status.dictionary.to_pylist()]
        source = some.column("source").dictionary_encode()
        sources = [self._sources[name] for name in source.dictionary.to_pylist()]
        table = pa.table(
            {
                "patient": pa.array(patients),
                "atom": pa.array(atoms, pa.int32()),
                "time_us": some.column("time_us"),
                "known_us": some.column("known_us"),
                "number": pc.if_else(pc.is_finite(numbers), numbers, None),
                "value": self.values.of(some.column("value")),
                "unit": self.units.of(some.column("unit").fill_null("")),
                "status": pc.fill_null(pa.array(statuses, pa.int8()).take(status.indices), 0),
                "order_text": some.column("order_key"),
                "source": pa.array(sources, pa.int16()).take(source.indices),
                "row": some.column("row"),
                "array": self.arrays.of(some.column("array")),
            }
        )
        # Sixty-three bits of DuckDB's hash: two of a million facts share one with a chance of one in ten million.
        key = "CAST(hash(order_text, source) >> 1 AS BIGINT)"
        columns = [f'"{name}"' if name != "order_key" else "key" for name in _COLUMNS]
        self._database.register("incoming", table)
        try:
            hashed = self._database.sql(
                f"SELECT CASE WHEN order_text IS NOT NULL THEN {key} END AS key FROM incoming"  # noqa: S608
            ).to_arrow_table()
        finally:
            self._database.unregister("incoming")
        keys = hashed.column("key").combine_chunks()
        self._keys.append(keys.drop_null().to_numpy())
        self._database.register("incoming", table.append_column("key", keys))
        try:
            self._database.execute(f"INSERT INTO admitted SELECT {', '.join(columns)} FROM incoming")  # noqa: S608
        finally:
            self._database.unregister("incoming")
        self.held += some.num_rows

    def _divide(self) -> None:
        number, of = self.bucket
        if of >= MOST_BUCKETS:
            raise ClinicalError("one patient's facts outgrow the memory allowed: narrow the source or the concepts")
        self.bucket = (number, 2 * of)
        self._in_bucket = self._belonging(self.patients.texts)
        leaving = pa.array(np.flatnonzero(~self._in_bucket), pa.int32())
        self._database.register("leaving", pa.table({"patient": leaving}))
        try:
            self._database.execute("CREATE TABLE staying AS SELECT * FROM admitted ANTI JOIN leaving USING (patient)")
        finally:
            self._database.unregister("leaving")
        self._database.execute("DROP TABLE admitted")
        self._database.execute("ALTER TABLE staying RENAME TO admitted")
        self.held = self._database.sql("SELECT count(*) AS n FROM admitted").to_arrow_table()["n"][0].as_py()

    def _fill(self, name: str, columns: str, table: pa.Table) -> None:
        self._database.execute(f"CREATE TABLE {name} ({columns})")
        self._database.register("incoming", table)
        try:
            self._database.execute(f"INSERT INTO {name} SELECT * FROM incoming")  # noqa: S608, names are our own
        finally:
            self._database.unregister("incoming")
