"""The growing edge of a log: entries that no file holds yet, and the files that publishing them takes.

Entries are added at once and published together. `Publication` says which files a checkpoint over all entries needs
that the last one did not; its maker writes them, and only then calls `TreeEdge.settle`, so that a publication that
failed is planned again from the same state.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from wardround.audit import merkle, tile
from wardround.audit.merkle import Frontier
from wardround.audit.tile import HASH_BYTES, LOG2_WIDTH, WIDTH, Read
from wardround.errors import AuditError

__all__ = ["Publication", "TreeEdge"]


@dataclass(frozen=True, slots=True)
class Publication:
    """Files to write, and folders of partial tiles that full ones replace; the root and size they lead to."""

    size: int
    root: bytes
    files: tuple[tuple[str, bytes], ...]
    obsolete: tuple[str, ...]
    rows: dict[int, list[bytes]]
    frontier: Frontier


class TreeEdge:
    """The edge of an empty log; `load` gives that of another."""

    def __init__(self) -> None:
        self.size = 0
        self.published = 0
        self._first = 0
        self._entries: list[bytes] = []
        self._hashes: list[bytes] = []
        self._rows: dict[int, list[bytes]] = {}
        self._frontier = Frontier()

    @classmethod
    def load(cls, read: Read, size: int) -> "TreeEdge":
        """The edge of a log of `size` from its files.

        Raises:
            AuditError: A file is missing or damaged, or the last bundle and the last tile differ.
        """
        edge = cls()
        edge.size = edge.published = size
        edge._first = size // WIDTH * WIDTH
        level = 1
        while held := size >> (LOG2_WIDTH * level):
            if held % WIDTH:
                data = tile.read_whole(read, level, held // WIDTH, size)
                edge._rows[level] = [data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES)]
            level += 1
        for row in sorted(edge._rows, reverse=True):
            for digest in edge._rows[row]:
                edge._frontier.add(digest, LOG2_WIDTH * row)
        if size % WIDTH:
            stored = tile.read_whole(read, 0, size // WIDTH, size)
            bundle = read(tile.bundle_path(size // WIDTH, size % WIDTH))
            if bundle is None:
                raise AuditError("the log's last bundle of entries is missing: the log was cut off")
            edge._entries = tile.decode_bundle(bundle, size % WIDTH)
            edge._hashes = [merkle.leaf(entry) for entry in edge._entries]
            if b"".join(edge._hashes) != stored:
                raise AuditError("the log's last entries are not those of its last tile: they were altered")
        return edge

    def add(self, entries: Sequence[bytes]) -> None:
        """Add durable entries."""
        self._entries.extend(entries)
        self._hashes.extend(map(merkle.leaf, entries))
        self.size += len(entries)

    def tail(self, start: int, stop: int) -> list[bytes]:
        """Those of the entries ``[start, stop)`` that are held here."""
        return self._entries[max(start - self._first, 0) : max(stop - self._first, 0)]

    @property
    def first(self) -> int:
        """The first entry that is held here."""
        return self._first

    def root(self) -> bytes:
        """The root over all entries."""
        return self.plan().root

    def plan(self) -> Publication:
        """What publishing all entries takes."""
        files: list[tuple[str, bytes]] = []
        obsolete: list[str] = []
        rows = {level: list(row) for level, row in self._rows.items()}
        frontier = self._frontier.copy()
        done = {level: (self._first >> (LOG2_WIDTH * level)) // WIDTH for level in range(1, 9)}
        grown: set[int] = set()

        def push(level: int, digest: bytes) -> None:
            row = rows.setdefault(level, [])
            row.append(digest)
            grown.add(level)
            if len(row) == WIDTH:
                files.append((tile.tile_path(level, done[level], WIDTH), b"".join(row)))
                obsolete.append(tile.tile_path(level, done[level], WIDTH) + ".p")
                done[level] += 1
                rows[level] = []
                push(level + 1, merkle.perfect_root(row))

        whole = len(self._hashes) // WIDTH * WIDTH
        for place in range(0, whole, WIDTH):
            number, hashes = (self._first + place) // WIDTH, self._hashes[place : place + WIDTH]
            files.append((tile.bundle_path(number, WIDTH), tile.encode_bundle(self._entries[place : place + WIDTH])))
            files.append((tile.tile_path(0, number, WIDTH), b"".join(hashes)))
            obsolete += [tile.bundle_path(number, WIDTH) + ".p", tile.tile_path(0, number, WIDTH) + ".p"]
            root = merkle.perfect_root(hashes)
            frontier.add(root, LOG2_WIDTH)
            push(1, root)
        rest = len(self._hashes) - whole
        if rest:
            number = (self._first + whole) // WIDTH
            files.append((tile.bundle_path(number, rest), tile.encode_bundle(self._entries[whole:])))
            files.append((tile.tile_path(0, number, rest), b"".join(self._hashes[whole:])))
        partial = [(level, rows[level]) for level in sorted(grown) if rows[level]]
        files += [(tile.tile_path(level, done[level], len(row)), b"".join(row)) for level, row in partial]
        edge = frontier.copy()
        for digest in self._hashes[whole:]:
            edge.add(digest)
        return Publication(self.size, edge.root(), tuple(files), tuple(obsolete), rows, frontier)

    def settle(self, publication: Publication) -> None:
        """The files of `publication` are written, and its checkpoint is."""
        whole = publication.size // WIDTH * WIDTH - self._first
        del self._entries[:whole], self._hashes[:whole]
        self._first += whole
        self._rows, self._frontier = publication.rows, publication.frontier
        self.published = publication.size
