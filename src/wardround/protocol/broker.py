"""Key release as messages: Trustee's Request, Challenge, Attestation and Response, so that either side can be Trustee.

    POST /kbs/v0/auth       Request      ▶  Challenge           and a cookie kbs-session-id
    POST /kbs/v0/attest     Attestation  ▶  TokenResponse       with the cookie
    GET  /kbs/v0/resource/<repository>/<type>/<tag>  ▶  Jwe     with the token as bearer, or with the cookie

What evidence binds is the digest of the runtime data, ``{"nonce", "tee-pubkey"}``, as RFC 8785 spells it: SHA-384 with
16 zeros behind it, which is Trustee's default. A run's keys are resources: the repository is the study, the type the
key's name, the tag the attempt. Which run a session is for is said in Trustee's `attestation-policy-selector`, so that
the evidence is measured against that run's own reference values.

The body of SNP evidence is ours (`report`, `auxiliary`, `certificates`, in base64), because Trustee's is a dump of a
Rust library's structure; a Trustee server needs it translated. TDX and SGX bodies are Trustee's (`quote`,
`cc_eventlog`).

References:
    Confidential Containers, Trustee: KBS attestation protocol, version 0.1.1.
    RFC 7516, JSON Web Encryption, 7.2.2: flattened serialization. RFC 7518, 4.6 and 6.2.1.
"""

import base64
import binascii
import re
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from wardround.attestation import binding
from wardround.attestation.evidence import MAX_CERTIFICATES, Evidence
from wardround.attestation.nvidia_device import DeviceEvidence
from wardround.errors import AttestationError, CodecError, NotFoundError
from wardround.ids import RunId, StudyId, run_id, study_of
from wardround.protocol.attested import KeyName

__all__ = [
    "ALGORITHM",
    "ENCRYPTION",
    "MAX_BODY_BYTES",
    "SESSION_COOKIE",
    "VERSION",
    "Attestation",
    "Challenge",
    "Jwe",
    "Request",
    "RuntimeData",
    "TeeEvidence",
    "TeeKey",
    "TokenResponse",
    "attestation",
    "check_key",
    "decode",
    "encode",
    "expected_report_data",
    "path",
    "request",
    "resource",
    "run_of",
    "session_key",
    "unverified_devices",
    "unverified_evidence",
]

VERSION = "0.1.1"
SESSION_COOKIE = "kbs-session-id"
MAX_BODY_BYTES = 2 * 1024 * 1024
ALGORITHM, ENCRYPTION = "ECDH-ES+A256KW", "A256GCM"
Tee = Literal["snp", "tdx", "sgx"]
"""Trustee's names; its ``sample`` is not one of ours."""
_SELECTOR = "attestation-policy-selector"
_KEY_NAMES: tuple[KeyName, ...] = ("model-key", "data-key")
_COORDINATE = re.compile(r"[A-Za-z0-9_-]{43}")
_TAG = re.compile(r"[1-9][0-9]{0,5}")
_PREFIX = "/kbs/v0/resource/"
_T = TypeVar("_T")


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"extra_params": "extra-params"}):
    """The first message; `extra_params` names the run."""

    version: str
    tee: Tee
    extra_params: dict[str, Any] | str = ""


class Challenge(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"extra_params": "extra-params"}):
    """The broker's nonce, base64."""

    nonce: str
    extra_params: dict[str, Any] | str = ""


class TeeKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The enclave's own public key, made for one session: a JWK on P-256 (RFC 7518, 6.2.1)."""

    kty: Literal["EC"] = "EC"
    crv: Literal["P-256"] = "P-256"
    alg: Literal["ECDH-ES+A256KW"] = "ECDH-ES+A256KW"
    x: str
    y: str


class RuntimeData(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"tee_pubkey": "tee-pubkey"}):
    """What the evidence binds."""

    nonce: str
    tee_pubkey: TeeKey


class TeeEvidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The processor's evidence, and as JSON text the devices'."""

    primary_evidence: dict[str, Any]
    additional_evidence: str = ""


class Attestation(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    rename={"runtime_data": "runtime-data", "tee_evidence": "tee-evidence", "init_data": "init-data"},
):
    """The answer to a challenge. Initialization data is measured as HOST_DATA or MRCONFIGID, and not read here."""

    runtime_data: RuntimeData
    tee_evidence: TeeEvidence
    init_data: dict[str, Any] | UnsetType | None = UNSET


class TokenResponse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The attestation result, a JWT."""

    token: str


class Jwe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A secret for the enclave's key (RFC 7516, 7.2.2)."""

    protected: str
    encrypted_key: str
    iv: str
    ciphertext: str
    tag: str
    aad: str = ""


def encode(message: msgspec.Struct) -> bytes:
    """JSON."""
    return msgspec.json.encode(message)


def decode(body: bytes, kind: type[_T]) -> _T:
    """Read JSON as a `kind`.

    Raises:
        CodecError: Too large, not JSON, or not of this kind.
    """
    if len(body) > MAX_BODY_BYTES:
        raise CodecError(f"a message of the key broker may have {MAX_BODY_BYTES} bytes, this has {len(body)}")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"not a {kind.__name__} of the key broker: {error}") from None


def request(tee: Tee, run: RunId) -> Request:
    """Ask for a challenge for the keys of `run`."""
    return Request(VERSION, tee, {_SELECTOR: run})


