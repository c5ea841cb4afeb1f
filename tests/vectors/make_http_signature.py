"""Make http_signature.json with another implementation of RFC 9421.

    pip install http-message-signatures==3.0.0
    python tests/vectors/make_http_signature.py > tests/vectors/http_signature.json

``signed``: requests that the library signed; Wardround must accept them, and must write the same bytes
(Ed25519 signatures are deterministic). Before they are printed, the library also verifies what Wardround
signs. ``forged``: altered, the library refuses them too. ``foreign``: valid RFC 9421 that the library
accepts and that is not in Wardround's profile. The keys are the ones of RFC 8032, section 7.1, tests 1 and 2.
"""

import hashlib
import importlib.metadata
import json
import sys
from collections import OrderedDict
from dataclasses import dataclass, replace

from http_message_signatures import HTTPMessageSigner, HTTPMessageVerifier, HTTPSignatureKeyResolver, algorithms
from http_message_signatures.exceptions import HTTPMessageSignaturesException
from http_message_signatures.structures import PreparedSignature
from http_sf.compat import Item

from wardround.crypto import http_signature, signing

SECRETS = {
    "site-a": "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
    "dr.b@hub/1": "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
}
KEYS = {name: signing.PrivateKey.from_private_bytes(bytes.fromhex(secret)) for name, secret in SECRETS.items()}
DIGEST = hashlib.sha256(b"what travels").digest()


@dataclass
class Message:
    method: str
    target: str
    headers: dict[str, str]

    @property
    def url(self):
        return f"https://hub.example{self.target}"


class Keys(HTTPSignatureKeyResolver):
    def resolve_private_key(self, key_id):
        return KEYS[key_id]

    def resolve_public_key(self, key_id):
        return KEYS[key_id].public_key()


SIGNER = HTTPMessageSigner(signature_algorithm=algorithms.ED25519, key_resolver=Keys())
VERIFIER = HTTPMessageVerifier(signature_algorithm=algorithms.ED25519, key_resolver=Keys())


def library_signs(message, components, params, label="wardround"):
    """Sign with the library, the parameters in the order given."""
    base, node, _ = SIGNER._build_signature_base(
        message, covered_component_ids=[Item(name) for name in components], signature_params=OrderedDict(params)
    )
    prepared = PreparedSignature(base.encode(), str(node), label, "ed25519")
    signature = algorithms.ED25519(private_key=KEYS[params["keyid"]]).sign(prepared.signature_base)
    headers = dict(message.headers)
    SIGNER.apply(replace(message, headers=headers), prepared, signature)
    return {name.lower(): value for name, value in headers.items()}


def library_accepts(message):
    try:
        VERIFIER.verify(message, max_age=None)
    except HTTPMessageSignaturesException:
        return False
    return True


def case(method, target, *, whole=False, content_range="", keyid="site-a", created=1_760_000_000):
    field = "repr-digest" if whole else "content-digest"
    params = {
        "created": created,
        "nonce": "AbCdEf0123456789-_",
        "keyid": keyid,
        "alg": "ed25519",
        "tag": "wardround-request",
    }
    headers = {field: f"sha-256=:{http_signature._base64(DIGEST)}:"}
    if content_range:
        headers["content-range"] = content_range
    components = ["@method", "@path", "@query", *headers]
    theirs = library_signs(Message(method, target, headers), components, params)
    ours = headers | http_signature.sign(
        method=method,
        target=target,
        digest=DIGEST,
        created=created,
        nonce=params["nonce"],
        tag=params["tag"],
        keyid=keyid,
        key=KEYS[keyid],
        whole=whole,
        content_range=content_range,
    )
    if not library_accepts(Message(method, target, ours)):
        raise SystemExit(f"the library refuses what Wardround signs: {method} {target}")
    arguments = params | {"whole": whole, "content_range": content_range, "digest": DIGEST.hex()}
    del arguments["alg"]
    return {"method": method, "target": target, "arguments": arguments, "headers": theirs}


