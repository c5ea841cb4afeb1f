"""Intel quotes verified without a network: `dcap_qvl` judges the signatures and the TCB, and this module its claims.

    PCK certificate (in the quote) ──▶ Intel's root, pinned       signs the quoting enclave's report
    quoting enclave's report       ──▶ hash of the attestation key ──▶ signs the quote
    collateral: TCB info, QE identity, revocation lists ──▶ Intel's root; each valid at `now`

`dcap_qvl` says whether Intel made this quote and how well the platform is patched. Which platforms are good enough is
for the reference values to say, in `check_platform`. `now` is an argument: nothing here reads a clock or asks a server.

References:
    Intel, SGX DCAP Quote Library API: quote formats 3, 4 and 5.
    Intel, PCK Certificate and Certificate Revocation List Profile Specification: SGX extensions, configuration.
    Phala Network, dcap-qvl 0.7.0, MIT licence.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from wardround.attestation.collateral import Bundle
from wardround.attestation.reference import IntelPermission, IntelTcb
from wardround.attestation.result import Check, refuse, require
from wardround.errors import ConfigError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["ROOT_KEY_ID", "Claims", "check_platform", "claims_of", "identity", "tcb"]

ROOT_KEY_ID = "46e403bd34f05a3f2817ab9badcaacc7ffc98e0f261008cd30dae936cace18d5dcf58eef31463613de1570d516200993"
"""SHA-384 of the point that is the public key of "Intel SGX Root CA", as Intel's PCS serves it."""
MAX_COLLATERAL_BYTES = 256 * 1024
_CLAUSE = "Intel DCAP Quote Verification"
_HEADER_BYTES = 48


class Tcb(msgspec.Struct, frozen=True):
    """How well the platform and its quoting enclave are patched, together."""

    status: str
    advisory_ids: tuple[str, ...]
    eval_data_number: int


class Pck(msgspec.Struct, frozen=True):
    """What the PCK certificate says of the platform; a setting is ``True``, ``False`` or ``Undefined``."""

    ppid: tuple[int, ...]
    platform_instance_id: tuple[int, ...] | None
    fmspc: tuple[int, ...]
    dynamic_platform: str
    cached_keys: str
    smt_enabled: str


class Platform(msgspec.Struct, frozen=True):
    """The platform, and the root that its collateral leads to."""

    pck: Pck
    root_key_id: tuple[int, ...]


class Level(msgspec.Struct, frozen=True):
    """A TCB level of Intel's."""

    status: str = msgspec.field(name="tcbStatus")


class QuotingEnclave(msgspec.Struct, frozen=True):
    """The enclave that signed the quote."""

    tcb_level: Level


class Claims(msgspec.Struct, frozen=True):
    """What `dcap_qvl` verified. `report` goes by its own names, values in hexadecimal or whole numbers."""

    tee_type: int
    tcb: Tcb
    platform: Platform
    qe: QuotingEnclave
    earliest_expiration_date: int
    qe_iden_earliest_expiration_date: int
    report: dict[str, Any]


class _TcbInfo(msgspec.Struct, frozen=True):
    id: str
    fmspc: str
    issued: str = msgspec.field(name="issueDate")
    evaluation: int = msgspec.field(name="tcbEvaluationDataNumber")


class _Collateral(msgspec.Struct, frozen=True):
    tcb_info: str


def claims_of(
    quote: bytes, kind: Literal["tdx", "sgx"], collateral: Bundle, checks: list[Check], *, now: float
) -> Claims:
    """Verify a quote against the collateral of its platform family.

    Raises:
        AttestationError: Not a quote, not signed under Intel's root, or the collateral does not fit or is not valid.
        ConfigError: `dcap_qvl` is not installed.
    """
    wanted = {"tdx": 0x81, "sgx": 0x00}[kind]
    if len(quote) < _HEADER_BYTES or int.from_bytes(quote[4:8], "little") != wanted:
        raise refuse("Intel DCAP Quote header.tee_type", f"not a quote of {kind.upper()}")
    if not 0 <= now < 2**40:
        raise refuse(_CLAUSE, "the time is not one")
    dcap = _dcap()
    try:
        family = dcap.Quote.parse(quote).fmspc()
        given = dcap.QuoteCollateralV3.from_json(_select(collateral.intel, kind, family))
        policy = dcap.QuotePolicy.claims_only(int(now))
        text = _verifier(dcap).verify_with_policy(quote, given, int(now), policy).to_json()
    except ValueError as error:
        raise refuse(_CLAUSE, _one_line(error)) from None
    except BaseException as error:
        # A panic in Rust arrives as an exception that is no `Exception`. Bytes from outside must not end a process.
        if type(error).__name__ != "PanicException":
            raise
        raise refuse(_CLAUSE, "the quote broke its verifier") from None
    try:
        claims = msgspec.json.decode(text, type=Claims)
    except msgspec.MsgspecError:
        raise refuse(_CLAUSE, "the verified claims have another form than expected") from None
    checks.append(Check(_CLAUSE, "signed by the platform's quoting enclave; collateral valid now, nothing revoked"))
    root = bytes(claims.platform.root_key_id).hex()
    require(
        checks, f"{_CLAUSE} root", "is Intel SGX Root CA", holds=root == ROOT_KEY_ID,
        otherwise="the collateral leads to another root",
    )  # fmt: skip
    if claims.tee_type != wanted:
        raise refuse("Intel DCAP Quote header.tee_type", f"not a quote of {kind.upper()}")
    return claims