def run_of(unverified: Request) -> RunId:
    """The run that a request names.

    Raises:
        CodecError: Another protocol version, or no run.
    """
    if unverified.version != VERSION:
        raise CodecError(
            f"the key broker speaks version {VERSION} of the protocol, the request {unverified.version[:16]!r}"
        )
    named = unverified.extra_params.get(_SELECTOR) if isinstance(unverified.extra_params, dict) else None
    if not isinstance(named, str):
        raise CodecError(f"extra-params.{_SELECTOR} must name the run whose keys are wanted")
    study_of(RunId(named))
    return RunId(named)


def expected_report_data(runtime: RuntimeData) -> bytes:
    """The 64 bytes that evidence for this runtime data carries: SHA-384 of its canonical JSON, zeros behind it.

    Raises:
        CodecError: The key is not one.
    """
    check_key(runtime.tee_pubkey)
    return binding.runtime_data(msgspec.to_builtins(runtime), algorithm="sha384")


def session_key(key: TeeKey) -> bytes:
    """The enclave's key as bytes: what a GPU's nonce binds beside the processor's report."""
    return binding.jcs(msgspec.to_builtins(key))


def check_key(key: TeeKey) -> None:
    """Refuse coordinates that are not 32 bytes in base64url without padding.

    Raises:
        CodecError: They are not.
    """
    if not all(_COORDINATE.fullmatch(part) for part in (key.x, key.y)):
        raise CodecError("tee-pubkey: RFC 7518, 6.2.1: a coordinate on P-256 has 43 characters of base64url")


def attestation(runtime: RuntimeData, evidence: Evidence, devices: tuple[DeviceEvidence, ...] = ()) -> Attestation:
    """Put evidence into the form that travels."""
    quote = base64.b64encode(evidence.report).decode()
    if evidence.kind == "snp":
        primary: dict[str, Any] = {"report": quote, "auxiliary": base64.b64encode(evidence.auxiliary).decode()}
        if evidence.certificates:
            primary["certificates"] = [base64.b64encode(one).decode() for one in evidence.certificates]
    else:
        primary = {"quote": quote}
        if evidence.event_log:
            primary["cc_eventlog"] = base64.b64encode(evidence.event_log).decode()
    additional = ""
    if devices:
        listed = {"nvidia": ("gpu", {"device_evidence_list": msgspec.to_builtins(devices)})}
        additional = msgspec.json.encode(listed).decode()
    return Attestation(runtime, TeeEvidence(primary, additional))


def unverified_evidence(tee: Tee, message: Attestation) -> Evidence:
    """The processor's evidence of a message.

    Raises:
        AttestationError: Not in the form of this TEE.
    """
    body = message.tee_evidence.primary_evidence
    names = {"report", "auxiliary", "certificates"} if tee == "snp" else {"quote", "cc_eventlog"}
    if not body.keys() <= names:
        raise AttestationError(f"the evidence of {tee} has other fields than {sorted(names)}")
    if tee == "snp":
        listed = body.get("certificates", [])
        if not isinstance(listed, list) or len(listed) > MAX_CERTIFICATES:
            raise AttestationError(f"the evidence's field certificates is a list of at most {MAX_CERTIFICATES}")
        return Evidence(
            kind=tee,
            report=_bytes(body.get("report"), "report"),
            auxiliary=_bytes(body.get("auxiliary") or "", "auxiliary"),
            certificates=tuple(_bytes(one, "certificates") for one in listed),
        )
    log = _bytes(body.get("cc_eventlog") or "", "cc_eventlog")
    return Evidence(kind=tee, report=_bytes(body.get("quote"), "quote"), event_log=log)


def unverified_devices(message: Attestation) -> tuple[DeviceEvidence, ...]:
    """The GPUs' evidence of a message; none where it has none.

    Raises:
        AttestationError: Not in the form that is expected.
    """
    text = message.tee_evidence.additional_evidence
    if text in {"", "{}"}:
        return ()
    try:
        found = msgspec.json.decode(text, type=dict[str, tuple[str, dict[str, tuple[DeviceEvidence, ...]]]])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = {}
    if set(found) != {"nvidia"} or set(found["nvidia"][1]) != {"device_evidence_list"}:
        raise AttestationError("additional evidence is not a list of NVIDIA's devices")
    return found["nvidia"][1]["device_evidence_list"]


def path(run: RunId, name: KeyName) -> str:
    """Where a run's key is.

    Raises:
        CodecError: `run` is not a run's name.
    """
    return f"{_PREFIX}{study_of(run)}/{name}/{run.rpartition('.')[2]}"


def resource(repository: str, kind: str, tag: str) -> tuple[RunId, KeyName]:
    """Which run's which key an address names.

    Raises:
        NotFoundError: None's.
    """
    name = next((one for one in _KEY_NAMES if one == kind), None)
    if name is None or not _TAG.fullmatch(tag):
        raise NotFoundError("there is no such resource: <study>/model-key|data-key/<attempt>")
    run = run_id(StudyId(repository), int(tag))
    try:
        study_of(run)
    except CodecError:
        raise NotFoundError("there is no such resource: its repository is not a study") from None
    return run, name


def _bytes(value: object, name: str) -> bytes:
    try:
        if isinstance(value, str):
            return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise AttestationError(f"the evidence's field {name} is not base64")
