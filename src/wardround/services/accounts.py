"""Accounts of people that are kept here, where no provider of the hospital's own is used.

    added ──▶ first login with a one-time code ──▶ passkeys, or password and TOTP ──▶ logins
      ▲                                                                              │
      └──────────────────────── reset: every factor gone, a new code ◀───────────────┘

An account is written only over the version that was read, so what counts once (a code, a TOTP step, a
passkey's counter, an attempt) counts once in every process. Whatever lessens an account (other roles,
reset, removal) ends its logins at once.
"""

import hmac
from collections.abc import Callable, Collection

import msgspec

from wardround.codec import canonical
from wardround.errors import CodecError, ConfigError, ConflictError, LoginError, NotFoundError
from wardround.ids import site_id
from wardround.ports import Accounts, Entropy
from wardround.services import one_time_codes
from wardround.services.endings import Endings
from wardround.services.passwords import Password
from wardround.services.people import ROLES

__all__ = ["FIRST_LOGIN_SECONDS", "Account", "AccountBook", "Passkey", "Totp"]

FIRST_LOGIN_SECONDS = 72 * 3600.0
RECOVERY_CODES = 8
_HANDLE_BYTES = 32
_TRIES = 8


class Totp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A secret shared with an authenticator app, and the last step that was accepted."""

    secret: bytes
    last_step: int = 0

    def __repr__(self) -> str:
        """Without the secret."""
        return f"Totp(last_step={self.last_step})"


class Passkey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A WebAuthn credential: its identifier, COSE public key and counter; `synced` where copies may exist elsewhere."""

    credential: bytes
    public_key: bytes
    sign_count: int
    synced: bool
    added: float


