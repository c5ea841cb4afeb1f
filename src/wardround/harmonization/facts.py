"""Events become facts: only what is wanted, told apart by small numbers, in a database that lives in memory.

Texts (patients, units, values, order keys, arrays) are numbered as they appear, so that a fact takes some seventy bytes
whatever its source wrote. Where facts outgrow the memory allowed, patients are dealt into buckets by a hash of their
identifier, and only those of the present bucket stay: each pass over the sources is exact, and the passes together are
everybody. Every need is per patient, so nothing is lost between buckets.
"""

import hashlib
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
from wardround.harmonization.events import KEPT_STATUSES, PATIENT, STATUSES
from wardround.harmonization.needs import UNWANTED, Atoms

__all__ = ["MOST_BUCKETS", "SEPARATOR", "Facts", "Numbers"]

MOST_BUCKETS: Final = 4096
SEPARATOR: Final = "\x1f"
"""Between a source's name and its array's, so that two sources may use one name."""

_TOLD: Final = ("system", "code", "time_us", "precision", "value", "status", "order_key", "source", "row", "known_us")
_EARLIEST_US: Final = -11_676_096_000_000_000
_LATEST_US: Final = 16_725_225_600_000_000
_MOST_PARTS: Final = 64
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
        self._people: list[npt.NDArray[np.uint64]] = []
        self.undated: Counter[str] = Counter()
        self.bounds: Counter[str] = Counter()
        self._keys: list[npt.NDArray[np.int64]] = []
        self._told: list[pa.Table] = []
        self._linked: list[tuple[int, int]] = []
        columns = ", ".join(f'"{name}" {kind}' for name, kind in _COLUMNS.items())
        database.execute(f"CREATE TABLE admitted ({columns})")

    def add(self, batch: pa.RecordBatch, namespace: str = "") -> None:
        """Take from a batch of events what is wanted and in the bucket.

        A number that is only a bound counts as none, an empty order key as none, an empty patient as nobody, and what
        happened out of any life (before 1600 or after 2500) is left out.

        Args:
            batch: Events of one source.
            namespace: What its patients' identifiers are unique in.

        Raises:
            ClinicalError: The facts of one patient are more than the memory allowed can hold.
        """
        atoms = self._told_apart(batch)
        encoded = batch.column("patient").dictionary_encode()
        keys = [identity.key(namespace, text) for text in encoded.dictionary.to_pylist()]
        named = np.array([not one.endswith("|") for one in keys], np.bool_)
        self._count([one for one, is_named in zip(keys, named, strict=True) if is_named])
        keys = [self._canonical.get(one, one) for one in keys]
        places = encoded.indices.to_numpy()
        # What is left out is counted whatever the bucket, since every part has read every event.
        wanted = (atoms != UNWANTED) & named[places]
        wanted &= ~self._is_out_of_life(batch, wanted)
        self._count_bounds(batch, wanted)
        wanted &= self._belonging(keys)[places]
        rows = np.flatnonzero(wanted)
        if not len(rows):
            return
        some = batch.take(pa.array(rows))
        # Only who is in the bucket is numbered, so that memory does not grow with the others.
        held, inverse = np.unique(places[rows], return_inverse=True)
        numbers = np.array([self.patients.number(keys[place]) for place in held], dtype=np.int32)
        patients = numbers[inverse]
        self._insert(some, atoms[rows], patients)
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
        self._rank("value_ranks", self.values)
        self._rank("array_ranks", self.arrays)
        told = {"value": "v.rank", "array": "r.rank", "order_key": "b.order_key"}
        columns = [f'{told.get(name, f"a.{chr(34)}{name}{chr(34)}")} AS "{name}"' for name in _COLUMNS]
        self._database.execute(
            f"CREATE VIEW facts AS SELECT {', '.join(columns)} FROM admitted a "  # noqa: S608, names are our own
            "LEFT JOIN again b ON a.order_key = b.order_key LEFT JOIN value_ranks v ON a.value = v.number "
            "LEFT JOIN array_ranks r ON a.array = r.number"
        )

    def _rank(self, name: str, numbers: Numbers) -> None:
        """Texts by their order, so that a tie between two does not hang on which came first."""
        order = sorted(range(len(numbers.texts)), key=numbers.texts.__getitem__)
        ranks = np.empty(len(order), dtype=np.int32)
        ranks[order] = np.arange(len(order), dtype=np.int32)
        numbers.texts = [numbers.texts[place] for place in order]
        table = pa.table({"number": pa.array(range(len(order)), pa.int32()), "rank": pa.array(ranks)})
        self._fill(name, "number INTEGER, rank INTEGER", table)

    @property
    def people(self) -> int:
        """How many patients the events named, wanted or not."""
        return len(np.unique(np.concatenate(self._people))) if self._people else 0

    def conflicts(self) -> frozenset[str]:
        """Patients of whom two things are told that cannot both hold; after `relabel`."""
        if not self._told:
            return frozenset()
        told = _standing(pa.concat_tables(self._told))
        people = np.arange(len(self.patients.texts), dtype=np.int32)
        for former, present in self._linked:
            people[former] = present
        place = told.schema.get_field_index("patient")
        numbers = pa.array(people[told.column("patient").to_numpy()])
        told = told.set_column(place, "patient", pa.array(self.patients.texts, pa.string()).take(numbers))
        here = pa.array(self._belonging(self.patients.texts))
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

    def _count(self, keys: list[str]) -> None:
        digests = [hashlib.blake2b(one.encode(errors="surrogatepass"), digest_size=8).digest() for one in keys]
        self._people.append(np.unique(np.frombuffer(b"".join(digests), dtype=np.uint64)))
        if len(self._people) >= _MOST_PARTS:
            self._people = [np.unique(np.concatenate(self._people))]

    def _is_out_of_life(self, batch: pa.RecordBatch, wanted: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        outside = np.zeros(len(wanted), dtype=np.bool_)
        for name in ("time_us", "known_us"):
            times = batch.column(name).fill_null(0).to_numpy(zero_copy_only=False)
            outside |= (times < _EARLIEST_US) | (times > _LATEST_US)
        if found := int((outside & wanted).sum()):
            self.undated[str(batch.column("source")[0])] += found
        return outside

    def _count_bounds(self, batch: pa.RecordBatch, wanted: npt.NDArray[np.bool_]) -> None:
        is_bound = np.asarray(batch.column("comparator").is_valid())
        if found := int((is_bound & wanted).sum()):
            self.bounds[str(batch.column("source")[0])] += found

    def _remember(self, some: pa.RecordBatch, patients: npt.NDArray[np.int32]) -> None:
        is_told = pc.equal(some.column("system"), PATIENT)
        if pc.any(is_told).as_py():
            is_told = pc.and_(is_told, pc.is_in(some.column("code"), pa.array(["birth-date", "sex"])))
            columns = [some.column(name) for name in _TOLD]
            self._told.append(pa.table([*columns, pa.array(patients)], names=[*_TOLD, "patient"]).filter(is_told))

    def _belonging(self, texts: list[str]) -> npt.NDArray[np.bool_]:
        number, of = self.bucket
        if of == 1:
            return np.ones(len(texts), dtype=np.bool_)
        return np.array([zlib.crc32(text.encode(errors="surrogatepass")) % of == number for text in texts], np.bool_)

    def _insert(self, some: pa.RecordBatch, atoms: npt.NDArray[np.int64], patients: npt.NDArray[np.int32]) -> None:
        numbers = some.column("number")
        is_bound = pc.is_valid(some.column("comparator"))
        is_number = pc.and_not(pc.is_finite(numbers), is_bound)
        arrays = pc.binary_join_element_wise(some.column("source"), some.column("array"), SEPARATOR)
        keys = some.column("order_key")
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
                "number": pc.if_else(is_number, numbers, None),
                "value": self.values.of(some.column("value")),
                "unit": self.units.of(some.column("unit").fill_null("")),
                "status": pc.fill_null(pa.array(statuses, pa.int8()).take(status.indices), 0),
                "order_text": pc.if_else(pc.equal(keys, ""), None, keys),
                "source": pa.array(sources, pa.int16()).take(source.indices),
                "row": some.column("row"),
                "array": self.arrays.of(arrays),
            }
        )
        # Sixty-three bits of DuckDB's hash: two of a million facts share one with a chance of one in ten million.
        key = "CAST(hash(order_text, source, patient) >> 1 AS BIGINT)"
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
        leaving = pa.array(np.flatnonzero(~self._belonging(self.patients.texts)), pa.int32())
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


def _standing(told: pa.Table) -> pa.Table:
    """What is told of patients and stands: the latest row of each key, final, amended or corrected."""
    if not told.num_rows:
        return told
    known = told.column("known_us").fill_null(-(2**62)).to_numpy()
    rows = told.column("row").to_numpy()
    keys = pc.binary_join_element_wise(told.column("source"), told.column("order_key"), SEPARATOR).combine_chunks()
    encoded = keys.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    patients = told.column("patient").to_numpy()
    order = np.lexsort((rows, known, codes, patients))
    last = np.ones(len(order), dtype=np.bool_)
    ordered = np.stack([patients[order], codes[order]])
    last[:-1] = (ordered[:, 1:] != ordered[:, :-1]).any(axis=0)
    group = np.concatenate([[0], np.cumsum(last[:-1])])
    latest_rows = rows[order][last][group]
    stands = np.empty(len(order), dtype=np.bool_)
    stands[order] = (rows[order] == latest_rows) | (codes[order] < 0)
    kept = pc.is_in(told.column("status").fill_null(KEPT_STATUSES[0]), pa.array(KEPT_STATUSES))
    return told.filter(pc.and_(pa.chunked_array([pa.array(stands)]), kept))
