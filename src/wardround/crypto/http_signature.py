"""Signed requests: one fixed profile of HTTP Message Signatures, with Ed25519.

    content-digest: sha-256=:<base64>:         repr-digest instead where the digest is a whole blob's
    signature-input: wardround=("@method" "@path" "@query" "content-digest");created=<seconds>;
        nonce="<nonce>";keyid="<name>";alg="ed25519";tag="<purpose>"          (one line)
    signature: wardround=:<base64>:

``content-range``, ``authorization`` and ``dpop`` are covered too, in this order, when the request has
them: a token is worth nothing outside the request that it was sent in. `parse` accepts these bytes and
nothing else that RFC 9421 would allow: no other label, order, parameter or component, no second
signature, no header twice. What is signed is the request target exactly as it was sent.

Hazard: a signature says who sent the head of a request, not when. The caller must still compare the
digest with the content that arrives, and show `keyid`, `nonce` and `created` to a
`wardround.crypto.replay.ReplayGuard`.

References:
    RFC 9421, HTTP Message Signatures, sections 2.2, 2.3, 2.5 and 4.
    RFC 9530, Digest Fields.
    RFC 9449, OAuth 2.0 Demonstrating Proof of Possession, section 4 (the ``dpop`` header).
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from wardround.crypto import signing
from wardround.errors import SignatureError

__all__ = ["LABEL", "Unverified", "parse", "sign"]

LABEL = "wardround"
MAX_TARGET = 4096

_METHOD = re.compile(r"[A-Z]{1,16}")
_TARGET = re.compile(
    r"(?P<path>/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*)"
    r"(?P<query>\?(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?]|%[0-9A-Fa-f]{2})*)?"
)
_CREATED = r"0|[1-9][0-9]{0,11}"
_NONCE = r"[A-Za-z0-9_-]{16,64}"
_KEYID = r"[A-Za-z0-9._:/@-]{1,128}"
_TAG = r"[A-Za-z0-9._:/-]{1,64}"
_PARAMS = re.compile(
    r'\("@method" "@path" "@query" "(?P<digest>content-digest|repr-digest)"'
    r'(?P<more>(?: "content-range")?(?: "authorization")?(?: "dpop")?)\)'
    rf';created=(?P<created>{_CREATED});nonce="(?P<nonce>{_NONCE})";keyid="(?P<keyid>{_KEYID})"'
    rf';alg="ed25519";tag="(?P<tag>{_TAG})"'
)
_CONTENT_RANGE = re.compile(r"bytes (?:[0-9]{1,18}-[0-9]{1,18}|\*)/(?:[0-9]{1,18}|\*)")
# RFC 9110, section 5.5, without obsolete text: visible characters, single spaces between them.
_TOKEN = re.compile(r"[!-~]+(?: [!-~]+)*")
_MAX_TOKEN = 8192
_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):")
_SIGNATURE = re.compile(rf"{LABEL}=:([A-Za-z0-9+/]{{86}}==):")
_ALSO: Final = ("content-range", "authorization", "dpop")
_HEADERS: Final = frozenset({"signature-input", "signature", "content-digest", "repr-digest", *_ALSO})


@dataclass(frozen=True, slots=True)
class Unverified:
    """What a request claims: nothing here is true before `verify` returns.

    `digest` is the raw SHA-256 of the content, or with `whole` of the blob that the content is a part
    of. `base` is the signature base (RFC 9421, section 2.5).
    """

    keyid: str
    created: int
    nonce: str
    tag: str
    digest: bytes
    whole: bool
    base: bytes
    signature: bytes

    def verify(self, key: signing.PublicKey) -> None:
        """Raise unless `key` signed this request.

        Raises:
            SignatureError: It did not.
        """
        try:
            signing.verify(self.signature, self.base, key)
        except SignatureError:
            raise SignatureError(f"the request is not signed by the key known for {self.keyid}") from None


def sign(
    *,
    method: str,
    target: str,
    digest: bytes,
    created: int,
    nonce: str,
    tag: str,
    keyid: str,
    key: signing.PrivateKey,
    whole: bool = False,
    content_range: str = "",
    authorization: str = "",
    dpop: str = "",
) -> dict[str, str]:
    """Sign the head of one request.

    Args:
        method: In capitals, as it will be sent.
        target: Path and, if any, ``?`` and query, as it will be sent.
        digest: Raw SHA-256 of the content, or with `whole` of the whole blob.
        created: Seconds since 1970-01-01 UTC.
        nonce: 16 to 64 characters of ``A-Za-z0-9_-``, never used before.
        tag: What the signature is for.
        keyid: Whose key this is.
        key: The key.
        whole: The content may be a part of the bytes that `digest` names.
        content_range: The value of the request's content-range header; empty where it has none.
        authorization: The value of its authorization header, likewise.
        dpop: The value of its dpop header, likewise.

    Returns:
        Headers to add, with lower-case names. The last three headers are the caller's to add.

    Raises:
        ValueError: An argument does not fit the profile.
    """
    field = "repr-digest" if whole else "content-digest"
    if len(digest) != 32:
        raise ValueError("digest must be the 32 raw bytes of a SHA-256")
    fields = {field: f"sha-256=:{_base64(digest)}:"}
    also = {"content-range": content_range, "authorization": authorization, "dpop": dpop}
    fields |= {name: value for name, value in also.items() if value}
    covered = " ".join(f'"{name}"' for name in fields)
    params = (
        f'("@method" "@path" "@query" {covered});created={created};nonce="{nonce}";keyid="{keyid}"'
        f';alg="ed25519";tag="{tag}"'
    )
    if not _PARAMS.fullmatch(params):
        raise ValueError("created, nonce, keyid or tag is not in the form that the profile allows")
    try:
        base = _base(method, target, fields, params)
    except SignatureError as error:
        raise ValueError(str(error)) from None
    return {
        field: fields[field],
        "signature-input": f"{LABEL}={params}",
        "signature": f"{LABEL}=:{_base64(signing.sign(base, key))}:",
    }


def parse(method: str, target: str, headers: Mapping[str, str]) -> Unverified:
    """Read the signature of a request without believing it.

    Args:
        method: As it was received.
        target: Path and query exactly as they were received, not decoded.
        headers: Names in any case; a mapping whose ``items()`` repeats a name shows a header sent twice.

    Returns:
        The claims, and `Unverified.verify`.

    Raises:
        SignatureError: The request is not signed in exactly this profile.
    """
    found = _only_once(headers)
    if not found.get("signature-input", "").startswith(f"{LABEL}=") or "signature" not in found:
        raise SignatureError(f"the request is not signed: expected signature-input and signature, label {LABEL}")
    params = found["signature-input"][len(LABEL) + 1 :]
    match = _PARAMS.fullmatch(params)
    if match is None:
        raise SignatureError("signature-input is not in the form that Wardround signs")
    field = match["digest"]
    if field not in found or ("content-digest" in found) == ("repr-digest" in found):
        raise SignatureError("the request must carry the one digest header that its signature covers, and no other")
    for name in _ALSO:
        if (f'"{name}"' in match["more"]) != (name in found):
            raise SignatureError(f"the signature must cover {name} exactly when the request has it")
    signature = _SIGNATURE.fullmatch(found["signature"])
    digest = _DIGEST.fullmatch(found[field])
    if signature is None or digest is None:
        raise SignatureError("the signature or digest header is not in the form that Wardround sends")
    fields = {name: found[name] for name in (field, *_ALSO) if name in found}
    return Unverified(
        keyid=match["keyid"],
        created=int(match["created"]),
        nonce=match["nonce"],
        tag=match["tag"],
        digest=_unbase64(digest[1]),
        whole=field == "repr-digest",
        base=_base(method, target, fields, params),
        signature=_unbase64(signature[1]),
    )


def _only_once(headers: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        if lower in _HEADERS:
            if lower in found:
                raise SignatureError(f"the request has the header {lower} more than once")
            found[lower] = value
    return found


def _base(method: str, target: str, fields: Mapping[str, str], params: str) -> bytes:
    # RFC 9421, section 2.5. No value can hold a line break: each was matched, or is matched here.
    where = _TARGET.fullmatch(target) if len(target) <= MAX_TARGET else None
    if where is None or not _METHOD.fullmatch(method):
        raise SignatureError("the method or target is not in the form that the profile allows")
    if "content-range" in fields and not _CONTENT_RANGE.fullmatch(fields["content-range"]):
        raise SignatureError("content-range must be bytes <first>-<last>/<size>")
    for name in ("authorization", "dpop"):
        value = fields.get(name, "-")
        if len(value) > _MAX_TOKEN or not _TOKEN.fullmatch(value):
            raise SignatureError(f"{name} must be at most {_MAX_TOKEN} visible characters, with single spaces")
    lines = [
        f'"@method": {method}',
        f'"@path": {where["path"]}',
        f'"@query": {where["query"] or "?"}',  # Section 2.2.7: an absent query is signed as "?".
        *(f'"{name}": {value}' for name, value in fields.items()),
        f'"@signature-params": {params}',
    ]
    return "\n".join(lines).encode("ascii")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unbase64(text: str) -> bytes:
    # The padding bits must be zero, so that one value has one spelling.
    data = base64.b64decode(text, validate=True)
    if _base64(data) != text:
        raise SignatureError("a base64 value is not in its canonical form")
    return data
