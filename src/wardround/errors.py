"""Every error that Wardround raises, in one tree.

    WardroundError
    ├── ConfigError                  the operator must change a setting or a file
    ├── CodecError                   bytes from outside do not parse
    │   ├── TensorMismatchError      names, shapes, dtypes, size or finiteness are not the plan's
    │   └── PackageError             a code package or study bundle is not whole
    ├── CryptoError                  a signature, key or digest is not what it claims
    │   ├── SignatureError           a request or document is not signed by whom it names
    │   ├── StaleRequestError        a request is too old, from the future, or was seen before
    │   │   └── WrongChallengeError  it was signed for an earlier start of the hub
    │   ├── DigestMismatchError      bytes are not the bytes that the digest names
    │   ├── AuditError               a log, checkpoint or proof does not verify
    │   └── AttestationError         evidence does not show the machine and build that are asked for
    ├── ProtocolError
    │   ├── LocalProtocolError       we drove a machine wrongly: a bug on this side
    │   └── PeerProtocolError        the peer broke the rules: refuse, record, carry on
    │       ├── InviteError          an invite is unknown, expired or was used
    │       ├── ForbiddenError       this identity may not do this
    │       ├── LoginError           a person is not logged in, or not as they claim
    │       │   └── StepUpError      this action takes a newer or stronger login
    │       └── NotFoundError        there is no such study, run or blob
    ├── PolicyError                  the site's own policy or people say no
    │   ├── BudgetExceededError      the site's privacy budget does not allow it
    │   ├── LedgerError              the site's privacy ledger is not whole: its node does not train
    │   ├── SandboxError             nothing here can contain foreign code: it is not run
    │   └── EgressError              what would leave is not what may leave
    ├── ClinicalError                records do not fit the study's data contract
    │   ├── MissingColumnError
    │   ├── UnitMismatchError
    │   ├── ColumnTypeError
    │   ├── UnsafeQueryError
    │   └── TooFewRecordsError
    ├── TrainingError                study code failed, or broke its limits
    ├── StorageFullError             a disk is full: nothing was lost, free some space
    └── UnavailableError             a database, network or source did not answer: retry
        └── ConflictError            another writer was first: load again, decide again

Each class has a stable `code`; it is the RFC 9457 problem type over HTTP, the anchor in
``docs/reference/errors.md`` and the log field. A message says what was expected, what was found
and what to do. It may hold counts, column names and site names, never a cell of a record.
"""

from typing import ClassVar

__all__ = [
    "AttestationError",
    "AuditError",
    "BudgetExceededError",
    "ClinicalError",
    "CodecError",
    "ColumnTypeError",
    "ConfigError",
    "ConflictError",
    "CryptoError",
    "DigestMismatchError",
    "EgressError",
    "ForbiddenError",
    "InviteError",
    "LedgerError",
    "LocalProtocolError",
    "LoginError",
    "MissingColumnError",
    "NotFoundError",
    "PackageError",
    "PeerProtocolError",
    "PolicyError",
    "ProtocolError",
    "SandboxError",
    "SignatureError",
    "StaleRequestError",
    "StepUpError",
    "StorageFullError",
    "TensorMismatchError",
    "TooFewRecordsError",
    "TrainingError",
    "UnavailableError",
    "UnitMismatchError",
    "UnsafeQueryError",
    "WardroundError",
    "WrongChallengeError",
    "all_errors",
    "by_code",
]


class WardroundError(Exception):
    """Base of every error here; `code` is stable, `who` names who must act."""

    code: ClassVar[str] = "wardround"
    who: ClassVar[str] = "a developer"


class ConfigError(WardroundError):
    """A setting or a file of the installation is wrong."""

    code = "config"
    who = "the operator of this machine"


class StudyFileError(ConfigError):
    """A study file says what no study can do."""

    code = "config/study-file"
    who = "whoever wrote the study file"


class CodecError(WardroundError):
    """Bytes from outside do not parse as what they should be."""

    code = "codec"
    who = "the sender"


class TensorMismatchError(CodecError):
    """A vector's names, shapes, dtypes, size or finiteness are not those of the plan."""

    code = "codec/tensor-mismatch"


class PackageError(CodecError):
    """A code package or study bundle is not whole, not signed as it must be, or reaches outside itself."""

    code = "codec/package"


class CryptoError(WardroundError):
    """A signature, key or certificate is not what it claims."""

    code = "crypto"
    who = "the sender"


class SignatureError(CryptoError):
    """A request or document is not signed by the identity that it names."""

    code = "crypto/signature"


