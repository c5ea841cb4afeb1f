"""Whose signatures make a roster at this node: the officers of its settings, and the changes that they signed since."""

from pathlib import Path

from wardround.codec import canonical
from wardround.config import NodeConfig
from wardround.errors import ConfigError
from wardround.secagg import officers
from wardround.secagg.officers import Officers, SignedOfficers
from wardround.transport.credential import replace_private

__all__ = ["follow_officers", "officers_of"]

_CHANGES = "officers.json"


def officers_of(folder: Path, config: NodeConfig) -> Officers:
    """Whose signatures make a roster at this node: those of its settings, and the changes that it has followed.

    Raises:
        ConfigError: A setting is wrong.
        SignatureError: A change that is kept here was not signed by enough of the officers before it.
        CodecError: A change that is kept here is none.
    """
    return officers.follow(_officers(config), config.officer_quorum, _changes(folder))


def follow_officers(folder: Path, config: NodeConfig, file: Path) -> Officers:
    """Follow one change more, if enough of the present officers have signed it; it is kept from then on.

    Raises:
        SignatureError: Too few of them have.
        CodecError: It is no change, or not the next one.
        ConfigError: A setting is wrong.
    """
    change = canonical.decode(file.read_bytes(), SignedOfficers)
    after = officers.succeed(officers_of(folder, config), change)
    replace_private(folder / _CHANGES, canonical.encode([*_changes(folder), change]))
    return after


def _changes(folder: Path) -> list[SignedOfficers]:
    path = folder / _CHANGES
    return canonical.decode(path.read_bytes(), list[SignedOfficers]) if path.exists() else []


def _officers(config: NodeConfig) -> tuple[bytes, ...]:
    try:
        officers = tuple(bytes.fromhex(text) for text in config.officers)
    except ValueError:
        raise ConfigError(
            "officers must be public keys of 64 hexadecimal digits; `wardround officer` prints them"
        ) from None
    if config.officers and not 1 <= config.officer_quorum <= len(set(officers)):
        raise ConfigError(f"officer_quorum must lie between 1 and the number of officers, {len(set(officers))}")
    return officers
