"""Key release under hostile evidence and many threads: our errors, and one key."""

import threading

import pytest
from tests.unit.services.test_key_release import ARRAN, RUN, answer, attest, bench, new_key, opened, pin, quote

from wardround.errors import AttestationError, WardroundError
from wardround.protocol import broker
from wardround.protocol.broker import TeeKey

__all__ = ["bench", "pin", "quote"]


HOSTILE = [
    *({}, {"report": 1}, {"report": "!"}, {"report": ""}, {"report": "AAAA", "more": ""}),
    *({"report": "AAAA", "certificates": ["A"] * 9}, {"report": "AAAA", "certificates": 1}),
]


@pytest.mark.parametrize("primary", HOSTILE)
def test_hostile_evidence_gives_our_error(bench, primary):
    session, challenge = bench.keys.challenge(ARRAN, broker.request("snp", RUN))
    message = broker.Attestation(broker.RuntimeData(challenge.nonce, new_key()[1]), broker.TeeEvidence(primary))
    with pytest.raises(WardroundError):
        bench.keys.attest(ARRAN, session, message)


def test_many_threads_get_one_key(bench, quote):
    attested = [attest(bench, quote) for _ in range(4)]
    keys = []

    def fetch(private, token):
        keys.append(opened(bench.keys.release(ARRAN, token, RUN, "model-key"), private))

    threads = [threading.Thread(target=fetch, args=(private, token)) for private, _, token in attested]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 4
    assert len(set(keys)) == 1


def test_a_point_that_is_not_on_the_curve_is_refused(bench, quote):
    session, challenge = bench.keys.challenge(ARRAN, broker.request("snp", RUN))
    with pytest.raises(AttestationError, match="not a point"):
        bench.keys.attest(ARRAN, session, answer(challenge.nonce, TeeKey(x="A" * 43, y="A" * 43), quote))
