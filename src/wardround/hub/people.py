"""A hub's desk for people, opened from its folder: keys, settings, the store in its database."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from wardround.config import secret
from wardround.people_folder import issuer_key, made, provider_of
from wardround.ports import Clock
from wardround.services.desk import Desk, local_desk, provider_desk
from wardround.services.login_records import LoginRecord, unrecorded
from wardround.services.passkeys import RelyingParty
from wardround.services.people import PeopleSettings
from wardround.storage.accounts import open_accounts
from wardround.storage.database import Database
from wardround.system import SystemClock, SystemEntropy
from wardround.transport import oidc

__all__ = ["HubPeople", "open_people"]

_STORE_KEY = "keys/people.key"


@dataclass(frozen=True, slots=True)
class HubPeople:
    """What the routes about people need; `nonce_key` makes the nonces of the token endpoint."""

    desk: Desk
    url: str
    clock: Clock
    nonce_key: bytes
    provider: oidc.RelyingParty | None


def open_people(
    folder: Path,
    settings: PeopleSettings,
    database: Database,
    *,
    url: str,
    environ: Mapping[str, str],
    record: LoginRecord = unrecorded,
) -> HubPeople | None:
    """How the hub in `folder` knows people; None where its provider is none.

    Raises:
        ConfigError: A setting is wrong, or a key cannot be used.
    """
    if settings.provider == "none":
        return None
    clock, entropy = SystemClock(), SystemEntropy()
    made(folder / _STORE_KEY, lambda: entropy.draw(32))
    accounts = open_accounts(database, secret(f"file:{_STORE_KEY}", folder, environ))
    if settings.provider == "oidc":
        provider = provider_of(folder, settings, url, environ)
        desk = provider_desk(settings, accounts, place=url, keys=provider.keys, introspect=provider.introspect)
        return HubPeople(desk, url, clock, entropy.draw(32), provider)
    key = issuer_key(folder, environ)
    party = _party(url)
    desk = local_desk(settings, accounts, entropy, key=key, place=url, party=party, record=record)
    return HubPeople(desk, url, clock, entropy.draw(32), None)


def _party(url: str) -> RelyingParty:
    # As a browser writes an origin: the default port is left out.
    parts = urlsplit(url)
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    return RelyingParty(host, f"https://{shown}" + ("" if parts.port in {None, 443} else f":{parts.port}"))
