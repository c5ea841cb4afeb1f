"""Every seam between what Wardround does and the outside: the services name these, adapters fill them.

All ports are synchronous, so that a simulated world can drive the services step by step; the asynchronous
rim is the web server in `wardround.hub`.
"""

from wardround.ports.keeping import Accounts, Anchor, AuditLog, Blobs, EventLog, KeyStore, Registry, Upload, Vault
from wardround.ports.working import (
    Bounds,
    Clock,
    Containment,
    Ending,
    Entropy,
    Files,
    HubClient,
    Launcher,
    Pool,
    RecordSource,
    Started,
    Trained,
    Usage,
    Violation,
    Worker,
)

__all__ = [
    "Accounts",
    "Anchor",
    "AuditLog",
    "Blobs",
    "Bounds",
    "Clock",
    "Containment",
    "Ending",
    "Entropy",
    "EventLog",
    "Files",
    "HubClient",
    "KeyStore",
    "Launcher",
    "Pool",
    "RecordSource",
    "Registry",
    "Started",
    "Trained",
    "Upload",
    "Usage",
    "Vault",
    "Violation",
    "Worker",
]
