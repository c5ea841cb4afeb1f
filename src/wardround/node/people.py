"""A node's desk for people, opened from its folder: keys, settings, the store in its vault.

A node has no listening port: its people give commands on its own machine, with the same tokens and proofs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from wardround.config import load, secret
from wardround.crypto import jose
from wardround.errors import ConfigError
from wardround.ids import SiteId
from wardround.ports import Vault
from wardround.services.desk import Desk, local_desk, provider_desk
from wardround.services.login_records import LoginRecord, unrecorded
from wardround.services.passkeys import RelyingParty
from wardround.services.people import PeopleSettings, check_settings
from wardround.storage.vault_accounts import VaultAccounts
from wardround.system import SystemEntropy, write_private
from wardround.transport import oidc

__all__ = ["NodePeople", "open_people", "people_settings"]

_ISSUER_KEY = "keys/issuer.key"


@dataclass(frozen=True, slots=True)
class NodePeople:
    """A node's desk, and the client at the hospital's provider where there is one."""

    desk: Desk
    provider: oidc.RelyingParty | None


def people_settings(folder: Path) -> PeopleSettings:
    """The settings in ``people.toml`` of a node's folder; without the file, nobody is checked.

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
    vault: Vault,
    site: SiteId,
    *,
    origin: str,
    environ: Mapping[str, str],
    record: LoginRecord = unrecorded,
) -> NodePeople | None:
    """How the node in `folder` knows people; None where its provider is none.

    `origin` is that of the page for passkeys, ``http://localhost:<port>``; a command that opens no page gives any.

    Raises:
        ConfigError: A setting is wrong, or a key cannot be used.
    """
    if settings.provider == "none":
        return None
    entropy, accounts, place = SystemEntropy(), VaultAccounts(vault), f"wardround:node/{site}"
    if settings.provider == "oidc":
        provider = oidc.RelyingParty(
            settings.issuer,
            settings.client,
            client_secret=secret(settings.client_secret, folder, environ).decode() if settings.client_secret else "",
            audience=settings.audience or place,
            scope=settings.scope,
            authority=_text(folder, settings.authority),
            loopback_http=settings.loopback_http,
        )
        desk = provider_desk(
            settings, accounts, place=place, keys=provider.keys, introspect=provider.introspect, site=site
        )
        return NodePeople(desk, provider)
    if not (folder / _ISSUER_KEY).exists():
        write_private(folder / _ISSUER_KEY, jose.private_pem(ec.generate_private_key(ec.SECP256R1())))
    key = jose.load_private(secret(f"file:{_ISSUER_KEY}", folder, environ))
    party = RelyingParty("localhost", origin, f"Wardround at {site}")
    desk = local_desk(settings, accounts, entropy, key=key, place=place, party=party, site=site, record=record)
    return NodePeople(desk, None)


def _text(folder: Path, name: str) -> str:
    path = folder / name
    if name and not path.is_file():
        raise ConfigError(f"people.authority: there is no file {path}")
    return path.read_text() if name else ""
