"""Whose signatures make a checkpoint count: the log's keys, the witnesses, and how many of them.

    log <vkey>                        every key listed has to have signed
    witness <name> <vkey>
    group <name> <k|any|all> <member> …     members are witnesses, or groups of lines above
    quorum <name|none>

A hospital that signs with Ed25519 and with ML-DSA-44 is a group of two, of which all are asked for: a forger would
have to break both. ``floor(2 n / 3) + 1`` of `n` hospitals are the quorum by default: with fewer than a third of them
lying, two checkpoints that both have it share an honest witness, who signs no fork.

A key counts once: the same key under two names is refused, and so is a log's key as a witness.

References:
    C2SP tlog-policy. https://c2sp.org/tlog-policy
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from wardround.audit import checkpoint as checkpoints
from wardround.audit import note as notes
from wardround.audit.checkpoint import SignedCheckpoint
from wardround.audit.note import VerifierKey
from wardround.errors import AuditError, CodecError, CryptoError

__all__ = [
    "MAX_POLICY_BYTES",
    "Group",
    "WitnessPolicy",
    "check_log",
    "cosigners",
    "format_policy",
    "is_quorum",
    "least_witnesses",
    "log_policy",
    "members",
    "parse_policy",
    "witness_time",
]

MAX_POLICY_BYTES: Final = 512 * 1024
_MAX_LINES: Final = 1024
_QUORUM: Final = "federation.quorum"
"""No site can be called so: sites' names hold no dot."""


@dataclass(frozen=True, slots=True)
class Group:
    """`least` of `members` have to have signed."""

    least: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WitnessPolicy:
    """A policy that was checked: names are unique, groups name what is above them, keys count once.

    `quorum` names a witness or group; it is empty where no witness is asked for.
    """

    logs: tuple[VerifierKey, ...]
    witnesses: Mapping[str, VerifierKey]
    groups: Mapping[str, Group]
    quorum: str


def least_witnesses(count: int) -> int:
    """How many of `count` hospitals have to have signed: ``floor(2 n / 3) + 1``, and none of none."""
    return 2 * count // 3 + 1 if count else 0


def log_policy(logs: Sequence[VerifierKey], hospitals: Mapping[str, Sequence[VerifierKey]]) -> WitnessPolicy:
    """The policy of a federation: each hospital with all its keys, and two thirds of the hospitals and one.

    Raises:
        CodecError: A key or name is there twice, or a hospital has none.
    """
    lines = [f"log {key}" for key in logs]
    for name, keys in hospitals.items():
        # A name with white space would be more than one word of the policy.
        if not keys or notes.check_name(name) == "none":
            raise CodecError(f"witness {name} has no key, or a name that means no witness")
        lines += [f"witness {name}.{key.algorithm} {key}" for key in keys]
        lines.append(f"group {name} all " + " ".join(f"{name}.{key.algorithm}" for key in keys))
    if hospitals:
        lines.append(f"group {_QUORUM} {least_witnesses(len(hospitals))} " + " ".join(hospitals))
    lines.append(f"quorum {_QUORUM if hospitals else 'none'}")
    return parse_policy("\n".join(lines) + "\n")


def format_policy(policy: WitnessPolicy) -> str:
    """The policy's text, a line ending in a newline for each statement."""
    lines = [f"log {key}" for key in policy.logs]
    lines += [f"witness {name} {key}" for name, key in policy.witnesses.items()]
    lines += [f"group {name} {group.least} {' '.join(group.members)}" for name, group in policy.groups.items()]
    return "\n".join([*lines, f"quorum {policy.quorum or 'none'}"]) + "\n"


def parse_policy(text: str) -> WitnessPolicy:
    """Read a policy; empty lines and lines that begin with # are passed over.

    Raises:
        CodecError: It is none, or breaks one of its rules.
    """
    lines = [line.split() for line in text.split("\n") if line.strip() and not line.startswith("#")]
    if len(text) > MAX_POLICY_BYTES or len(lines) > _MAX_LINES:
        raise CodecError(f"a witness policy has {MAX_POLICY_BYTES} bytes and {_MAX_LINES} lines at most")
    logs: list[VerifierKey] = []
    witnesses: dict[str, VerifierKey] = {}
    groups: dict[str, Group] = {}
    quorum: str | None = None
    for line in lines:
        match line:
            case ["log", vkey, *_]:
                logs.append(notes.parse_vkey(vkey))
            case ["witness", name, vkey, *_] if _is_new(name, witnesses, groups):
                witnesses[name] = _cosigner(vkey)
            case ["group", name, least, *inside] if _is_new(name, witnesses, groups):
                groups[name] = _group(name, least, inside, {*witnesses, *groups})
            case ["quorum", name] if quorum is None and (name == "none" or name in {*witnesses, *groups}):
                quorum = name
            case _:
                raise CodecError(f"a witness policy cannot say {line[0][:32]!r} here: a name is unknown or used twice")
    if quorum is None or not logs:
        raise CodecError("a witness policy names a log key and a quorum")
    _check_keys(logs, list(witnesses.values()))
    return WitnessPolicy(tuple(logs), witnesses, groups, "" if quorum == "none" else quorum)


