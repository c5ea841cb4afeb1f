"""Signed answers: the hub signs what it answers to a signed request, bound to that request.

    content-digest: sha-256=:<base64>:
    signature-input: wardround=("@status" "content-digest" "signature";req;key="wardround");created=<seconds>;
        keyid="<fingerprint>";alg="ed25519";tag="wardround-answer"             (one line)
    signature: wardround=:<base64>:

The covered request signature stands for the whole request: method, address, digest, time and nonce are under
it. So an answer cannot be altered on the way, nor given to another request, nor kept and given again. The
``content-type`` is not covered; nobody here decides by it.

`keyid` is the fingerprint of the hub's certificate, which its authority has signed for documents.

Hazard: an answer without a signature says nothing about who gave it. Answers that are streamed carry none:
what is in them must be checked by the digest that was asked for.

References:
    RFC 9421, HTTP Message Signatures, sections 2.1.2, 2.2.9 and 2.4.
    RFC 9530, Digest Fields.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Callable

from wardround.crypto import signing
from wardround.errors import SignatureError

__all__ = ["request_signature", "sign", "verify"]

_COMPONENTS = '("@status" "content-digest" "signature";req;key="wardround")'
_PARAMS = re.compile(
    re.escape(_COMPONENTS)
    + r';created=(?P<created>0|[1-9][0-9]{0,11});keyid="(?P<keyid>[0-9a-f]{64})";alg="ed25519";tag="wardround-answer"'
)
_SIGNATURE = re.compile(r"wardround=(:[A-Za-z0-9+/]{86}==:)")


def request_signature(header: str) -> str | None:
    """The member of a request's signature header that an answer is bound to; None where there is none."""
    found = _SIGNATURE.fullmatch(header)
    return found[1] if found else None


def sign(
    *, status: int, content: bytes, request: str, created: int, keyid: str, key: signing.PrivateKey
) -> dict[str, str]:
    """Sign one answer.

    Args:
        status: Its HTTP status code.
        content: Its whole body.
        request: What `request_signature` found in the request.
        created: Seconds since 1970-01-01 UTC.
        keyid: The fingerprint of the certificate of `key`.
        key: The hub's.

    Returns:
        Headers to add, with lower-case names.

    Raises:
        ValueError: An argument does not fit the profile.
    """
    params = f'{_COMPONENTS};created={created};keyid="{keyid}";alg="ed25519";tag="wardround-answer"'
    if not _PARAMS.fullmatch(params):
        raise ValueError("created or keyid is not in the form that the profile allows")
    digest = _digest(content)
    signature = signing.sign(_base(status, digest, request, params), key)
    return {
        "content-digest": digest,
        "signature-input": f"wardround={params}",
        "signature": f"wardround=:{base64.b64encode(signature).decode()}:",
    }


def verify(
    headers: dict[str, str],
    *,
    status: int,
    content: bytes,
    request: str,
    key_of: Callable[[str], signing.PublicKey],
) -> None:
    """Raise unless the hub gave exactly this answer to exactly this request.

    Args:
        headers: The answer's, names in lower case; one that came twice is joined and so does not fit.
        status: The answer's HTTP status code.
        content: Its whole body, as it arrived.
        request: What `request_signature` finds in the request as it was sent.
        key_of: Gives the key of a `keyid`, or raises.

    Raises:
        SignatureError: It is not signed in this profile, or was altered, or is for another request.
    """
    params = headers.get("signature-input", "").removeprefix("wardround=")
    match, signature = _PARAMS.fullmatch(params), _SIGNATURE.fullmatch(headers.get("signature", ""))
    if match is None or signature is None:
        raise SignatureError("the answer is not signed by the hub: something between made it, or an old hub")
    raw = base64.b64decode(signature[1][1:-1])
    if base64.b64encode(raw).decode() != signature[1][1:-1]:
        raise SignatureError("the answer's signature is not in its canonical form")
    digest = _digest(content)
    if not hmac.compare_digest(digest, headers.get("content-digest", "").encode("ascii", "replace").decode()):
        raise SignatureError("the answer is not the one that the hub signed; it was altered on the way")
    try:
        base = _base(status, digest, request, params)
        signing.verify(raw, base, key_of(match["keyid"]))
    except SignatureError:
        raise SignatureError(
            "the answer is not signed by the hub for this request; it was altered or swapped on the way"
        ) from None


def _digest(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def _base(status: int, digest: str, request: str, params: str) -> bytes:
    lines = [
        f'"@status": {status}',
        f'"content-digest": {digest}',
        f'"signature";req;key="wardround": {request}',
        f'"@signature-params": {params}',
    ]
    return "\n".join(lines).encode("ascii")
