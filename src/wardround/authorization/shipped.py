"""The policies that come with Wardround: the schema, what a hub allows, and what a site allows.

They are this package's own files, read as its code is; nothing outside of it is.
"""

from functools import cache
from importlib.resources import files

from wardround.authorization.decide import Authorizer
from wardround.authorization.policy import Text

__all__ = ["hub", "schema", "site", "text"]


@cache
def text(name: str) -> str:
    """One of the shipped files."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def schema() -> str:
    """What policies speak about."""
    return text("wardround.cedarschema")


def hub(own: str = "") -> Authorizer:
    """What a hub allows: the shipped policies and the operator's `own`.

    Raises:
        ConfigError: `own` cannot be put in force; with line and column.
    """
    return _with_own("hub.cedar", own)


def site(own: str = "") -> Authorizer:
    """What a site allows: the shipped policies and the site's `own`.

    Raises:
        ConfigError: `own` cannot be put in force; with line and column.
    """
    return _with_own("site.cedar", own)


def _with_own(shipped: str, own: str) -> Authorizer:
    texts = (Text(f"the shipped {shipped}", text(shipped)), *((Text("policy.cedar", own),) if own.strip() else ()))
    return Authorizer(schema(), *texts)
