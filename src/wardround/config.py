"""Every setting of a hub and of a node: one TOML file, then ``WARDROUND_…`` variables.

Unknown keys are errors. Secrets are given by reference (``file:keys/ca.key`` or ``env:NAME``), never by
value; relative paths count from the file's folder.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from wardround.errors import ConfigError
from wardround.ids import SiteId
from wardround.protocol.policy import SitePolicy
from wardround.sandbox.settings import SandboxSettings

__all__ = ["HubConfig", "NodeConfig", "ResearcherConfig", "load", "secret"]

_T = TypeVar("_T")
_REFERENCES = {"state_key": ("file:", "env:", "pkcs11:", "kms:")}
"""How a secret may be named, where it is otherwise than by file: or env:."""


class HubConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A hub. `max_blob_bytes` bounds what a researcher may upload before any plan names a size.

    `listen` is where enrolled machines connect, with their certificates; `listen_public` where newcomers enrol,
    certificates are renewed, people log in and anybody reads the public log. `url` and `url_public` are how
    these are reached. `client_certificates` is "proxy" where a load balancer ends TLS and checks certificates
    itself: then only the signatures of the requests say who sends them.
    `cluster` is the address of a Ray cluster that aggregates; empty: this machine's processors do.
    `collateral` is the file of the vendors' collateral, which `collateral_quorum` of `collateral_officers` (public
    keys, hexadecimal) must have signed: by it nodes' evidence is checked, and the keys of runs are released.
    `attestation_key` signs attestation results. `confidential` says that this machine is a confidential one, whose
    kernel gives evidence. Plans that demand what is not set here are refused.
    """

    listen: str = "127.0.0.1:8443"
    listen_public: str = "127.0.0.1:8444"
    url: str = "https://127.0.0.1:8443"
    url_public: str = "https://127.0.0.1:8444"
    client_certificates: Literal["required", "proxy"] = "required"
    certificate_hours: Annotated[float, msgspec.Meta(gt=0, le=2160)] = 24.0
    renewal_grace_days: Annotated[float, msgspec.Meta(ge=0, le=366)] = 30.0
    database: str = "sqlite:///state/hub.sqlite"
    blobs: str = "state/blobs"
    authority: str = "authority.crt"
    authority_key: str = "file:keys/authority.key"
    tls_certificate: str = "tls.crt"
    tls_key: str = "file:keys/tls.key"
    max_blob_bytes: int = 4 * 1024**3
    request_window_seconds: float = 300.0
    cluster: str = ""
    collateral: str = ""
    collateral_officers: tuple[str, ...] = ()
    collateral_quorum: int = 1
    attestation_key: str = "file:keys/attestation.key"
    confidential: bool = False


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A hospital's node: whom it belongs to, which hub it dials, where its records are, and its policy.

    `hub` is where it works, `hub_public` where it renews its certificate (empty: the same). `key` signs
    documents, and `certificate` is for it; `connection` is the file of the key and the short-lived certificate
    that open connections, which the node renews by itself.
    `officers` are the public keys (hexadecimal) of those whose signatures make a roster, `officer_quorum`
    how many of them must have signed. `dataset` is the name under which the privacy budget of this node's records is
    kept; what was spent stays under it, so another name is for other records.
    `witness_seconds` is how often the node looks after the audit logs of hub and sites; 0: never.
    `collateral` is the file of the vendors' collateral, which `collateral_quorum` of `collateral_officers` must have
    signed: by it the hub's evidence is checked. `confidential` says that this machine is a confidential one, whose
    kernel gives evidence.
    """

    name: SiteId
    hub: str
    hub_public: str = ""
    authority: str = "authority.crt"
    certificate: str = "node.crt"
    connection: str = "keys/connection.pem"
    key: str = "file:keys/node.key"
    agreement_key: str = "file:keys/agreement.key"
    officers: tuple[str, ...] = ()
    officer_quorum: int = 1
    state: str = "state"
    state_key: str = "file:keys/state.key"
    mapping: str = "mapping.toml"
    dataset: str = "records"
    witness_seconds: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 60.0
    collateral: str = ""
    collateral_officers: tuple[str, ...] = ()
    collateral_quorum: int = 1
    confidential: bool = False
    policy: SitePolicy = SitePolicy()
    sandbox: SandboxSettings = SandboxSettings()


class ResearcherConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A researcher's place at a hub."""

    name: SiteId
    hub: str
    hub_public: str = ""
    authority: str = "authority.crt"
    certificate: str = "researcher.crt"
    connection: str = "keys/connection.pem"
    key: str = "file:keys/researcher.key"


def load(text: str, kind: type[_T], environ: Mapping[str, str], prefix: str) -> _T:
    """Read settings from TOML text and from ``<prefix><NAME>`` variables, which win.

    Raises:
        ConfigError: Not TOML, an unknown key, or a value of the wrong type; names the key, never the value.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the settings are not TOML: {error}") from None
    for name, value in environ.items():
        if name.startswith(prefix):
            values[name.removeprefix(prefix).lower()] = value
    for name, value in values.items():
        if name.endswith("key") and not str(value).startswith(_REFERENCES.get(name, ("file:", "env:"))):
            raise ConfigError(f"setting {name!r} is a secret: give a reference such as file:keys/{name}, not its value")
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"a setting is wrong: {error}") from None


def secret(reference: str, base: Path, environ: Mapping[str, str]) -> bytes:
    """The bytes that a reference stands for.

    Raises:
        ConfigError: The reference leads nowhere, or to a file that others can read.
    """
    scheme, _, rest = reference.partition(":")
    if scheme == "env" and rest in environ:
        return environ[rest].encode()
    path = base / rest
    if scheme != "file" or not path.is_file():
        raise ConfigError(f"the secret {scheme}:{rest} is not there")
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path} can be read by others; run: chmod 600 {path}")
    return path.read_bytes()
