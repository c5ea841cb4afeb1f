"""Logins that are written down: whoever was let in, before anything follows from it; and every refusal.

A refusal names nobody: the name came from outside, and may be anybody's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wardround.errors import LoginError
from wardround.services.audit_trail import Person, Recorder
from wardround.services.hub_records import login_entry

__all__ = ["LoginRecord", "recorded", "unrecorded", "written"]

LoginRecord = Callable[[str, str, str], None]
"""Told the outcome, the method, and who it is where somebody was let in."""


def unrecorded(_outcome: str, _method: str, _name: str) -> None:
    """For where nothing is written down."""


def recorded(recorder: Recorder) -> LoginRecord:
    """Write logins into an audit log."""

    def record(outcome: str, method: str, name: str) -> None:
        recorder.record(login_entry(outcome, method), actor=Person(name) if name else None)

    return record


@contextmanager
def written(record: LoginRecord, method: str) -> Iterator[list[str]]:
    """Record what comes of an attempt: put the account's name into the list that is given once it is accepted."""
    accepted: list[str] = []
    try:
        yield accepted
    except LoginError:
        record("refused", method, "")
        raise
    for name in accepted:
        record("accepted", method, name)