def check_log(signed: SignedCheckpoint, keys: Sequence[VerifierKey], *, origin: str | None) -> None:
    """Verify that the log itself signed, with every key that is listed; `origin` None takes whatever it is called.

    Raises:
        AuditError: Another log's checkpoint, or a signature is missing or does not fit.
    """
    if origin is not None and signed.checkpoint.origin != origin:
        raise AuditError(f"a checkpoint of {origin!r} was expected, this is one of {signed.checkpoint.origin!r}")
    for key in keys:
        try:
            is_signed = checkpoints.check_signed(signed, key)
        except CryptoError as error:
            raise AuditError(f"the log's signature is wrong: {error}") from None
        if not is_signed:
            raise AuditError(f"the checkpoint is not signed with key {key.name}+{key.key_id.hex()}")
    if not keys:
        raise AuditError("no key of the log is known, so nothing can be verified: give its verifier key")


def cosigners(signed: SignedCheckpoint, policy: WitnessPolicy) -> frozenset[str]:
    """The names of the policy's witnesses and groups that signed.

    Raises:
        AuditError: A line in a witness's name does not fit.
    """
    try:
        found = {name for name, key in policy.witnesses.items() if checkpoints.check_signed(signed, key)}
    except CryptoError as error:
        raise AuditError(f"a cosignature is wrong: {error}") from None
    for name, group in policy.groups.items():
        if len(found.intersection(group.members)) >= group.least:
            found.add(name)
    return frozenset(found)


def is_quorum(found: frozenset[str], policy: WitnessPolicy) -> bool:
    """Whether those who signed are enough; where the policy asks for none they are."""
    return not policy.quorum or policy.quorum in found


def members(policy: WitnessPolicy) -> tuple[tuple[str, ...], int]:
    """Those whom the quorum is made of, and how many of them it takes."""
    if not policy.quorum:
        return (), 0
    group = policy.groups.get(policy.quorum, Group(1, (policy.quorum,)))
    return group.members, group.least


def witness_time(signed: SignedCheckpoint, policy: WitnessPolicy) -> int | None:
    """The median of the witnesses' times in seconds since 1970, or None; check the cosignatures first."""
    keys = [key for key in policy.witnesses.values() if list(notes.signatures_of(signed.note, key))]
    times = [checkpoints.cosigned_at(signed, key) for key in keys]
    return sorted(times)[len(times) // 2] if times else None


def _is_new(name: str, witnesses: Mapping[str, VerifierKey], groups: Mapping[str, Group]) -> bool:
    return name != "none" and name not in witnesses and name not in groups


def _cosigner(vkey: str) -> VerifierKey:
    key = notes.parse_vkey(vkey)
    if key.algorithm == notes.ED25519:
        raise CodecError(f"{key.name} has a key that signs notes (type 1); a witness has one of type 4 or 6")
    return key


def _group(name: str, least: str, inside: list[str], known: set[str]) -> Group:
    if len(set(inside)) != len(inside) or not set(inside) <= known or not inside:
        raise CodecError(f"group {name[:32]!r} has to name witnesses and groups of lines above it, each once")
    count = {"any": 1, "all": len(inside)}.get(least)
    count = checkpoints.decimal(least) if count is None else count
    if not 1 <= count <= len(inside):
        raise CodecError(f"group {name[:32]!r} asks for {count} of {len(inside)}")
    return Group(count, tuple(inside))


def _check_keys(logs: list[VerifierKey], witnesses: list[VerifierKey]) -> None:
    publics = [key.public for key in witnesses]
    if len(set(publics)) != len(publics):
        raise CodecError("two witnesses have the same key: a key counts once")
    names = {key.name for key in logs}
    if set(publics).intersection(key.public for key in logs) or names.intersection(key.name for key in witnesses):
        raise CodecError("a log is no witness of itself: a witness has the log's key or name")
