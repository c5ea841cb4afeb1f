"""A hub's desk for people, opened from its folder: keys, settings, the store in its database."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec

from wardround.config import load, secret
from wardround.crypto import jose
from wardround.errors import ConfigError
from wardround.ports import Clock
from wardround.services.desk import Desk, local_desk, provider_desk
from wardround.services.login_records import LoginRecord, unrecorded
from wardround.services.passkeys import RelyingParty
from wardround.services.people import PeopleSettings, check_settings
from wardround.storage.accounts import open_accounts
from wardround.storage.database import Database
from wardround.system import SystemClock, SystemEntropy, write_private
from wardround.transport import oidc

__all__ = ["HubPeople", "open_people", "people_settings"]

_STORE_KEY, _ISSUER_KEY = "keys/people.key", "keys/issuer.key"


@dataclass(frozen=True, slots=True)
class HubPeople:
    """What the routes about people need; `nonce_key` makes the nonces of the token endpoint."""

    desk: Desk
    url: str
    clock: Clock
    nonce_key: bytes
    provider: oidc.RelyingParty | None


def people_settings(folder: Path) -> PeopleSettings:
    """The settings in ``people.toml`` of a hub's folder; without the file, nobody is checked.

    No variable changes them: who may set one in a terminal may not thereby be believed.

    Raises:
        ConfigError: A setting is wrong.
    """
    path = folder / "people.toml"
    settings = load(path.read_text(), PeopleSettings, {}, "") if path.exists() else PeopleSettings()
    check_settings(settings)
    return settings


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
    _make(folder / _STORE_KEY, lambda: entropy.draw(32))
    accounts = open_accounts(database, secret(f"file:{_STORE_KEY}", folder, environ))
    if settings.provider == "oidc":
        provider = oidc.RelyingParty(
            settings.issuer,
            settings.client,
            client_secret=secret(settings.client_secret, folder, environ).decode() if settings.client_secret else "",
            audience=settings.audience or url,
            scope=settings.scope,
            authority=_text(folder, settings.authority),
            loopback_http=settings.loopback_http,
        )
        desk = provider_desk(settings, accounts, place=url, keys=provider.keys, introspect=provider.introspect)
        return HubPeople(desk, url, clock, entropy.draw(32), provider)
    _make(folder / _ISSUER_KEY, lambda: jose.private_pem(ec.generate_private_key(ec.SECP256R1())))
    key = jose.load_private(secret(f"file:{_ISSUER_KEY}", folder, environ))
    party = _party(url)
    desk = local_desk(settings, accounts, entropy, key=key, place=url, party=party, record=record)
    return HubPeople(desk, url, clock, entropy.draw(32), None)


def _make(path: Path, key: Callable[[], bytes]) -> None:
    """Write a key where there is none; of two processes at once, the first one's counts."""
    if not path.exists():
        with suppress(ConfigError):
            write_private(path, key())


def _text(folder: Path, name: str) -> str:
    path = folder / name
    if name and not path.is_file():
        raise ConfigError(f"people.authority: there is no file {path}")
    return path.read_text() if name else ""


def _party(url: str) -> RelyingParty:
    # As a browser writes an origin: the default port is left out.
    parts = urlsplit(url)
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    return RelyingParty(host, f"https://{shown}" + ("" if parts.port in {None, 443} else f":{parts.port}"))
