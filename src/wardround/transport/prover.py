"""What a way to the hub asks before it sends something for a run: that hub and machine have proved what they run.

A proof is for minutes and training may take hours, so it is asked for when something is sent, not when work begins.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

from wardround.errors import AttestationError
from wardround.ids import RunId

__all__ = ["Prover", "proved"]

_T = TypeVar("_T")


class Prover(Protocol):
    """`wardround.node.attesting.Attesting`, as the transport sees it. Several threads may ask."""

    def before(self, run: RunId, *, declines: bool) -> None:
        """Prove what the run's approved plan demands; a message that only `declines` needs no proof of this machine.

        Raises `AttestationError` with the clause, and `UnavailableError` where the hub or the kernel did not answer.
        """
        ...

    def check(self, certificate: bytes, run: RunId | None) -> None:
        """Raise `AttestationError` where the session with this certificate (DER) goes to another machine."""
        ...

    def refused(self, run: RunId) -> None:
        """What was proved for this run does not count any more: prove it anew."""
        ...


def proved(prover: Prover, run: RunId, call: Callable[[], _T], *, declines: bool = False) -> _T:
    """Make `call`, which sends something for `run`, after `prover` has proved what that takes.

    Raises:
        AttestationError: Proofs did not count, the second time too: nothing of the run was taken.
    """
    try:
        prover.before(run, declines=declines)
        return call()
    except AttestationError:
        # The hub was started anew, say, or either side has renewed its key.
        prover.refused(run)
    prover.before(run, declines=declines)
    return call()
