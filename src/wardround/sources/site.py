"""What every source needs to know of its site: the mapping's folder, the zone of its clocks, and its secrets."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wardround.errors import ConfigError

__all__ = ["REFERENCE", "Site"]

REFERENCE = r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:[^\s@]+)$"
"""How a mapping names a secret; one given by value is refused."""


@dataclass(frozen=True, slots=True, repr=False)
class Site:
    """Attributes: `folder` is the mapping file's, `timezone` IANA's name of the zone of naive times, if declared."""

    folder: Path
    timezone: str | None = None
    environ: Mapping[str, str] = field(default_factory=dict)

    def path(self, relative: str) -> Path:
        """A path of the mapping, from the folder that the mapping lies in."""
        return self.folder / relative

    def secret(self, reference: str, what: str) -> str:
        """The secret that ``env:NAME`` or ``file:/path`` names; `what` it is, for the error.

        Raises:
            ConfigError: Not such a reference, or nothing is there; nothing of a value is shown.
        """
        if not re.match(REFERENCE, reference):
            raise ConfigError(f"{what} must be named as 'env:NAME' or 'file:/path', not given by value")
        how, _, name = reference.partition(":")
        if how == "env":
            if value := self.environ.get(name, "").strip():
                return value
            raise ConfigError(f"{what} is env:{name}, and that variable is not set")
        try:
            if value := (self.folder / name).read_text(encoding="utf-8").strip():
                return value
            trouble = "is empty"
        except (OSError, UnicodeDecodeError) as error:
            trouble = f"cannot be read ({type(error).__name__})"
        raise ConfigError(f"{what} is file:{name}, and that file {trouble}")