class StaleRequestError(CryptoError):
    """A signed request is too old, from the future, or was seen before."""

    code = "crypto/stale-request"
    who = "the sender: check the clock"


class WrongChallengeError(StaleRequestError):
    """A request carries the challenge of an earlier start of the hub; sign it again with the present one."""

    code = "crypto/challenge"


class DigestMismatchError(CryptoError):
    """Bytes are not the bytes that their digest names."""

    code = "crypto/digest-mismatch"


class AuditError(CryptoError):
    """An audit log, a checkpoint or a proof does not verify: it was cut, changed, swapped or forked."""

    code = "crypto/audit"
    who = "the auditor: keep what you have, and ask whoever keeps the log"


class AttestationError(CryptoError):
    """Attestation evidence does not show the machine and the build that are asked for."""

    code = "crypto/attestation"
    who = "the operator of the machine that sent the evidence"


class ProtocolError(WardroundError):
    """Base of what goes wrong between two machines."""

    code = "protocol"


class LocalProtocolError(ProtocolError):
    """We drove a machine wrongly: a bug on this side."""

    code = "protocol/local"


class PeerProtocolError(ProtocolError):
    """The peer broke the rules; the machine is unchanged."""

    code = "protocol/peer"
    who = "the sender"


class InviteError(PeerProtocolError):
    """An invite is unknown, has expired or was used before."""

    code = "protocol/invite"
    who = "the hub's operator: issue a new invite"


class ForbiddenError(PeerProtocolError):
    """The authenticated identity may not do this."""

    code = "protocol/forbidden"


class LoginError(PeerProtocolError):
    """A person is not logged in, or not as they claim."""

    code = "protocol/login"
    who = "the person: log in again"


class StepUpError(LoginError):
    """This action takes a newer or a stronger login."""

    code = "protocol/step-up"
    who = "the person: log in again with a second factor"


class NotFoundError(PeerProtocolError):
    """There is no such study, run or blob."""

    code = "protocol/not-found"


class PolicyError(WardroundError):
    """The site's own policy or people do not allow this."""

    code = "policy"
    who = "the site's data steward"


class BudgetExceededError(PolicyError):
    """This site's privacy budget does not allow it."""

    code = "policy/budget"


class LedgerError(PolicyError):
    """This site's privacy ledger is not whole, so its node does not train with it."""

    code = "policy/ledger"


class SandboxError(PolicyError):
    """Nothing on this machine can contain foreign code, so it is not run."""

    code = "policy/sandbox"
    who = "the site's IT"


class EgressError(PolicyError):
    """What would leave the site is not what may leave it."""

    code = "policy/egress"


class ClinicalError(WardroundError):
    """Records do not fit the study's data contract."""

    code = "clinical"
    who = "the site's data steward"


class MissingColumnError(ClinicalError):
    """A column that the data contract names is not in the source."""

    code = "clinical/missing-column"


class UnitMismatchError(ClinicalError):
    """A column's unit cannot be converted to the unit of the data contract."""

    code = "clinical/unit-mismatch"


class ColumnTypeError(ClinicalError):
    """A column holds values of another kind than the data contract says."""

    code = "clinical/column-type"


class UnsafeQueryError(ClinicalError):
    """A mapping's SQL is not a single read-only SELECT."""

    code = "clinical/unsafe-query"


class TooFewRecordsError(ClinicalError):
    """The site has fewer usable records than the data contract or its own policy asks for."""

    code = "clinical/too-few-records"


class TrainingError(WardroundError):
    """Study code failed, or broke its time, processor or memory limit."""

    code = "training"
    who = "the researcher"


class StorageFullError(WardroundError):
    """A disk is full; nothing that was acknowledged is lost."""

    code = "storage/full"
    who = "the operator of the machine: free some space"


class UnavailableError(WardroundError):
    """A database, network or source did not answer; the same call may succeed later."""

    code = "unavailable"
    who = "nobody yet: it is tried again"


class ConflictError(UnavailableError):
    """Another writer was first: load again and decide again."""

    code = "unavailable/conflict"


def all_errors(root: type[WardroundError] = WardroundError) -> list[type[WardroundError]]:
    """The whole tree, depth first, `root` included."""
    found = [root]
    for child in root.__subclasses__():
        found.extend(all_errors(child))
    return found


def by_code(code: str) -> type[WardroundError]:
    """The class with this `code`; an unknown code (a newer peer's) reads as `WardroundError`."""
    return {error.code: error for error in all_errors()}.get(code, WardroundError)
