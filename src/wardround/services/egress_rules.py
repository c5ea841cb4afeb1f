"""What a node's messages may hold: for each type, what its plan allows, what of it a person can read, and its texts.

`offence` says in words why a message may not leave, or nothing. A site's reason for taking no part is one of a
closed list of sentences, made of the errors' own descriptions: no text of a site's making reaches the hub there.
"""

import hashlib
import math
import re
from dataclasses import dataclass
from functools import cache
from typing import Final, TypeAlias

import msgspec

from wardround.codec import tensors
from wardround.errors import all_errors
from wardround.protocol.messages import (
    INLINE_BYTES,
    MAX_MESSAGE_BYTES,
    Audit,
    CohortAnswer,
    Contribution,
    Decision,
    Evaluation,
    PairAnswer,
    TaskRequest,
    encode,
)
from wardround.protocol.plan import Plan, statistics_manifest
from wardround.secagg.messages import Masked, Unmaskable

__all__ = ["KINDS", "Outgoing", "Told", "offence", "public_sentences", "says_nothing", "told"]

Outgoing: TypeAlias = Contribution | CohortAnswer | PairAnswer | Decision | Audit | TaskRequest
KINDS: Final[dict[type, str]] = {
    Contribution: "contribution",
    CohortAnswer: "cohort answer",
    PairAnswer: "pair answer",
    Decision: "decision",
    Audit: "audit",
    TaskRequest: "task request",
}
"""Every type that a node sends, and what the book calls it."""
_REFUSED = "the hub refused this site's update; its node's log has the reason. Must act: the site's IT"
_NONCE_BYTES = 32
_MOST_METRICS, _MOST_APPRAISED = 1000, 200_000
_LONGEST = {"declined": 600, "person": 200, "reason": 2000}
_METRIC = re.compile(r"[A-Za-z0-9_][\w .,:;=<>≤≥+%@()\[\]/-]{0,119}")


@dataclass(frozen=True, slots=True)
class Told:
    """What a message says in the clear: which fields it has, its numbers by name, and its texts."""

    fields: tuple[str, ...]
    numbers: dict[str, float | None]
    texts: tuple[str, ...]


@cache
def public_sentences() -> frozenset[str]:
    """Every sentence by which a site may decline."""
    found = {_REFUSED}
    for error in all_errors():
        words = (error.__doc__ or "").splitlines()[0]
        found.add(f"{error.code}: {words} Must act: {error.who}; details are in the node's log")
    return frozenset(found)


def told(message: Outgoing) -> Told:
    """What of a message a person can read."""
    fields = tuple(
        info.name for info in msgspec.structs.fields(message) if getattr(message, info.name) not in (info.default, None)
    )
    match message:
        case Contribution():
            numbers: dict[str, float | None] = {}
            if message.records:
                numbers["records"] = float(message.records)
            if message.train_seconds:
                numbers["train_seconds"] = message.train_seconds
            texts = [message.declined]
            if message.evaluation is not None:
                numbers |= _numbers(message.evaluation)
                texts += [*message.evaluation.metrics, *message.evaluation.personal, *message.evaluation.intervals]
            return Told(fields, numbers, tuple(filter(None, texts)))
        case CohortAnswer():
            reason = (message.answer.reason,) if isinstance(message.answer, Unmaskable) else ()
            return Told((*fields, type(message.answer).__name__.lower()), {}, reason)
        case Decision():
            return Told(fields, {"decided_at": message.decided_at}, (message.person, message.reason))
        case Audit():
            return Told(fields, {"passed": float(message.passed)}, (message.person,))
        case PairAnswer() | TaskRequest():
            return Told(fields, {}, ())


def offence(message: object, plan: Plan | None) -> str:
    """Why a message may not leave; empty where it may.

    Args:
        message: Of whatever type.
        plan: The approved plan of its study; none for what belongs to no run.
    """
    if type(message) not in KINDS or not isinstance(message, msgspec.Struct):
        return "a node sends no such message"
    if (size := len(encode(message))) > MAX_MESSAGE_BYTES:
        return f"a message has at most {MAX_MESSAGE_BYTES} bytes, and this has {size}"
    match message:
        case Contribution():
            return _of_refusal(message) if message.declined else _of_contribution(message, plan)
        case CohortAnswer():
            return _of_answer(message, plan)
        case Decision() | Audit():
            return _too_long({"person": message.person, "reason": getattr(message, "reason", "")})
        case _:
            return ""


