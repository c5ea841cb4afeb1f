"""Keeps a connection's certificate fresh: once when a command begins, or for as long as a node runs.

A certificate is renewed from the half of its life on, a little later at each site by its own coin. A hub that does
not answer is asked again, and said so each time, louder once half of what is left is gone; work goes on until the
certificate ends, and after that only the renewal is tried, for as long as the hub's time of grace lets it.
"""

import threading
import time

import structlog

from wardround.errors import WardroundError
from wardround.ports import Entropy
from wardround.transport import credential, renewing
from wardround.transport.credential import Credential
from wardround.transport.http import HttpHub
from wardround.transport.renewing import Place

__all__ = ["Keeper", "refresh"]

_FIRST_WAIT = 1.0
_LONGEST_WAIT = 600.0
_LOOK_SECONDS = 60.0
_log = structlog.get_logger("wardround.identity")


def refresh(place: Place) -> Credential:
    """The credential, renewed if that is due; where the hub does not answer, as it is while it is valid.

    Raises:
        CryptoError: It has ended, and the hub refuses to renew it.
        UnavailableError: It has ended, and the hub does not answer.
        ConfigError: A file is missing.
    """
    held = credential.load(place.connection)
    if time.time() < held.due(0.0):
        return held
    try:
        return renewing.renew(place, unless=lambda found: time.time() < found.due(0.0))
    except WardroundError as error:
        if not time.time() < held.expires():
            raise
        _complain(error, held)
        return held


class Keeper:
    """Renews `place` and gives `hub` what came of it, in a thread of its own."""

    def __init__(self, place: Place, hub: HttpHub, entropy: Entropy, *, look_seconds: float = _LOOK_SECONDS) -> None:
        self._place, self._hub, self._look_seconds = place, hub, look_seconds
        self._jitter = int.from_bytes(entropy.draw(4)) / 2**32
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin, until `stop`."""
        threading.Thread(target=self._run, name="certificates", daemon=True).start()

    def stop(self) -> None:
        """Renew no more."""
        self._stopping.set()

    def step(self, now: float) -> float:
        """Renew if that is due, take what another process renewed, and say in how many seconds to look again.

        Raises:
            WardroundError: The renewal failed.
        """
        held = credential.load(self._place.connection)
        if now >= held.due(self._jitter):
            held = renewing.renew(self._place, unless=lambda found: time.time() < found.due(self._jitter))
            _log.info("certificate renewed", reason=f"it is valid for {(held.expires() - now) / 3600:.1f} hours")
        if held.certificate != self._hub.session.held.certificate:
            self._hub.session.use(held, self._place.authority.read_bytes())
        return min(self._look_seconds, max(held.due(self._jitter) - now, 0.05))

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                wait, failures = self.step(time.time()), 0
            except WardroundError as error:
                failures += 1
                wait = min(_FIRST_WAIT * 2**failures, _LONGEST_WAIT, max(self._look_seconds, _FIRST_WAIT))
                _complain(error, self._hub.session.held)
            except Exception:  # noqa: BLE001, without this thread the node would fall silent a day later
                _log.exception("renewing failed: a bug in this node")
                wait = self._look_seconds
            self._stopping.wait(wait)


def _complain(error: WardroundError, held: Credential) -> None:
    hours = (held.expires() - time.time()) / 3600
    start = held.due(0.0)
    say = _log.warning if time.time() < (start + held.expires()) / 2 else _log.error
    text = (
        "certificate not renewed, it will be tried again" if hours > 0 else "certificate has ended, and is not renewed"
    )
    say(text, code=error.code, reason=f"{hours:.2f} hours left: {error}")
