"""A node's memory of the cohorts that have answered: marks of their patients, in sealed files, never forgotten.

    <definition>-<content>.cohort     sealed: the marks, sorted little-endian uint64; its name is its context

`definition` is the digest of what the cohort was asked for, `content` of its marks, so that the same cohort is stored
once however often it answers. What is altered or moved does not open, and the node refuses every cohort until it is
restored; a full folder refuses too, since forgetting would break the promise that `admit` keeps: that no two cohorts
which answered differ by fewer than so many patients (`wardround.clinical.disclosure_cohorts` has the rule and what it
leaves unprotected). `admit` and `settle` look and store under one lock, between threads and processes.

Not detected: files that were deleted, or a whole folder replaced by an older copy.
"""

import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from wardround.clinical import disclosure_cohorts
from wardround.clinical.disclosure_cohorts import Difference, Marks
from wardround.crypto import seal
from wardround.errors import ConfigError, CryptoError, PolicyError
from wardround.ids import Digest
from wardround.storage import fault

__all__ = ["Nearest", "PastCohorts"]

_NAME: Final = re.compile(r"([0-9a-f]{64})-([0-9a-f]{32})\.cohort")
_LARGEST: Final = 2**24
_MOST_PASSES: Final = 16


@dataclass(frozen=True, slots=True)
class Nearest:
    """The past cohort that a present one differs from least, if by anybody, and how."""

    definition: Digest
    difference: Difference


class PastCohorts:
    """The memory in `folder`, readable with the 32-byte `key`; threads and processes may share it.

    Raises:
        ConfigError: The folder cannot be used.
        CryptoError: The key has not 32 bytes.
    """

    def __init__(self, folder: Path, key: bytes, *, most: int = 4096) -> None:
        if len(key) != seal.KEY_BYTES:
            raise CryptoError(f"the key of past cohorts has {seal.KEY_BYTES} bytes, this has {len(key)}")
        self._folder, self._key, self._most = folder, key, most
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise fault.from_os(error) from None

    def nearest(self, marks: Marks) -> Nearest | None:
        """The past cohort that differs least, of all that differ; for a steward's eyes.

        Raises:
            ConfigError: The folder cannot be read.
            CryptoError: A file was altered.
            UnavailableError: The disk did not answer.
        """
        present, found = disclosure_cohorts.checked(marks), []
        for definition, past in self._cohorts():
            differing = disclosure_cohorts.difference(present, past)
            sides = [side for side in (differing.only_present, differing.only_past) if side]
            if sides:
                found.append((min(sides), definition, differing))
        if not found:
            return None
        _, definition, differing = min(found, key=lambda one: one[:2])
        return Nearest(definition, differing)

    def admit(self, definition: Digest, marks: Marks, least: int) -> None:
        """Let a cohort answer, and remember it; durable on return.

        Raises:
            ConfigError: The folder cannot be used, or is full.
            CryptoError: A file was altered.
            PolicyError: A past cohort differs from it by fewer than `least` patients; nothing is remembered.
            StorageFullError: The disk is full.
            UnavailableError: The disk did not answer.
        """
        present = _bounded(marks)
        with self._locked():
            for past_definition, past in self._cohorts():
                if disclosure_cohorts.difference(present, past).isolates(least):
                    asked = "of the same definition" if past_definition == definition else "of another definition"
                    raise PolicyError(
                        f"a past cohort {asked} differs from this one by fewer than {least} patients, whom two answers "
                        "would give away: let the past cohort answer again, or wait until more patients differ"
                    )
            self._remember(definition, present)

    def settle(self, definition: Digest, marks: Marks, least: int) -> Marks:
        """The part of a cohort that may answer, which is remembered; see `admit` for what is raised.

        Raises:
            PolicyError: Nobody is left, or past cohorts contradict one another.
        """
        present = _bounded(marks)
        with self._locked():
            for _ in range(_MOST_PASSES):
                before = len(present)
                for _, past in self._cohorts():
                    present = disclosure_cohorts.settled(present, past, least)
                if len(present) == before:
                    break
            else:
                present = present[:0]
            if not len(present):
                raise PolicyError(f"no part of this cohort differs from every past one by {least} patients or none")
            self._remember(definition, present)
        return present

    def _cohorts(self) -> Iterator[tuple[Digest, Marks]]:
        for name in self._names():
            try:
                sealed = (self._folder / name).read_bytes()
            except OSError as error:
                raise fault.from_os(error) from None
            value = seal.open_sealed(sealed, self._key, context=name.encode())
            yield Digest(name[:64]), np.frombuffer(value, dtype="<u8").astype(np.uint64)

    def _names(self) -> list[str]:
        try:
            names = sorted(path.name for path in self._folder.iterdir() if path.suffix == ".cohort")
        except OSError as error:
            raise fault.from_os(error) from None
        if not all(_NAME.fullmatch(name) for name in names):
            raise ConfigError("the folder of past cohorts holds a file that is none: nothing but the node writes there")
        return names

    def _remember(self, definition: Digest, marks: Marks) -> None:
        value = marks.astype("<u8").tobytes()
        name = f"{definition}-{hashlib.sha256(value).hexdigest()[:32]}.cohort"
        if not _NAME.fullmatch(name):
            raise ValueError("a cohort's definition is named by its SHA-256")
        names = self._names()
        if name in names:
            return
        if len(names) >= self._most:
            raise ConfigError(
                f"the node remembers {self._most} past cohorts and no more: its operator must allow more, or, with the "
                "steward, begin anew with another site key"
            )
        sealed = seal.seal(value, self._key, nonce=os.urandom(seal.NONCE_BYTES), context=name.encode())
        try:
            descriptor, part = tempfile.mkstemp(suffix=".part", dir=self._folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(sealed)
                    file.flush()
                    os.fsync(file.fileno())
                Path(part).replace(self._folder / name)
            except BaseException:
                Path(part).unlink(missing_ok=True)
                raise
            self._sync()
        except OSError as error:
            raise fault.from_os(error) from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # The lock belongs to this descriptor, so that it also keeps threads apart, and ends with the process.
        try:
            descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise fault.from_os(error) from None
        try:
            self._hold(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _hold(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise fault.from_os(error) from None

    def _sync(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _bounded(marks: Marks) -> Marks:
    if len(marks) > _LARGEST:
        raise PolicyError(f"a cohort of more than {_LARGEST:,} patients is not remembered, and so does not answer")
    return disclosure_cohorts.checked(marks)
