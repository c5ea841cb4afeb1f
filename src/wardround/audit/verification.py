"""Verify a whole log from its files alone: every entry, every tile, the checkpoints, the witnesses, the times.

Nothing is believed but the keys: leaf hashes are computed from the entries, every level of tiles from the level below,
and the roots from those. What is wrong is collected, in words, rather than raised, so that an auditor sees all of it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from wardround.audit import checkpoint as checkpoints
from wardround.audit import entry as entries
from wardround.audit import merkle, tile, witness_policy
from wardround.audit.checkpoint import SignedCheckpoint
from wardround.audit.entry import Entry, NewerEntry
from wardround.audit.merkle import Frontier
from wardround.audit.tile import HASH_BYTES, WIDTH, Read
from wardround.audit.witness_policy import WitnessPolicy
from wardround.errors import AuditError, CodecError

__all__ = ["CHECKPOINT", "POLICY", "WITNESSED", "LogReport", "read_entries", "verify_log"]

CHECKPOINT: Final = "checkpoint"
"""The newest checkpoint."""
WITNESSED: Final = "checkpoint.witnessed"
"""The newest one that had enough witnesses."""
POLICY: Final = "policy"
"""The keys that the log's keeper says count; an auditor pins his own."""
_MAX_PROBLEMS: Final = 32


@dataclass(frozen=True, slots=True)
class LogReport:
    """What was found; times are milliseconds since 1970 UTC, `witnessed_at` seconds."""

    origin: str
    size: int
    root: str
    first_at: int | None
    last_at: int | None
    kinds: Mapping[str, int]
    witnesses: tuple[str, ...]
    witnesses_needed: int
    witnessed_size: int
    witnessed_at: int | None
    problems: tuple[str, ...]


@dataclass(slots=True)
class _Found:
    """What is collected on the way."""

    problems: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    first_at: int | None = None
    last_at: int | None = None
    roots: dict[int, bytes] = field(default_factory=dict)

    def wrong(self, words: str) -> None:
        if len(self.problems) < _MAX_PROBLEMS and words not in self.problems:
            self.problems.append(words)


def verify_log(
    read: Read,
    policy: WitnessPolicy,
    *,
    origin: str | None = None,
    against: Sequence[SignedCheckpoint] = (),
    seen: Callable[[int, Entry | NewerEntry], None] | None = None,
) -> LogReport:
    """Verify the log whose files `read` gives.

    Args:
        read: Gives ``checkpoint``, ``checkpoint.witnessed`` and the tiles by their paths.
        policy: The keys that count.
        origin: The log's name; by default that of its first key.
        against: Checkpoints that were kept from before: the log must still begin with each of them.
        seen: Called with each entry and its index.
    """
    found = _Found()
    name = policy.logs[0].name if origin is None else origin
    newest = _opened(read, CHECKPOINT, policy, name, found)
    if newest is None:
        return _report(found, None, policy, None, frozenset())
    witnessed = _opened(read, WITNESSED, policy, name, found) if read(WITNESSED) is not None else None
    kept = [("your own checkpoint", signed) for signed in against]
    kept += [("the witnessed checkpoint", witnessed)] if witnessed else []
    for words, signed in kept:
        if signed.checkpoint.origin != newest.checkpoint.origin:
            found.wrong(f"{words} is of another log, {signed.checkpoint.origin!r}")
        if signed.checkpoint.size > newest.checkpoint.size:
            held = f"{newest.checkpoint.size} entries where {words} has {signed.checkpoint.size}"
            found.wrong(f"the log was rolled back: it has {held}")
    wanted = {signed.checkpoint.size for _, signed in kept} | {newest.checkpoint.size}
    _walk(read, newest.checkpoint.size, wanted, found, seen)
    for words, signed in [("its checkpoint", newest), *kept]:
        root = found.roots.get(signed.checkpoint.size)
        if root is not None and root != signed.checkpoint.root:
            found.wrong(
                f"the first {signed.checkpoint.size} entries do not give the root of {words}: altered or forked"
            )
    best, signers = _best(newest, witnessed, policy, found)
    return _report(found, newest, policy, best, signers)