class Account(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One person's account; `first_code` is the digest of an open first login's code, or empty."""

    name: str
    shown: str
    roles: tuple[str, ...]
    site: str
    handle: bytes
    created: float
    password: Password | None = None
    totp: Totp | None = None
    passkeys: tuple[Passkey, ...] = ()
    recovery: tuple[bytes, ...] = ()
    first_code: bytes = b""
    first_code_expires: float = 0.0
    failures: int = 0
    locked_until: float = 0.0

    def __repr__(self) -> str:
        """Without the secrets."""
        return f"Account(name={self.name!r}, roles={self.roles!r}, factors={self.factors!r})"

    @property
    def factors(self) -> tuple[str, ...]:
        """What the person can log in with."""
        two = ("password and code",) if self.password and self.totp else ()
        return (*(["passkey"] if self.passkeys else []), *two)


class AccountBook:
    """All accounts of one hub or node. May be used by several threads and processes.

    `issuer` is whose tokens end when an account is lessened.
    """

    def __init__(self, accounts: Accounts, entropy: Entropy, *, issuer: str) -> None:
        self._accounts, self._entropy, self._issuer = accounts, entropy, issuer
        self._endings = Endings(accounts)

    def get(self, name: str) -> Account:
        """An account.

        Raises:
            NotFoundError: There is none of this name.
            CryptoError: The store was altered.
            UnavailableError: The store did not answer.
        """
        return self._load(name)[0]

    def names(self) -> list[str]:
        """Every account's name, sorted."""
        return [name.removeprefix("account.") for name in self._accounts.names("account.")]

    def by_handle(self, handle: bytes) -> Account:
        """The account that a passkey names.

        Raises:
            LoginError: None.
        """
        found = self._accounts.read(f"handle.{handle.hex()}") if len(handle) == _HANDLE_BYTES else None
        if found is None:
            raise LoginError("this passkey belongs to no account here")
        try:
            account = self.get(found[0].decode())
        except NotFoundError:
            raise LoginError("this passkey belongs to no account here") from None
        if not hmac.compare_digest(account.handle, handle):
            raise LoginError("this passkey belongs to no account here any more")
        return account

    def add(self, name: str, roles: Collection[str], *, shown: str = "", site: str = "", now: float) -> str:
        """Make an account; the code for its first login, which is shown now and never again.

        Raises:
            ConfigError: Not a name or role, or there is such an account.
        """
        code, fields = self._first_code(name, now)
        account = Account(
            name=_checked_name(name),
            shown=shown or name,
            roles=_checked_roles(roles),
            site=site,
            handle=self._entropy.draw(_HANDLE_BYTES),
            created=now,
        )
        handle = f"handle.{account.handle.hex()}"
        self._accounts.write(handle, name.encode(), after=0)
        try:
            self._save(msgspec.structs.replace(account, **fields), after=0)
        except ConflictError:
            self._accounts.delete(handle, after=1)
            raise ConfigError(f"there is an account {name} already; see: wardround people list") from None
        # Somebody of this name may have been here before: none of their logins is this one's.
        self._endings.end_person(self._issuer, name, now)
        return code

    def change(self, name: str, how: Callable[[Account], Account]) -> Account:
        """Replace an account by what `how` makes of it; `how` may be called again where another writer was first.

        Raises:
            NotFoundError: There is none of this name.
            ConflictError: Others kept writing to it.
        """
        for _ in range(_TRIES):
            account, version = self._load(name)
            changed = how(account)
            try:
                self._save(changed, after=version)
            except ConflictError:
                continue
            return changed
        raise ConflictError("others kept writing to this account; try again")

    def set_roles(self, name: str, roles: Collection[str], now: float) -> Account:
        """Give other roles; present logins are ended.

        Raises:
            NotFoundError: There is none of this name.
            ConfigError: Not a role.
        """
        checked = _checked_roles(roles)
        account = self.change(name, lambda account: msgspec.structs.replace(account, roles=checked))
        self._endings.end_person(self._issuer, name, now)
        return account

    def renew(self, name: str, now: float) -> str:
        """Open another first login, in which factors are added to those that are there; its code.

        Raises:
            NotFoundError: There is none of this name.
        """
        code, fields = self._first_code(name, now)
        self.change(name, lambda account: msgspec.structs.replace(account, **fields))
        return code

    def reset(self, name: str, now: float) -> str:
        """Take every factor away, end present logins, and open a new first login; its code.

        Raises:
            NotFoundError: There is none of this name.
        """
        code, fields = self._first_code(name, now)
        cleared = {"password": None, "totp": None, "passkeys": (), "recovery": (), "failures": 0, "locked_until": 0.0}
        self.change(name, lambda account: msgspec.structs.replace(account, **cleared, **fields))
        self._endings.end_person(self._issuer, name, now)
        return code

    def remove(self, name: str, now: float) -> None:
        """Forget an account and end its logins.

        Raises:
            NotFoundError: There is none of this name.
        """
        account, version = self._load(name)
        self._endings.end_person(self._issuer, name, now)
        self._accounts.delete(f"account.{account.name}", after=version)
        handle = f"handle.{account.handle.hex()}"
        if (found := self._accounts.read(handle)) is not None:
            self._accounts.delete(handle, after=found[1])

    def open_first_login(self, name: str, code: str, now: float) -> Account:
        """The account whose first-login code this is; the code stays until `finish_first_login`.

        Raises:
            LoginError: There is no such account, or the code is not its own, was used or has expired.
        """
        digest = one_time_codes.code_digest(code, name)
        try:
            account = self.get(name)
        except NotFoundError:
            account = None
        if account is None or not _is_first(account, digest, now):
            raise LoginError("this name and code open no first login; the code may be used or too old: ask for a reset")
        return account

    def finish_first_login(
        self, name: str, code: str, choose: Callable[[Account], Account], now: float
    ) -> tuple[str, ...]:
        """Add the factors that `choose` adds, and use up the code; recovery codes, shown now and never again.

        Raises:
            LoginError: The code was used in the meantime.
        """
        digest = one_time_codes.code_digest(code, name)
        recovery = tuple(one_time_codes.draw_code(self._entropy) for _ in range(RECOVERY_CODES))
        digests = tuple(one_time_codes.code_digest(one, name) for one in recovery)

        def finish(account: Account) -> Account:
            if not _is_first(account, digest, now):
                raise LoginError("this code was used in the meantime, or has expired: ask for a reset")
            chosen = choose(account)
            return msgspec.structs.replace(
                chosen, recovery=digests, first_code=b"", first_code_expires=0.0, failures=0, locked_until=0.0
            )

        self.change(name, finish)
        return recovery

    def _first_code(self, name: str, now: float) -> tuple[str, dict[str, object]]:
        code = one_time_codes.draw_code(self._entropy)
        digest = one_time_codes.code_digest(code, name)
        return code, {"first_code": digest, "first_code_expires": now + FIRST_LOGIN_SECONDS}

    def _load(self, name: str) -> tuple[Account, int]:
        try:
            found = self._accounts.read(f"account.{_checked_name(name)}")
        except ConfigError:
            found = None
        if found is None:
            raise NotFoundError("there is no account of this name; see: wardround people list")
        return canonical.decode(found[0], Account), found[1]

    def _save(self, account: Account, *, after: int) -> None:
        self._accounts.write(f"account.{account.name}", canonical.encode(account), after=after)


def _is_first(account: Account, digest: bytes, now: float) -> bool:
    return hmac.compare_digest(account.first_code, digest) and now < account.first_code_expires


def _checked_name(name: str) -> str:
    try:
        return site_id(name)
    except CodecError as error:
        raise ConfigError(str(error)) from None


def _checked_roles(roles: Collection[str]) -> tuple[str, ...]:
    if not roles or (unknown := sorted(set(roles) - set(ROLES))):
        wrong = f"; found {', '.join(unknown)}" if roles else ""
        raise ConfigError(f"a person has one or more of these roles: {', '.join(ROLES)}{wrong}")
    return tuple(sorted(set(roles)))
