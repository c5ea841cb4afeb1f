"""A node's desk for people, opened from its folder: keys, settings, the store in its vault.

A node has no listening port: its people give commands on its own machine, with the same tokens and proofs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wardround.ids import SiteId
from wardround.people_folder import issuer_key, provider_of
from wardround.ports import Vault
from wardround.services.desk import Desk, local_desk, provider_desk
from wardround.services.login_records import LoginRecord, unrecorded
from wardround.services.passkeys import RelyingParty
from wardround.services.people import PeopleSettings
from wardround.storage.vault_accounts import VaultAccounts
from wardround.system import SystemEntropy
from wardround.transport import oidc

__all__ = ["NodePeople", "open_people"]


@dataclass(frozen=True, slots=True)
class NodePeople:
    """A node's desk, and the client at the hospital's provider where there is one."""

    desk: Desk
    provider: oidc.RelyingParty | None


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
        provider = provider_of(folder, settings, place, environ)
        desk = provider_desk(
            settings, accounts, place=place, keys=provider.keys, introspect=provider.introspect, site=site
        )
        return NodePeople(desk, provider)
    key = issuer_key(folder, environ)
    party = RelyingParty("localhost", origin, f"Wardround at {site}")
    desk = local_desk(settings, accounts, entropy, key=key, place=place, party=party, site=site, record=record)
    return NodePeople(desk, None)
