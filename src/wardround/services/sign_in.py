"""Logging in with a password and a code: every attempt is counted before it is tried.

1. A locked account is not tried. Past the third failure in a row the lock grows: 5 s, 10 s, 20 s … an hour.
2. The attempt is stored as a failure first, so that many at once cannot share one count.
3. Password and code are both worked out, and nobody learns which of them was wrong.
4. A TOTP step is accepted once. A recovery code with the password logs nobody in: it voids the lost TOTP
   secret and opens a new first login, in which other factors are chosen.
5. Success clears the count.

An unknown name costs the same work and gets the same words. A lock holds for passwords, not for passkeys,
so nobody can lock a person out who has one.
"""

import threading
from dataclasses import dataclass

import msgspec

from wardround.errors import LoginError, NotFoundError, UnavailableError
from wardround.ports import Entropy
from wardround.services import one_time_codes, passwords
from wardround.services.accounts import Account, AccountBook, Totp
from wardround.services.login_records import LoginRecord, unrecorded, written
from wardround.services.people import TWO_FACTOR_ACR

__all__ = ["Authentication", "SignIn", "lock_seconds"]

FREE_FAILURES = 3
MAX_LOCK_SECONDS = 3600.0
_AT_ONCE = 2
_WRONG = (
    "the name, password or code is wrong, the code was used before, or there were too many attempts:"
    " wait for the next code, a minute or more, and try again"
)


@dataclass(frozen=True, slots=True)
class Authentication:
    """Somebody has just proven who they are: how, and when."""

    name: str
    acr: str
    amr: tuple[str, ...]
    at: float


class SignIn:
    """Passwords with codes, for the accounts of one hub or node. May be used by several threads."""

    def __init__(self, book: AccountBook, entropy: Entropy, *, record: LoginRecord = unrecorded) -> None:
        self._book, self._record = book, record
        # Each derivation takes 32 MiB: so many at once and no more.
        self._room = threading.BoundedSemaphore(_AT_ONCE)
        self._nobody = passwords.Password(entropy.draw(passwords.SALT_BYTES), entropy.draw(32))

    def with_code(self, name: str, password: str, code: str, now: float) -> Authentication:
        """Log in with password and the app's present code.

        Raises:
            LoginError: Something is wrong, or was tried too often; does not say what.
            UnavailableError: Too many log in at this moment, or the store did not answer.
        """
        with written(self._record, "password-code") as accepted:
            done = self._accepted(name, password, code, now)
            accepted.append(done.name)
        return done

    def _accepted(self, name: str, password: str, code: str, now: float) -> Authentication:
        account = self._with_password(name, password, now)
        totp = account.totp if account is not None else None
        step = one_time_codes.accepted_step(totp.secret, code, now, totp.last_step) if totp is not None else None
        if account is None or totp is None or step is None:
            raise LoginError(_WRONG)

        def accept(found: Account) -> Account:
            # Between reading and writing another process may have accepted the same code, or a reset come.
            same = found.totp is not None and found.totp.secret == totp.secret and found.password == account.password
            if not same or found.totp is None or found.totp.last_step >= step:
                raise LoginError(_WRONG)
            return msgspec.structs.replace(found, totp=Totp(totp.secret, step), failures=0, locked_until=0.0)

        self._book.change(account.name, accept)
        return Authentication(account.name, TWO_FACTOR_ACR, ("pwd", "otp", "mfa"), now)

    def recover(self, name: str, password: str, code: str, now: float) -> str:
        """Use up a recovery code: the TOTP secret is void, and the code of a new first login comes back.

        Raises:
            LoginError: Something is wrong, or was tried too often; does not say what.
            UnavailableError: Too many log in at this moment, or the store did not answer.
        """
        account = self._with_password(name, password, now)
        digest = one_time_codes.code_digest(code, name)
        spare = one_time_codes.matches(digest, account.recovery) if account is not None else None
        if account is None or spare is None:
            raise LoginError(_WRONG)

        def accept(found: Account) -> Account:
            if spare not in found.recovery or found.password != account.password:
                raise LoginError(_WRONG)
            left = tuple(one for one in found.recovery if one != spare)
            return msgspec.structs.replace(found, recovery=left, totp=None, failures=0, locked_until=0.0)

        self._book.change(account.name, accept)
        return self._book.renew(account.name, now)

    def _with_password(self, name: str, password: str, now: float) -> Account | None:
        """The account whose password this is; the attempt is counted, whoever it is for."""
        account = self._counted(name, now)
        kept = account.password if account is not None else None
        is_right = self._derived(kept or self._nobody, password)
        return account if is_right and kept is not None else None

    def _counted(self, name: str, now: float) -> Account | None:
        def count(account: Account) -> Account:
            if now < account.locked_until:
                raise LoginError(_WRONG)
            failures = account.failures + 1
            return msgspec.structs.replace(account, failures=failures, locked_until=now + lock_seconds(failures))

        try:
            return self._book.change(name, count)
        except NotFoundError:
            return None

    def _derived(self, kept: passwords.Password, password: str) -> bool:
        if not self._room.acquire(timeout=10.0):
            raise UnavailableError("too many people log in at this moment; try again")
        try:
            return passwords.is_password(kept, password)
        finally:
            self._room.release()


def lock_seconds(failures: int) -> float:
    """How long an account is locked after so many failures in a row."""
    beyond = failures - FREE_FAILURES
    return 0.0 if beyond <= 0 else min(5.0 * 2.0 ** min(beyond - 1, 30), MAX_LOCK_SECONDS)