def says_nothing(message: object) -> bool:
    """Whether a message only says that the site takes no part: it may leave without a plan, and beyond the budget."""
    if isinstance(message, Contribution):
        return bool(message.declined)
    return isinstance(message, CohortAnswer) and isinstance(message.answer, Unmaskable)


def _of_refusal(message: Contribution) -> str:
    says_more = message.update or message.evaluation or message.update_inline or message.records or message.nonce
    if says_more or message.train_seconds or message.declined not in public_sentences():
        return "a site that declines says one of the known sentences, and nothing else"
    return ""


def _of_contribution(message: Contribution, plan: Plan | None) -> str:
    if plan is None:
        return "no approved plan asks for it"
    if message.evaluation is not None and (words := _of_evaluation(message.evaluation)):
        return words
    if plan.secure is not None:
        if message.update or message.update_inline or message.records or len(message.nonce) != _NONCE_BYTES:
            return "with secure aggregation a site says only that it is ready"
        if message.evaluation is not None and not plan.secure.site_metrics:
            return "the plan lets no site's own metrics leave"
        return ""
    expected = {
        "train": tensors.file_bytes(plan.manifest) if plan.training.rounds else 0,
        "statistics": tensors.file_bytes(statistics_manifest(plan.data)) if message.kind == "statistics" else 0,
    }.get(message.kind, 0)
    size = message.update.size if message.update else 0
    if size != expected:
        return f"an answer of this kind has an update of {expected} bytes in this plan, and this has {size}"
    if message.nonce or not math.isfinite(message.train_seconds):
        return "an answer has no nonce in a plan without secure aggregation, and a finite time"
    return _of_inline(message)


def _of_inline(message: Contribution) -> str:
    if message.update is None or message.update.size > INLINE_BYTES:
        return "only a small update rides inside its message" if message.update_inline else ""
    digest = hashlib.sha256(message.update_inline).hexdigest()
    if len(message.update_inline) != message.update.size or digest != message.update.digest:
        return "the update inside the message is not the one that it names"
    return ""


def _of_answer(message: CohortAnswer, plan: Plan | None) -> str:
    answer = message.answer
    if isinstance(answer, Unmaskable):
        return "a reason comes without a vector" if message.inline else _too_long({"reason": answer.reason})
    if plan is None or plan.secure is None:
        return "no approved plan asks for a secure aggregation"
    if not message.inline:
        return ""
    if not isinstance(answer, Masked) or len(message.inline) > INLINE_BYTES:
        return "only a small masked vector rides inside a message"
    if hashlib.sha256(message.inline).digest() != answer.digest:
        return "the vector inside the message is not the one that was signed"
    return ""


def _of_evaluation(found: Evaluation) -> str:
    names = [*found.metrics, *found.personal, *found.intervals]
    if len(names) > _MOST_METRICS or len(found.appraisal) > _MOST_APPRAISED:
        return f"an evaluation has at most {_MOST_METRICS} metrics and {_MOST_APPRAISED} numbers for curves"
    if not all(_METRIC.fullmatch(name) for name in names):
        return "a metric's name is short and has no control characters"
    if not all(value is None or math.isfinite(value) for value in _numbers(found).values()):
        return "a metric is a finite number, or none"
    return ""


def _numbers(found: Evaluation) -> dict[str, float | None]:
    numbers: dict[str, float | None] = {"held_out_records": float(found.records)}
    numbers |= {f"metrics.{name}": value for name, value in found.metrics.items()}
    numbers |= {f"personal.{name}": value for name, value in found.personal.items()}
    if found.divergence is not None:
        numbers |= {f"divergence.{name}": value for name, value in msgspec.structs.asdict(found.divergence).items()}
    for name, (low, high) in found.intervals.items():
        numbers |= {f"intervals.{name}.low": low, f"intervals.{name}.high": high}
    return numbers | {f"appraisal.{place}": value for place, value in enumerate(found.appraisal)}


def _too_long(texts: dict[str, str]) -> str:
    for name, text in texts.items():
        if len(text) > _LONGEST[name] or not all(sign.isprintable() or sign in "\n\t" for sign in text):
            return f"the field {name} has at most {_LONGEST[name]} printable characters"
    return ""
