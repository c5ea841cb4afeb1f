"""The hub's own certificates: its authority, the one that takes over from it, and the TLS server's.

    announce   a second authority beside the first in authority.crt; its key waits          trusted: old, new
    switch     the waiting key takes the place of the first, by one rename                   trusted: old, new
    retire     the first one leaves authority.crt                                            trusted: new

Each step waits until nobody needs what it takes away: everybody has heard of the new authority before it
issues, and nobody holds a certificate of the old one before that is forgotten. Whose key lies in
``authority.key`` issues, so there is no moment without an issuer, wherever a step is cut off.
"""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from wardround.config import HubConfig, secret
from wardround.crypto import certificate, server_certificate
from wardround.errors import ConfigError
from wardround.protocol.messages import Identity
from wardround.transport.credential import replace_private

__all__ = ["TLS_SECONDS", "present", "renew_tls", "rotate"]

TLS_SECONDS = 7 * 86400.0


def present(folder: Path, config: HubConfig) -> tuple[bytes, bytes]:
    """The key that issues, and the certificates of all authorities that are trusted, as they are on the disk.

    Raises:
        ConfigError: A file is missing.
    """
    try:
        return secret(config.authority_key, folder, os.environ), (folder / config.authority).read_bytes()
    except OSError as error:
        raise ConfigError(f"{folder / config.authority} cannot be read: {error.strerror}") from None


def renew_tls(folder: Path, config: HubConfig, now: float) -> bool:
    """Write a new TLS key and certificate where half of the present one's life is over; whether that was so.

    The key and the certificate are two files, so a crash between leaves a pair that does not fit: then, too, both
    are made anew.

    Raises:
        ConfigError: A file is missing.
        CryptoError: A file is not what it should be.
    """
    authority_key, authority = present(folder, config)
    place, key_place = folder / config.tls_certificate, _file_of(folder, config.tls_key)
    if place.is_symlink() or key_place.is_symlink():
        return False  # Somebody else keeps them.
    held = place.read_bytes()
    start, end = certificate.issued(held), certificate.expires(held)
    is_ours = server_certificate.is_of(held, authority_key)
    if is_ours and now < (start + end) / 2 and server_certificate.fits(held, key_place.read_bytes()):
        return False
    hosts = server_certificate.hosts(held)
    key, issued = certificate.issue_server(authority_key, authority, hosts, now, TLS_SECONDS)
    replace_private(key_place, key)
    replace_private(place, issued)
    return True


def rotate(folder: Path, config: HubConfig, identities: Sequence[Identity], now: float, *, force: bool = False) -> str:
    """Take the next step from one authority to another; what was done, in words.

    Raises:
        ConfigError: It is too early for this step: says who still needs what it would take away.
    """
    authority_key, authority = present(folder, config)
    key_place, place = _file_of(folder, config.authority_key), folder / config.authority
    waiting = key_place.with_suffix(".next.key")
    held = certificate.split(authority)
    if not waiting.exists() and len(held) == 1:
        return _announce(waiting, place, held, now)
    if waiting.exists():
        return _switch(waiting, key_place, place, held, identities, now, force=force)
    return _retire(authority_key, place, held, identities, now, force=force)


def _announce(waiting: Path, place: Path, held: list[bytes], now: float) -> str:
    day = datetime.fromtimestamp(now, UTC)
    key, issued = certificate.create_authority(f"Wardround hub {day:%Y-%m-%d %H:%M:%S}", now)
    replace_private(waiting, key)
    replace_private(place, b"".join([*held, issued]))
    return (
        "A new authority is announced. Everybody hears of it when their certificate is renewed; once all have, "
        "run this again: it will then issue. Until then nothing changes."
    )


def _switch(
    waiting: Path,
    key_place: Path,
    place: Path,
    held: list[bytes],
    identities: Sequence[Identity],
    now: float,
    *,
    force: bool,
) -> str:
    key = waiting.read_bytes()
    new = [one for one in held if server_certificate.fits(one, key)]
    if not new:
        # The step before was cut off after the key was written; the certificate is made anew.
        waiting.unlink()
        return _announce(waiting, place, held[:1], now)
    announced = certificate.issued(new[0])
    # Certificates count in seconds: one of the same second may have been issued before.
    late = [one.name for one in identities if _issued(one) <= announced]
    _refuse(late, "have not renewed their certificates since the new authority was announced", force=force)
    waiting.replace(key_place)
    return (
        "The new authority issues from now on; the old one is still trusted. Once all have renewed again, run this "
        "a last time."
    )


def _retire(
    authority_key: bytes, place: Path, held: list[bytes], identities: Sequence[Identity], now: float, *, force: bool
) -> str:
    kept = [one for one in held if server_certificate.fits(one, authority_key)]
    if len(kept) == len(held):
        raise ConfigError("there is one authority and no other waits; nothing to do")
    late = [
        one.name
        for one in identities
        if not all(server_certificate.is_of(part, authority_key) for part in certificate.split(one.certificate))
    ]
    del now
    _refuse(late, "hold certificates of the old authority", force=force)
    replace_private(place, b"".join(kept))
    return "The old authority is forgotten. Whoever has not renewed by now needs a new invite."


def _refuse(late: Sequence[str], why: str, *, force: bool) -> None:
    if late and not force:
        names = ", ".join(sorted(late)[:10]) + ("…" if len(late) > 10 else "")
        raise ConfigError(f"{len(late)} {why}: {names}; wait for them, revoke them, or use --force")


def _issued(identity: Identity) -> float:
    return certificate.issued(certificate.split(identity.certificate)[0])


def _file_of(folder: Path, reference: str) -> Path:
    scheme, _, rest = reference.partition(":")
    if scheme != "file":
        raise ConfigError(f"{reference} is no file: a key that is kept elsewhere is rotated there")
    return folder / rest
