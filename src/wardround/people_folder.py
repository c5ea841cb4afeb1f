"""What a hub's and a node's folder have in common about people: settings, the issuer's key, the provider's client."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from wardround.config import load, secret
from wardround.crypto import jose
from wardround.errors import ConfigError
from wardround.services.people import PeopleSettings, check_settings
from wardround.system import write_private
from wardround.transport import oidc

__all__ = ["issuer_key", "made", "people_settings", "provider_of"]

_ISSUER_KEY = "keys/issuer.key"


def people_settings(folder: Path) -> PeopleSettings:
    """The settings in ``people.toml`` of a folder; without the file, nobody is checked.

    No variable changes them: who may set one in a terminal may not thereby be believed.

    Raises:
        ConfigError: A setting is wrong.
    """
    path = folder / "people.toml"
    settings = load(path.read_text(), PeopleSettings, {}, "") if path.exists() else PeopleSettings()
    check_settings(settings)
    return settings


def provider_of(folder: Path, settings: PeopleSettings, audience: str, environ: Mapping[str, str]) -> oidc.RelyingParty:
    """The client at the provider that the settings name; `audience` is what tokens are for where they do not say.

    Raises:
        ConfigError: A setting is wrong, or a secret or file is not there.
    """
    return oidc.RelyingParty(
        settings.issuer,
        settings.client,
        client_secret=secret(settings.client_secret, folder, environ).decode() if settings.client_secret else "",
        audience=settings.audience or audience,
        scope=settings.scope,
        authority=_text(folder, settings.authority),
        loopback_http=settings.loopback_http,
    )


def issuer_key(folder: Path, environ: Mapping[str, str]) -> jose.SigningKey:
    """The key with which local logins are signed; made where there is none.

    Raises:
        ConfigError: It cannot be used.
    """
    made(folder / _ISSUER_KEY, lambda: jose.private_pem(ec.generate_private_key(ec.SECP256R1())))
    return jose.load_private(secret(f"file:{_ISSUER_KEY}", folder, environ))


def made(path: Path, key: Callable[[], bytes]) -> None:
    """Write a key where there is none; of two processes at once, the first one's counts."""
    if not path.exists():
        with suppress(ConfigError):
            write_private(path, key())


def _text(folder: Path, name: str) -> str:
    path = folder / name
    if name and not path.is_file():
        raise ConfigError(f"people.authority: there is no file {path}")
    return path.read_text() if name else ""
