"""Where people give commands: a hub's folder or a node's, opened with its desk for people."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wardround.errors import ConfigError

if TYPE_CHECKING:
    from wardround.services.desk import Desk
    from wardround.services.people import PeopleSettings
    from wardround.transport.oidc import RelyingParty

__all__ = ["Place", "open_place", "place_name", "settings_of"]


@dataclass(frozen=True, slots=True)
class Place:
    """A hub's or a node's folder. `desk` is None where its people are not checked; `address` begins its actions'."""

    name: str
    address: str
    site: str
    desk: "Desk | None"
    provider: "RelyingParty | None"


def place_name(folder: Path) -> str:
    """Under what a login for this folder is kept."""
    return str(folder.resolve())


def settings_of(folder: Path) -> "PeopleSettings":
    """The settings in the folder's ``people.toml``.

    Raises:
        ConfigError: There is neither hub nor node here, or a setting is wrong.
    """
    from wardround.people_folder import people_settings

    _is_hub(folder)  # or it says that this is neither
    return people_settings(folder)


@contextmanager
def open_place(folder: Path, *, origin: str = "http://localhost") -> Iterator[Place]:
    """Open the hub or node in `folder` for its people; `origin` is that of a node's page for passkeys.

    Raises:
        ConfigError: There is neither hub nor node here, or a setting is wrong.
    """
    opening = _open_hub(folder) if _is_hub(folder) else _open_node(folder, origin)
    with opening as place:
        yield place


@contextmanager
def _open_hub(folder: Path) -> Iterator[Place]:
    from wardround.hub import people as hub_people
    from wardround.hub import setup
    from wardround.people_folder import people_settings
    from wardround.services.login_records import recorded
    from wardround.storage.database import open_database

    settings, config = people_settings(folder), setup.load_config(folder)
    if settings.provider == "none":
        yield Place(place_name(folder), "wardround:hub", "", None, None)
        return
    url = config.database
    if url.startswith("sqlite:///") and not url.startswith("sqlite:////"):
        url = f"sqlite:///{(folder / url.removeprefix('sqlite:///')).resolve()}"
    with open_database(url) as database:

        def record(outcome: str, method: str, name: str) -> None:
            with setup.auditing(folder) as recorder:
                recorded(recorder)(outcome, method, name)

        opened = hub_people.open_people(
            folder, settings, database, url=people_url(config), environ=os.environ, record=record
        )
        if opened is None:
            raise ConfigError("people.provider is none")
        yield Place(place_name(folder), "wardround:hub", "", opened.desk, opened.provider)


@contextmanager
def _open_node(folder: Path, origin: str) -> Iterator[Place]:
    from wardround.node import people as node_people
    from wardround.node import setup
    from wardround.people_folder import people_settings
    from wardround.services.login_records import recorded

    settings, config = people_settings(folder), setup.load_config(folder)
    address = f"wardround:node/{config.name}"
    if settings.provider == "none":
        yield Place(place_name(folder), address, config.name, None, None)
        return
    vault = setup.open_vault(folder)

    def record(outcome: str, method: str, name: str) -> None:
        recording = setup.open_recording(folder)
        try:
            recorded(recording.auditing)(outcome, method, name)
        finally:
            recording.auditing.close()

    try:
        opened = node_people.open_people(
            folder, settings, vault, config.name, origin=origin, environ=os.environ, record=record
        )
        if opened is None:
            raise ConfigError("people.provider is none")
        yield Place(place_name(folder), address, config.name, opened.desk, opened.provider)
    finally:
        vault.close()


def people_url(config: object) -> str:
    """The address at which a hub's people log in: the public one, where the hub has two."""
    return str(getattr(config, "url_public", "") or getattr(config, "url", ""))


def _is_hub(folder: Path) -> bool:
    if (folder / "hub.toml").exists():
        return True
    if (folder / "node.toml").exists():
        return False
    raise ConfigError(f"there is neither a hub nor a node in {folder}")