def forged(signed):
    headers = signed["headers"]

    def altered(name, *, method=None, target=None, **changes):
        message = Message(method or signed["method"], target or signed["target"], headers | changes)
        if library_accepts(message):
            raise SystemExit(f"the library accepts the forged case {name}")
        return {"name": name, "method": message.method, "target": message.target, "headers": message.headers}

    def params(old, new):
        if old not in headers["signature-input"]:
            raise SystemExit(f"nothing to alter: {old}")
        return {"signature-input": headers["signature-input"].replace(old, new)}

    other = http_signature._base64(hashlib.sha256(b"something else").digest())
    signature = headers["signature"]
    flipped = "wardround=:" + ("A" if signature[11] != "A" else "B") + signature[12:]
    return [
        altered("another method", method="GET"),
        altered("another path", target=signed["target"].replace("runs", "ruins")),
        altered("another query", target=signed["target"] + "1"),
        altered("no query", target=signed["target"].partition("?")[0]),
        altered("another digest", **{"content-digest": f"sha-256=:{other}:"}),
        altered("another created", **params("created=1760000000", "created=1760000001")),
        altered("another nonce", **params("AbCd", "AbCe")),
        altered("another keyid", **params("site-a", "dr.b@hub/1")),
        altered("another tag", **params("wardround-request", "wardround-answer")),
        altered("another signature", signature=flipped),
    ]


def foreign():
    digest = {"content-digest": f"sha-256=:{http_signature._base64(DIGEST)}:"}
    message = Message("POST", "/runs?a=1", digest)
    components = ["@method", "@path", "@query", "content-digest"]
    params = case("POST", "/runs?a=1")["arguments"]
    params = {"created": params["created"], "nonce": params["nonce"], "keyid": params["keyid"]}
    params |= {"alg": "ed25519", "tag": "wardround-request"}

    def valid(name, components=components, params=params, label="wardround", message=message):
        headers = library_signs(message, components, params, label)
        if not library_accepts(replace(message, headers=headers)):
            raise SystemExit(f"the library refuses the foreign case {name}")
        return {"name": name, "method": message.method, "target": message.target, "headers": headers}

    def without(name):
        return {key: value for key, value in params.items() if key != name}

    ranged = replace(message, headers=digest | {"content-range": "bytes 0-9/100"})
    both = replace(message, headers=digest | {"repr-digest": digest["content-digest"]})
    sha512 = {"content-digest": f"sha-512=:{http_signature._base64(hashlib.sha512(b'x').digest())}:"}
    return [
        valid("another label", label="sig1"),
        *[valid(f"no {name}", params=without(name)) for name in ("nonce", "alg", "tag")],
        valid("expires too", params=params | {"expires": 4_000_000_000}),
        valid("parameters in another order", params={"tag": params["tag"]} | without("tag")),
        valid("components in another order", components=["@path", "@method", "@query", "content-digest"]),
        valid("the digest not covered", components=components[:3]),
        valid("the method not covered", components=components[1:]),
        valid("the query not covered", components=["@method", "@path", "content-digest"]),
        valid("another component too", components=[*components, "@authority"]),
        valid("content-range not covered", message=ranged),
        valid("both digests", message=both),
        valid("both digests covered", components=[*components, "repr-digest"], message=both),
        valid("another hash", message=replace(message, headers=sha512)),
        valid("a short nonce", params=params | {"nonce": "fifteen-letters"}),
        valid("a long nonce", params=params | {"nonce": "n" * 65}),
        valid("a created before 1970", params=params | {"created": -1}),
    ]


def main():
    signed = [
        case("POST", "/v1/runs/5f.1/update?sequence=7"),
        case("GET", "/"),
        case("GET", "/v1/studies?"),
        case("GET", "/v1/a%2Fb/~c;d=e,f:g@h/(i)*'!$&+?q=%C3%A9&&r=/?"),
        case("PUT", "/v1/blobs/0a", whole=True),
        case("PUT", "/v1/blobs/0a", whole=True, content_range="bytes 0-8388607/9000000000"),
        case("PATCH", "/v1/part", content_range="bytes 0-9/100", keyid="dr.b@hub/1", created=0),
        case("DELETE", "/v1/x", keyid="dr.b@hub/1", created=1),
    ]
    made_with = f"http-message-signatures {importlib.metadata.version('http-message-signatures')}"
    json.dump(
        {
            "made_with": made_with,
            "made_by": "tests/vectors/make_http_signature.py",
            "secret_keys": SECRETS,
            "signed": signed,
            "forged": forged(signed[0]),
            "foreign": foreign(),
        },
        sys.stdout,
        indent=1,
    )
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
