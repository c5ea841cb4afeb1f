"""One cohort of three, byte for byte as OpenSSL's command line makes it."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wardround.codec import canonical
from wardround.crypto import signing
from wardround.crypto.prg import MaskStream
from wardround.secagg import cohort as cohorts
from wardround.secagg import member, messages, opening, terms
from wardround.secagg.cohort import CohortSealed
from wardround.secagg.terms import Terms

FOLDER = Path(__file__).parents[2] / "vectors"
VECTORS = json.loads((FOLDER / "cohort.json").read_text())
SITES = list(VECTORS["members"])
AGREED = canonical.decode(VECTORS["terms"].encode(), Terms)
KEYS = {site: signing.PrivateKey.from_private_bytes(bytes.fromhex(raw)) for site, raw in VECTORS["identities"].items()}
PUBLIC = {site: key.public_key() for site, key in KEYS.items()}


def joined(site):
    draws = iter(VECTORS["members"][site]["draws"])
    pairs = {
        other: bytes.fromhex(VECTORS["pair_keys"][" ".join(sorted((site, other)))]) for other in SITES if other != site
    }
    return member.join(
        AGREED,
        site,
        expected=AGREED,
        nonce=AGREED.nonces[SITES.index(site)],
        minimum=3,
        pair_keys=pairs,
        key=KEYS[site],
        draw=lambda _: bytes.fromhex(next(draws)),
    )


def masked(state, site):
    parts = []
    for section in AGREED.sections:
        seeds = member.mask_seeds(state)
        keys = [[member.section_key(seed, state.transcript, section) for seed in part] for part in seeds]
        vector = np.array(VECTORS["members"][site]["plain"][section.name], f"<u{section.bits // 8}")
        MaskStream(*keys, bits=section.bits).apply(vector)
        parts.append(vector.tobytes())
    return b"".join(parts)


def test_every_message_is_the_one_that_openssl_makes():
    assert terms.transcript(AGREED).hex() == VECTORS["transcript"]
    hub = cohorts.cohort_of([CohortSealed(at=0.0, terms=AGREED, stage_seconds=60.0)])
    states = {site: joined(site) for site in SITES}
    sent = {site: {} for site in SITES}
    for stage in ("shares", "masked", "agreement", "reveal"):
        steps = {site: cohorts.step_for(hub, site) for site in SITES}
        for site in SITES:
            if stage == "masked":
                states[site], _ = member.deliver(states[site], steps[site], PUBLIC)
                vector = masked(states[site], site)
                assert vector.hex() == VECTORS["members"][site]["vector"]
                states[site] = member.mask(states[site], hashlib.sha256(vector).digest(), KEYS[site])
            elif stage == "agreement":
                states[site] = member.agree(states[site], steps[site], KEYS[site])
            elif stage == "reveal":
                states[site] = member.reveal(states[site], steps[site], PUBLIC)
            answer = getattr(states[site], stage)
            sent[site][stage] = messages.encode(answer).hex()
            assert sent[site][stage] == VECTORS["members"][site][stage], (site, stage)
            for event in cohorts.receive(hub, site, answer, PUBLIC[site], 0.0):
                hub = cohorts.apply(hub, event)
        if stage == "shares":
            assert hub.included_digest.hex() == VECTORS["included"]
    assert hub.stage == "opened"
    assert summed(opening.unmask(hub), hub) == VECTORS["sum"]


def summed(unmasking, hub):
    found, place = {}, 0
    for section in AGREED.sections:
        size = section.bits // 8
        total = np.zeros(section.length, f"<u{size}")
        for site in SITES:
            data = bytes.fromhex(VECTORS["members"][site]["vector"])[place : place + size * section.length]
            total += np.frombuffer(data, total.dtype)
        keys = [
            [member.section_key(seed, hub.transcript, section) for seed in seeds]
            for seeds in (unmasking.plus, unmasking.minus)
        ]
        MaskStream(*keys, bits=section.bits).apply(total)
        found[section.name] = total.tolist()
        place += size * section.length
    return found


@pytest.mark.parametrize("site", SITES)
def test_a_void_statement_is_the_one_that_openssl_signs(site):
    signature = signing.sign(messages.void_bytes(bytes.fromhex(VECTORS["transcript"])), KEYS[site])
    assert signature.hex() == VECTORS["members"][site]["void"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_the_vectors_can_be_made_again():
    made = subprocess.run(
        [sys.executable, str(FOLDER / "make_cohort.py")], capture_output=True, text=True, check=True, timeout=120.0
    )
    assert json.loads(made.stdout) == VECTORS
