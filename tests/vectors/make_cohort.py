"""Make cohort.json: one cohort of three, every byte of it, with OpenSSL 3's command line and nothing of Wardround.

    python tests/vectors/make_cohort.py > tests/vectors/cohort.json

HKDF by `openssl kdf`, AES-CTR and AES-ECB by `openssl enc`, Ed25519 by `openssl pkeyutl`. AES-GCM is put
together from these two modes and the GHASH of NIST SP 800-38D; MessagePack is written by hand from its
specification, canonical JSON by Python's own; Shamir's polynomials are evaluated power by power.
"""

import base64
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

VERSION = 1
PRIME = 2**255 - 19
SITES = ["angus", "banff", "clyde"]
THRESHOLD = 3
STUDY = "cd" * 32


def openssl(*arguments, given=b""):
    return subprocess.run(["openssl", *arguments], input=given, capture_output=True, check=True).stdout


def fixed(name, size=32):
    """Bytes that follow from a name."""
    return hashlib.sha256(f"cohort vectors: {name}".encode()).digest()[:size]


def derive(key, salt, label):
    options = ["digest:SHA256", f"hexkey:{key.hex()}", f"hexsalt:{salt.hex()}"]
    options.append(f"hexinfo:{(b'wardround ' + label.encode()).hex()}")
    named = [part for option in options for part in ("-kdfopt", option)]
    return openssl("kdf", "-keylen", "32", "-binary", *named, "HKDF")


def ctr(key, size, start="0" * 32):
    return openssl("enc", "-aes-256-ctr", "-K", key.hex(), "-iv", start, "-nopad", given=bytes(size))


def times(x, y):
    """Multiplication in GF(2**128) as GCM counts bits."""
    product = 0
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            product ^= y
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return product


def gcm(key, plain, associated):
    """Ciphertext and tag, nonce of zeros."""
    hashed = int.from_bytes(openssl("enc", "-aes-256-ecb", "-K", key.hex(), "-nopad", given=bytes(16)), "big")
    stream = ctr(key, 16 + len(plain), "0" * 31 + "1")
    sealed = bytes(a ^ b for a, b in zip(plain, stream[16:], strict=True))
    state = 0
    for part in (associated, sealed):
        for place in range(0, len(part), 16):
            state = times(state ^ int.from_bytes(part[place : place + 16].ljust(16, b"\0"), "big"), hashed)
    lengths = (8 * len(associated) << 64) | 8 * len(sealed)
    tag = times(state ^ lengths, hashed) ^ int.from_bytes(stream[:16], "big")
    return sealed + tag.to_bytes(16, "big")


def packed(value):
    """MessagePack of short text, bytes and lists."""
    if isinstance(value, str):
        raw = value.encode()
        return (bytes([0xA0 | len(raw)]) if len(raw) < 32 else bytes([0xD9, len(raw)])) + raw
    if isinstance(value, bytes):
        return (bytes([0xC4, len(value)]) if len(value) < 256 else b"\xc5" + len(value).to_bytes(2, "big")) + value
    return bytes([0x90 | len(value)]) + b"".join(packed(item) for item in value)


def signed(site, message):
    """An Ed25519 signature by the key whose seed follows from the site's name."""
    pkcs8 = bytes.fromhex("302e020100300506032b657004220420") + fixed(f"identity of {site}")
    with tempfile.TemporaryDirectory() as folder:
        key, text = Path(folder, "key"), Path(folder, "text")
        key.write_bytes(pkcs8)
        text.write_bytes(message)
        return openssl("pkeyutl", "-sign", "-inkey", str(key), "-keyform", "DER", "-rawin", "-in", str(text))


def commitment(value, transcript, label):
    written = b""
    for part in (b"wardround commitment", label.encode(), transcript, value):
        written += len(part).to_bytes(8, "big") + part
    return hashlib.sha256(written).digest()


def terms():
    return {
        "format": "wardround-cohort/1",
        "study": STUDY,
        "run": f"{STUDY}.1",
        "number": 2,
        "attempt": 1,
        "kind": "train",
        "roster": "ab" * 32,
        "members": SITES,
        "nonces": [base64.b64encode(fixed(f"nonce of {site}")).decode() for site in SITES],
        "bases": ["ef" * 32] * 3,
        "discounts": [1.0] * 3,
        "standardization": "",
        "threshold": THRESHOLD,
        "minimum": 3,
        "epoch": 20_000,
        "sections": [
            {"name": "update", "bits": 32, "length": 5},
            {"name": "sums", "bits": 64, "length": 2},
        ],
        "capacity": 3,
        "clip": 8.0,
        "max_weight": 100,
    }


def pair_key(one, other):
    return fixed(f"pair {min(one, other)} {max(one, other)}")


def element(site, count):
    """The site's draws: 32 bytes each, the top bit cleared; none of these is beyond the prime."""
    value = int.from_bytes(fixed(f"draw {count} of {site}"), "little") % 2**255
    assert value < PRIME
    return value


