"""Logins that were ended before their time: one session, or all of a person's until now.

Kept in the store, so that it holds at once in every process that shares it, whoever issued the tokens.
"""

import hashlib
import struct

from wardround.errors import ConflictError
from wardround.ports import Accounts

__all__ = ["Endings"]

_TRIES = 8


class Endings:
    """Which sessions and whose logins no longer count."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def end_session(self, issuer: str, session: str, now: float) -> None:
        """End one session: its tokens are refused from now on.

        Raises:
            UnavailableError: The store did not answer.
        """
        self._put(_name("session", issuer, session), now)

    def end_person(self, issuer: str, subject: str, now: float) -> None:
        """End all of a person's logins up to now; a login after it counts.

        Raises:
            UnavailableError: The store did not answer.
        """
        self._put(_name("person", issuer, subject), now)

    def is_ended(self, issuer: str, session: str, subject: str, issued: float) -> bool:
        """Whether a token of this session and person, issued then, no longer counts.

        Raises:
            CryptoError: The store was altered.
            UnavailableError: The store did not answer.
        """
        if self._accounts.read(_name("session", issuer, session)) is not None:
            return True
        ended = self._accounts.read(_name("person", issuer, subject))
        return ended is not None and not issued > float(struct.unpack(">d", ended[0])[0])

    def _put(self, name: str, now: float) -> None:
        for _ in range(_TRIES):
            found = self._accounts.read(name)
            # The later of two endings counts.
            latest = now if found is None else max(now, float(struct.unpack(">d", found[0])[0]))
            try:
                self._accounts.write(name, struct.pack(">d", latest), after=found[1] if found else 0)
            except ConflictError:
                continue
            return
        raise ConflictError("others ended the same login at the same moment; try again")


def _name(kind: str, issuer: str, of: str) -> str:
    # A digest has one form whatever an issuer puts into its names, and tells nothing about people.
    return f"ended-{kind}.{hashlib.sha256(f'{len(issuer)}:{issuer}{of}'.encode()).hexdigest()}"
