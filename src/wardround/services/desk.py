"""Everything that one hub or node needs to know people, put together from its settings and a store.

provider local   accounts in the store, tokens of the embedded issuer
provider oidc    tokens of the hospital's provider; only ended logins are in the store
"""

from dataclasses import dataclass

from wardround.crypto import jose
from wardround.errors import ConfigError
from wardround.ports import Accounts, Entropy
from wardround.services.accounts import AccountBook
from wardround.services.endings import Endings
from wardround.services.first_login import FirstLogins
from wardround.services.issuer import Issuer
from wardround.services.login_records import LoginRecord, unrecorded
from wardround.services.passkeys import Passkeys, RelyingParty
from wardround.services.people import Introspect, KeySource, Logins, PeopleSettings, check_settings
from wardround.services.sign_in import SignIn

__all__ = ["Desk", "LocalPeople", "local_desk", "provider_desk"]


@dataclass(frozen=True, slots=True)
class LocalPeople:
    """The parts that only local accounts have; `site` is what their accounts say, empty at a hub."""

    book: AccountBook
    issuer: Issuer
    sign_in: SignIn
    passkeys: Passkeys
    first_logins: FirstLogins
    site: str


@dataclass(frozen=True, slots=True)
class Desk:
    """How one hub or node knows people; `local` is None where a provider of the hospital's own does."""

    settings: PeopleSettings
    issuer: str
    audience: str
    logins: Logins
    endings: Endings
    local: LocalPeople | None


def local_desk(
    settings: PeopleSettings,
    accounts: Accounts,
    entropy: Entropy,
    *,
    key: jose.SigningKey,
    place: str,
    party: RelyingParty,
    site: str = "",
    record: LoginRecord = unrecorded,
) -> Desk:
    """A desk over local accounts.

    Args:
        settings: Of people.
        accounts: The store.
        entropy: For challenges, codes and identifiers.
        key: The issuer's, P-256 or Ed25519.
        place: What issues, and what tokens are for: a hub's address, or ``wardround:node/<site>``.
        party: For whom passkeys are.
        site: Of a node: the site that everybody here is of.
        record: Told of every login, before anything follows from it.

    Raises:
        ConfigError: The settings cannot hold.
    """
    check_settings(settings)
    audience, endings = settings.audience or place, Endings(accounts)
    book = AccountBook(accounts, entropy, issuer=place)
    passkeys = Passkeys(book, entropy, party, record=record)
    issuer = Issuer(book, accounts, entropy, key=key, issuer=place, audience=audience, settings=settings)
    first = FirstLogins(book, passkeys, entropy, party=f"Wardround {site or party.id}")
    logins = Logins(settings, issuer=place, audience=audience, keys=lambda _: issuer.keys(), endings=endings, site=site)
    local = LocalPeople(book, issuer, SignIn(book, entropy, record=record), passkeys, first, site)
    return Desk(settings, place, audience, logins, endings, local)


def provider_desk(
    settings: PeopleSettings,
    accounts: Accounts,
    *,
    place: str,
    keys: KeySource,
    introspect: Introspect,
    site: str = "",
) -> Desk:
    """A desk over the hospital's own provider.

    Raises:
        ConfigError: The settings cannot hold.
    """
    check_settings(settings)
    if settings.provider != "oidc":
        raise ConfigError("people.provider must be oidc where a provider knows people")
    audience, endings = settings.audience or place, Endings(accounts)
    logins = Logins(
        settings,
        issuer=settings.issuer,
        audience=audience,
        keys=keys,
        endings=endings,
        site=site,
        introspect=introspect if settings.introspection else None,
    )
    return Desk(settings, settings.issuer, audience, logins, endings, None)