def member(site, transcript):
    """What a member draws, derives, seals and says first."""
    drawn = [element(site, count) for count in range(2 + 2 * (THRESHOLD - 1))]
    own, root = drawn[:2]
    polynomials = {"self": [own, *drawn[2 : 1 + THRESHOLD]], "root": [root, *drawn[1 + THRESHOLD :]]}
    shares = {
        kind: {
            name: (sum(c * pow(point, k, PRIME) for k, c in enumerate(line)) % PRIME).to_bytes(32, "little")
            for point, name in enumerate(SITES, 1)
        }
        for kind, line in polynomials.items()
    }
    around = [name for name in SITES if name != site]
    pairs = {name: f"{min(name, site)} and {max(name, site)}" for name in around}
    seeds = {name: derive(pair_key(site, name), transcript, f"mask of {pairs[name]}") for name in around}
    sealed = []
    for name in around:
        key = derive(pair_key(site, name), transcript, f"share of {pairs[name]}")
        once = derive(key, transcript, f"{site} to {name}")
        sealed.append(gcm(once, shares["self"][name] + shares["root"][name], b"\x01" + transcript))
    own_bytes, root_bytes = (value.to_bytes(32, "little") for value in (own, root))
    once = derive(derive(root_bytes, transcript, "recovery"), transcript, f"{site} to {site}")
    recovery = gcm(once, b"".join(seeds.values()), b"\x01" + transcript)
    commitments = [commitment(seed, transcript, "mask")[:16] for seed in seeds.values()]
    fields = [
        transcript,
        sealed,
        recovery,
        commitments,
        commitment(own_bytes, transcript, "self"),
        commitment(root_bytes, transcript, "root"),
        [],
    ]
    unsigned = packed(["shares", *fields, b""])
    digest = hashlib.sha256(b"wardround secagg shares 1\n" + unsigned).digest()
    message = packed(["shares", *fields, signed(site, digest)])
    return {"own": own_bytes, "seeds": seeds, "shares": shares, "digest": digest, "message": message}


def masked_vector(site, made, transcript):
    """The plain vector and what of it leaves."""
    plain, out = {}, b""
    for section, bits, length in (("update", 32, 5), ("sums", 64, 2)):
        size = bits // 8
        raw = b"".join(fixed(f"vector {section} {place} of {site}", size) for place in range(length))
        plain[section] = [int.from_bytes(raw[size * i : size * (i + 1)], "little") for i in range(length)]
        words = list(plain[section])
        for sign, seed in [(1, made["own"]), *((1 if site < name else -1, one) for name, one in made["seeds"].items())]:
            stream = ctr(derive(seed, transcript, f"section {section}"), size * length)
            for i in range(length):
                words[i] = (words[i] + sign * int.from_bytes(stream[size * i : size * (i + 1)], "little")) % 2**bits
        out += b"".join(word.to_bytes(size, "little") for word in words)
    return plain, out


def vectors():
    agreed = terms()
    canonical = json.dumps(agreed, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    transcript = hashlib.sha256(b"wardround cohort 1\n" + canonical).digest()
    made = {site: member(site, transcript) for site in SITES}
    included = packed([[site, made[site]["digest"]] for site in SITES])
    included = hashlib.sha256(b"wardround secagg included 1\n" + transcript + included).digest()
    plain = {site: masked_vector(site, made[site], transcript) for site in SITES}
    digests = {site: hashlib.sha256(plain[site][1]).digest() for site in SITES}
    survivors = hashlib.sha256(packed([[site, digests[site]] for site in SITES])).digest()
    agreement = b"wardround secagg survivors 1\n" + transcript + included + survivors
    members = {}
    for site in SITES:
        fields = ["masked", transcript, included, digests[site], []]
        signature = signed(site, b"wardround secagg masked 1\n" + packed([*fields, b""]))
        reveal = [made[owner]["shares"]["self"][site] for owner in SITES]
        members[site] = {
            "draws": [fixed(f"draw {count} of {site}").hex() for count in range(2 + 2 * (THRESHOLD - 1))],
            "shares": made[site]["message"].hex(),
            "plain": plain[site][0],
            "vector": plain[site][1].hex(),
            "masked": packed([*fields, signature]).hex(),
            "agreement": packed(["agreement", transcript, signed(site, agreement)]).hex(),
            "reveal": packed(["reveal", transcript, reveal]).hex(),
            "void": signed(site, b"wardround secagg void 1\n" + transcript).hex(),
        }
    return {
        "format": VERSION,
        "made_by": "tests/vectors/make_cohort.py: OpenSSL 3's kdf, enc and pkeyutl; Python's integers and JSON",
        "terms": canonical.decode(),
        "transcript": transcript.hex(),
        "identities": {site: fixed(f"identity of {site}").hex() for site in SITES},
        "pair_keys": {f"{a} {b}": pair_key(a, b).hex() for a in SITES for b in SITES if a < b},
        "included": included.hex(),
        "members": members,
        "sum": {
            section: [
                sum(column) % 2**bits for column in zip(*(plain[site][0][section] for site in SITES), strict=True)
            ]
            for section, bits in (("update", 32), ("sums", 64))
        },
    }


if __name__ == "__main__":
    json.dump(vectors(), sys.stdout, indent=1)
    sys.stdout.write("\n")
