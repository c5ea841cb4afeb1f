"""A person's logins on this machine: one private file each, in ``$WARDROUND_HOME`` or ``~/.config/wardround``.

A file holds an access token, a refresh token and the key that both are bound to; whoever reads it is that
person until the login ends. So it is written with mode 0600, and not read where others could have.
"""

import hashlib
import os
import secrets
from pathlib import Path

import msgspec

from wardround.errors import ConfigError, LoginError
from wardround.system import private_folder

__all__ = ["Session", "forget", "load", "save"]


class Session(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One login: `place` is the folder or address that it is for, `key` its private key in PEM."""

    place: str
    name: str
    key: str
    access_token: str
    refresh_token: str
    expires: float
    authority: str = ""
    provider_authority: str = ""

    def __repr__(self) -> str:
        """Without tokens and key."""
        return f"Session(place={self.place!r}, name={self.name!r})"


def save(session: Session) -> None:
    """Keep a login, in place of an older one for the same place."""
    path = _path(session.place)
    private_folder(path.parent)
    made = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(session))
        file.flush()
        os.fsync(file.fileno())
    made.replace(path)


def load(place: str) -> Session:
    """The login for a place.

    Raises:
        LoginError: There is none.
        ConfigError: Others can read its file.
    """
    path = _path(place)
    try:
        found = path.lstat()
        data = path.read_bytes()
    except FileNotFoundError:
        raise LoginError(f"nobody is logged in here; run: wardround login {place}") from None
    if found.st_mode & 0o077 or found.st_uid != os.geteuid():
        raise ConfigError(f"{path} can be read by others: run wardround logout {place}, and log in again")
    try:
        return msgspec.json.decode(data, type=Session)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise LoginError(f"the kept login is not whole; run: wardround login {place}") from None


def forget(place: str) -> None:
    """Delete the login for a place, if there is one."""
    _path(place).unlink(missing_ok=True)


def _path(place: str) -> Path:
    home = os.environ.get("WARDROUND_HOME")
    root = Path(home) if home else Path.home() / ".config" / "wardround"
    return root / "logins" / f"{hashlib.sha256(place.encode()).hexdigest()[:32]}.json"
