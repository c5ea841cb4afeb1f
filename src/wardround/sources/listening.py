"""The listeners of a site's mapping: HL7 v2 over MLLP, and FHIR notifications, each into its source's sealed intake."""

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from wardround.errors import ConfigError
from wardround.sources import event_mapping
from wardround.sources.site import Site

__all__ = ["listen"]


def listen(
    path: Path, name: str, stop: threading.Event, *, ready: Callable[[str, int], None] | None = None
) -> dict[str, int]:
    """Take in what is sent to one source until `stop` is set; counts by name.

    Args:
        path: The mapping file.
        name: The source's name in it.
        stop: Ends the listening.
        ready: Told the address once connections are taken.

    Raises:
        ConfigError: There is no such source, it does not listen, or a setting or secret is wrong.
    """
    mapping = event_mapping.decode(path.read_text(encoding="utf-8"))
    site = Site(path.parent, mapping.timezone or None, os.environ)
    table = next((table for table in mapping.sources if table.get("name") == name), None)
    if table is None:
        raise ConfigError(f"the mapping has no source {name!r}")
    settings = event_mapping.settings_of(table)
    if table["kind"] == "fhir-notifications":
        return _notifications(settings, site, stop, ready)
    if table["kind"] != "hl7v2" or name not in mapping.listeners:
        raise ConfigError(f"source {name!r} does not listen: an hl7v2 source does that has a table [listeners.{name}]")
    return _messages(settings, mapping.listeners[name], site, stop, ready)


def _messages(
    settings: Any,  # noqa: ANN401, as `event_mapping.settings_of` gives them
    listener: Mapping[str, Any],
    site: Site,
    stop: threading.Event,
    ready: Callable[[str, int], None] | None,
) -> dict[str, int]:
    from wardround.sources import hl7_source, mllp
    from wardround.sources.intake import Intake

    if not settings.intake:
        raise ConfigError(f"source {settings.name!r} listens, and has no intake to put messages into")
    try:
        where = msgspec.convert(listener, mllp.ListenerSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"listeners.{settings.name}: {error}") from None
    tally = mllp.Tally()
    with closing(Intake(site.path(settings.intake), hl7_source.intake_key(settings.key, site))) as intake:
        mllp.serve(where, intake, stop, folder=site.folder, tally=tally, ready=ready)
    return tally.counts()


def _notifications(
    settings: Any,  # noqa: ANN401, as `event_mapping.settings_of` gives them
    site: Site,
    stop: threading.Event,
    ready: Callable[[str, int], None] | None,
) -> dict[str, int]:
    from wardround.sources import fhir_notifications
    from wardround.sources.fhir_listener import Listener

    inbox = fhir_notifications.open_inbox(settings, site)
    listener = Listener(settings, site, inbox)
    serving = threading.Thread(target=listener.serve, daemon=True)
    serving.start()
    if ready:
        ready(settings.listen.rpartition(":")[0], listener.port)
    stop.wait()
    listener.close()
    serving.join()
    return {}