def read_entries(read: Read, size: int, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Entries with their indices, from `start`, as a log of `size` has them, unverified.

    Raises:
        AuditError: A bundle is missing or damaged.
    """
    for index in range(start // WIDTH, -(-size // WIDTH)):
        for place, data in enumerate(_bundle(read, index, size)):
            if index * WIDTH + place >= start:
                yield index * WIDTH + place, data


def _opened(read: Read, path: str, policy: WitnessPolicy, origin: str, found: _Found) -> SignedCheckpoint | None:
    data = read(path)
    if data is None:
        found.wrong(f"{path} is missing")
        return None
    try:
        signed = checkpoints.parse(data)
        witness_policy.check_log(signed, policy.logs, origin=origin)
    except (AuditError, CodecError) as error:
        found.wrong(f"{path}: {error}")
        return None
    return signed


def _bundle(read: Read, index: int, size: int) -> list[bytes]:
    width = tile.width_at(0, index, size)
    for candidate in dict.fromkeys((width, WIDTH)):
        data = read(tile.bundle_path(index, candidate))
        if data is not None:
            try:
                return tile.decode_bundle(data, candidate)[:width]
            except CodecError as error:
                raise AuditError(f"{tile.bundle_path(index, candidate)}: {error}") from None
    raise AuditError(f"{tile.bundle_path(index, width)} is missing: the log was cut off, or is not whole")


def _walk(
    read: Read,
    size: int,
    wanted: set[int],
    found: _Found,
    seen: Callable[[int, Entry | NewerEntry], None] | None,
) -> None:
    frontier, rows = Frontier(), _Rows(read, size, found)
    found.roots[0] = merkle.EMPTY_ROOT
    for index in range(-(-size // WIDTH)):
        start = index * WIDTH
        try:
            held = _bundle(read, index, size)
            stored = tile.read_whole(read, 0, index, size)
        except AuditError as error:
            # Without these entries no root beyond them is known, and the walk cannot go on honestly.
            found.wrong(str(error))
            return
        hashes = [merkle.leaf(data) for data in held]
        if b"".join(hashes) != stored:
            _name_swapped(hashes, stored, start, found)
        for place, data in enumerate(held):
            _look(data, start + place, found, seen)
        for at in sorted(w for w in wanted if start < w < start + len(hashes)):
            found.roots[at] = _grown(frontier, hashes[: at - start])
        if len(hashes) == WIDTH:
            root = merkle.perfect_root(hashes)
            frontier.add(root, tile.LOG2_WIDTH)
            rows.add(1, root)
        else:
            for digest in hashes:
                frontier.add(digest)
        if frontier.size in wanted:
            found.roots[frontier.size] = frontier.root()
    rows.finish()


def _grown(frontier: Frontier, hashes: Sequence[bytes]) -> bytes:
    edge = frontier.copy()
    for digest in hashes:
        edge.add(digest)
    return edge.root()


def _name_swapped(hashes: Sequence[bytes], stored: bytes, start: int, found: _Found) -> None:
    listed = [stored[i : i + HASH_BYTES] for i in range(0, len(stored), HASH_BYTES)]
    wrong = [start + i for i, digest in enumerate(hashes) if digest != listed[i]]
    kind = "swapped with one another" if set(hashes) == set(listed) else "altered"
    found.wrong(f"{len(wrong)} entries from entry {wrong[0]} on are not those of their tile: they were {kind}")


def _look(data: bytes, index: int, found: _Found, seen: Callable[[int, Entry | NewerEntry], None] | None) -> None:
    try:
        entry = entries.decode(data)
    except CodecError as error:
        found.kinds["unreadable"] += 1
        found.wrong(f"entry {index} cannot be read: {error}")
        return
    found.kinds[entries.kind_of(entry)] += 1
    if found.last_at is not None and entry.at < found.last_at:
        found.wrong(f"time goes backwards at entry {index}, by {found.last_at - entry.at} ms")
    found.first_at = entry.at if found.first_at is None else found.first_at
    found.last_at = entry.at if found.last_at is None else max(found.last_at, entry.at)
    if seen is not None:
        seen(index, entry)


class _Rows:
    """The levels above the leaves: what each tile has to hold, compared as soon as it is full."""

    def __init__(self, read: Read, size: int, found: _Found) -> None:
        self._read, self._size, self._found = read, size, found
        self._rows: dict[int, list[bytes]] = {}
        self._done: Counter[int] = Counter()

    def add(self, level: int, digest: bytes) -> None:
        row = self._rows.setdefault(level, [])
        row.append(digest)
        if len(row) == WIDTH:
            self._compare(level, row)
            self._done[level] += 1
            self._rows[level] = []
            self.add(level + 1, merkle.perfect_root(row))

    def finish(self) -> None:
        for level, row in self._rows.items():
            if row:
                self._compare(level, row)

    def _compare(self, level: int, row: list[bytes]) -> None:
        try:
            if tile.read_whole(self._read, level, self._done[level], self._size) != b"".join(row):
                self._found.wrong(f"tile {self._done[level]} of level {level} is not what its entries give")
        except AuditError as error:
            self._found.wrong(str(error))


def _best(
    newest: SignedCheckpoint, witnessed: SignedCheckpoint | None, policy: WitnessPolicy, found: _Found
) -> tuple[SignedCheckpoint | None, frozenset[str]]:
    most: frozenset[str] = frozenset()
    inside, least = witness_policy.members(policy)
    for signed in (newest, witnessed):
        if signed is None:
            continue
        try:
            signers = witness_policy.cosigners(signed, policy)
        except AuditError as error:
            found.wrong(str(error))
            continue
        most = max(most, signers, key=lambda names: len(names.intersection(inside)))
        if policy.quorum and witness_policy.is_quorum(signers, policy):
            return signed, signers
    if policy.quorum:
        found.wrong(f"too few witnesses: {len(most.intersection(inside))} of {len(inside)} signed, {least} are needed")
    return None, most


def _report(
    found: _Found,
    newest: SignedCheckpoint | None,
    policy: WitnessPolicy,
    best: SignedCheckpoint | None,
    signers: frozenset[str],
) -> LogReport:
    inside, least = witness_policy.members(policy)
    return LogReport(
        origin=newest.checkpoint.origin if newest else "",
        size=newest.checkpoint.size if newest else 0,
        root=newest.checkpoint.root.hex() if newest else "",
        first_at=found.first_at,
        last_at=found.last_at,
        kinds=dict(sorted(found.kinds.items())),
        witnesses=tuple(name for name in inside if name in signers),
        witnesses_needed=least,
        witnessed_size=best.checkpoint.size if best else 0,
        witnessed_at=witness_policy.witness_time(best, policy) if best else None,
        problems=tuple(found.problems),
    )
