"""Changes of the officers as files: drafted by one, signed by enough of the officers before, followed by each node."""

from collections.abc import Sequence
from pathlib import Path

from wardround.codec import canonical
from wardround.errors import ConfigError
from wardround.secagg import officers
from wardround.secagg.officers import Officers, SignedOfficers

__all__ = ["draft", "read", "words", "write"]


def draft(consortium: str, number: int, keys: Sequence[str], quorum: int) -> SignedOfficers:
    """An unsigned list of officers by their public keys, hexadecimal.

    Raises:
        ConfigError: A key is none.
        CodecError: A key twice, or a quorum that cannot be.
        CryptoError: A key is none of Ed25519.
    """
    try:
        raw = tuple(sorted(bytes.fromhex(key) for key in keys))
    except ValueError:
        raise ConfigError(
            "officers are named by public keys of 64 hexadecimal digits; `wardround officer init` prints one"
        ) from None
    made = Officers(consortium=consortium, number=number, officers=raw, quorum=quorum)
    officers.check(made)
    return SignedOfficers(canonical.encode(made))


def read(path: Path) -> SignedOfficers:
    """The file of a change.

    Raises:
        ConfigError: There is none.
        CodecError: It is no list of officers.
    """
    if not path.is_file():
        raise ConfigError(f"there is no list of officers in {path}; make one with: wardround officer change")
    signed = canonical.decode(path.read_bytes(), SignedOfficers)
    officers.check(canonical.decode(signed.officers, Officers))
    return signed


def write(path: Path, signed: SignedOfficers) -> None:
    """Write the file of a change."""
    path.write_bytes(canonical.encode(signed))


def words(signed: SignedOfficers) -> list[str]:
    """What a change says, for people."""
    made = canonical.decode(signed.officers, Officers)
    return [
        f"Change {made.number} of the officers of {made.consortium}: {made.quorum} of these {len(made.officers)} sign",
        *(f"  {key.hex()}" for key in made.officers),
        f"Signed by {len(signed.endorsements)}:",
        *(f"  {endorsement.officer.hex()[:16]}…" for endorsement in signed.endorsements),
    ]
