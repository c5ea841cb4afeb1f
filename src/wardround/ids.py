"""Identifiers: what each kind of name looks like, and the check that a name is one.

A digest is the lower-case hexadecimal SHA-256 of some bytes. A study is named by the digest of its
plan, a run by its study and an attempt number, so that every identifier says what it belongs to.
"""

import re
from typing import NewType

from wardround.errors import CodecError

__all__ = [
    "CommandId",
    "Digest",
    "RunId",
    "SiteId",
    "StudyId",
    "digest_name",
    "run_id",
    "site_id",
    "study_of",
]

SiteId = NewType("SiteId", str)
"""A site's, researcher's or operator's name in one federation."""
Digest = NewType("Digest", str)
"""64 lower-case hexadecimal digits: SHA-256."""
StudyId = NewType("StudyId", str)
"""The digest of the study's canonical plan."""
RunId = NewType("RunId", str)
"""``<study>.<attempt>``."""
CommandId = NewType("CommandId", str)
"""Chosen by the sender; the same command sent again has the same one."""

_SITE = re.compile(r"[a-z][a-z0-9-]{0,62}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_RUN = re.compile(r"([0-9a-f]{64})\.([1-9][0-9]{0,5})")


def site_id(text: str) -> SiteId:
    """Check a site name: a lower-case letter, then letters, digits and hyphens, 63 at most.

    Raises:
        CodecError: `text` is not such a name.
    """
    if not _SITE.fullmatch(text):
        raise CodecError(
            "a name must start with a lower-case letter and hold only a-z, 0-9 and '-', at most 63 characters"
        )
    return SiteId(text)


def digest_name(text: str) -> Digest:
    """Check a digest's spelling.

    Raises:
        CodecError: `text` is not 64 lower-case hexadecimal digits.
    """
    if not _DIGEST.fullmatch(text):
        raise CodecError("a digest is 64 lower-case hexadecimal digits")
    return Digest(text)


def run_id(study: StudyId, attempt: int) -> RunId:
    """Name the `attempt`-th run of a study, counted from one."""
    return RunId(f"{study}.{attempt}")


def study_of(run: RunId) -> StudyId:
    """The study that a run belongs to.

    Raises:
        CodecError: `run` is not a run's name.
    """
    match = _RUN.fullmatch(run)
    if match is None:
        raise CodecError("a run is named <study digest>.<attempt>")
    return StudyId(match[1])