def check_platform(claims: Claims, reference: IntelTcb, checks: list[Check]) -> tuple[str, ...]:
    """Compare a platform's standing with what is asked of it; the warnings say what was tolerated.

    Raises:
        AttestationError: Names the clause that failed.
    """
    clause = "Intel TCB info tcbStatus"
    # The status of the two together is the worse one; asking each keeps that true if the library ever joins otherwise.
    for who, status in (("platform", claims.tcb.status), ("quoting enclave", claims.qe.tcb_level.status)):
        require(
            checks, f"{clause} ({who})", status, holds=status in reference.statuses,
            otherwise=f"{status} found, {', '.join(reference.statuses)} accepted: update the machine's firmware",
        )  # fmt: skip
    rejected = sorted(set(claims.tcb.advisory_ids) & set(reference.rejected_advisories))
    require(
        checks, "Intel TCB info advisoryIDs", "none that is rejected", holds=not rejected,
        otherwise=f"{', '.join(rejected)}: rejected by the reference values",
    )  # fmt: skip
    found, least = claims.tcb.eval_data_number, reference.minimum_evaluation
    require(
        checks, "Intel TCB info tcbEvaluationDataNumber", str(found), holds=found >= least,
        otherwise=f"{least} expected at least, {found} found: the collateral is an old judgement",
    )  # fmt: skip
    # A setting that the certificate leaves out counts as set: what nobody says is not taken for safe.
    pck = claims.platform.pck
    settings: Mapping[IntelPermission, tuple[str, str]] = {
        "dynamic-platform": (pck.dynamic_platform, "Dynamic Platform"),
        "cached-keys": (pck.cached_keys, "Cached Keys"),
        "smt": (pck.smt_enabled, "SMT Enabled"),
    }
    warnings = []
    for permission, (value, name) in settings.items():
        allowed = permission in reference.allow
        require(
            checks, f"Intel PCK certificate configuration, {name}", value, holds=value == "False" or allowed,
            otherwise=f"{value} found, and the reference values do not allow {permission}",
        )  # fmt: skip
        if value != "False":
            warnings.append(f"{name}: {value}")
    if claims.tcb.status != "UpToDate":
        warnings.append(f"TCB status: {claims.tcb.status}")
    return tuple(warnings)


def identity(claims: Claims) -> bytes:
    """The platform's own identity: its PPID and, where there is one, its instance."""
    return bytes(claims.platform.pck.ppid) + bytes(claims.platform.pck.platform_instance_id or ())


def tcb(claims: Claims) -> dict[str, str | int]:
    """The platform's standing, by name."""
    return {
        "status": claims.tcb.status,
        "evaluation": claims.tcb.eval_data_number,
        "fmspc": bytes(claims.platform.pck.fmspc).hex(),
        "qe": claims.qe.tcb_level.status,
    }


def _select(entries: Sequence[str], kind: Literal["tdx", "sgx"], family: str) -> str:
    # Of several judgements of one family, the newest counts.
    found: list[tuple[int, str, str]] = []
    for entry in entries:
        if len(entry) > MAX_COLLATERAL_BYTES:
            raise refuse(_CLAUSE, f"Intel's collateral of one family may have {MAX_COLLATERAL_BYTES} bytes")
        try:
            info = msgspec.json.decode(msgspec.json.decode(entry, type=_Collateral).tcb_info, type=_TcbInfo)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise refuse(_CLAUSE, "the bundle's collateral is no QuoteCollateralV3") from None
        if info.id == kind.upper() and info.fmspc.upper() == family.upper():
            found.append((info.evaluation, info.issued, entry))
    if not found:
        raise refuse(
            f"{_CLAUSE} FMSPC", f"the bundle has no {kind.upper()} collateral of this platform family ({family})"
        )
    return max(found)[2]


def _dcap() -> "ModuleType":
    try:
        import dcap_qvl
    except ModuleNotFoundError:
        raise ConfigError(
            "verifying Intel quotes needs the library dcap_qvl: pip install 'wardround[attestation]'"
        ) from None
    module: ModuleType = dcap_qvl
    return module


def _verifier(dcap: "ModuleType") -> Any:  # noqa: ANN401 - the library has no type that checkers could see.
    # Without an argument its root is Intel's; `ROOT_KEY_ID` is compared with what it used.
    return dcap.QuoteVerifier()


def _one_line(error: ValueError) -> str:
    return " ".join(str(error).split())[:200] + "; ask for a new quote, or fetch newer collateral"
