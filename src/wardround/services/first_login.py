"""A first login: a one-time code from whoever keeps the accounts opens it, and factors are chosen in it.

    name + code ──begin──▶ offer ──▶ passkey made        ──▶ recovery codes
                                └──▶ password + TOTP code ──▶ recovery codes

The code is used up by the step that stores factors, not by looking. What was offered (a TOTP secret) waits
under the page's own secret for a quarter of an hour.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from wardround.crypto import jose
from wardround.errors import LoginError
from wardround.ports import Entropy
from wardround.services import one_time_codes, passwords
from wardround.services.accounts import Account, AccountBook, Totp
from wardround.services.passkeys import Passkeys, authentication
from wardround.services.pending import Pending
from wardround.services.people import TWO_FACTOR_ACR
from wardround.services.sign_in import Authentication

__all__ = ["Finished", "FirstLogins", "Offer"]

OFFER_SECONDS = 900.0


@dataclass(frozen=True, slots=True, repr=False)
class Offer:
    """What a first login shows: whose it is, and the TOTP secret in letters and as an address for an app."""

    name: str
    spelled: str
    address: str


@dataclass(frozen=True, slots=True, repr=False)
class Finished:
    """Recovery codes, shown once, and that the person has just proven who they are."""

    codes: tuple[str, ...]
    done: Authentication


@dataclass(frozen=True, slots=True, repr=False)
class _Open:
    name: str
    code: str
    secret: bytes


class FirstLogins:
    """First logins of one hub or node. May be used by several threads."""

    def __init__(self, book: AccountBook, passkeys: Passkeys, entropy: Entropy, *, party: str) -> None:
        self._book, self._passkeys, self._entropy, self._party = book, passkeys, entropy, party
        self._open: Pending[_Open] = Pending(OFFER_SECONDS)

    def page(self) -> str:
        """A new page's own secret, under which nothing is open yet."""
        return jose.base64url(self._entropy.draw(32))

    def offer(self, binding: str, now: float) -> Offer:
        """What an open first login offers, to show it again.

        Raises:
            LoginError: No first login is open here.
        """
        opened = self._looked(binding, now)
        address = one_time_codes.address(opened.secret, opened.name, self._party)
        return Offer(opened.name, one_time_codes.spelled(opened.secret), address)

    def begin(self, name: str, code: str, binding: str, now: float) -> Offer:
        """Open a first login under the page's own secret `binding`.

        Raises:
            LoginError: The name and code do not belong together, or the code was used or is too old.
        """
        account = self._book.open_first_login(name, code, now)
        secret = self._entropy.draw(one_time_codes.SECRET_BYTES)
        self._open.put(binding, _Open(account.name, code, secret), now)
        return self.offer(binding, now)

    def passkey_options(self, binding: str, now: float) -> str:
        """Options, as JSON, for making a passkey.

        Raises:
            LoginError: No first login is open here.
        """
        opened = self._looked(binding, now)
        return self._passkeys.creation(self._book.open_first_login(opened.name, opened.code, now), binding, now)

    def finish_with_passkey(self, binding: str, answer: Mapping[str, Any], now: float) -> Finished:
        """Store the passkey that was made; recovery codes, and a login.

        Raises:
            LoginError: The passkey is not as it must be, or no first login is open here.
        """
        opened = self._looked(binding, now)
        account = self._book.open_first_login(opened.name, opened.code, now)
        passkey = self._passkeys.created(account, binding, answer, now)

        def choose(found: Account) -> Account:
            return msgspec.structs.replace(found, passkeys=(*found.passkeys, passkey))

        codes = self._book.finish_first_login(opened.name, opened.code, choose, now)
        self._open.take(binding, now)
        return Finished(codes, authentication(account.name, passkey, now))

    def finish_with_password(self, binding: str, password: str, code: str, now: float) -> Finished:
        """Store password and TOTP secret, once the app has shown a right code; recovery codes, and a login.

        Raises:
            LoginError: The password may not be chosen, the code is wrong, or no first login is open here.
        """
        opened = self._looked(binding, now)
        passwords.check_choice(password, opened.name)
        step = one_time_codes.accepted_step(opened.secret, code, now, 0)
        if step is None:
            raise LoginError("the app's code is not the one of this moment: check the clock of the telephone")
        kept = passwords.make(password, self._entropy.draw(passwords.SALT_BYTES))

        def choose(found: Account) -> Account:
            return msgspec.structs.replace(found, password=kept, totp=Totp(opened.secret, step))

        codes = self._book.finish_first_login(opened.name, opened.code, choose, now)
        self._open.take(binding, now)
        return Finished(codes, Authentication(opened.name, TWO_FACTOR_ACR, ("pwd", "otp", "mfa"), now))

    def _looked(self, binding: str, now: float) -> _Open:
        opened = self._open.look(binding, now)
        if opened is None:
            raise LoginError("no first login is open on this page any more: begin again with the code")
        return opened
