"""Why something is allowed or not, in plain words: which policies permit, forbid, or almost permit it, and what lacks.

Each policy is put to Cedar alone. Of a permit that is about this principal, action and resource but does not hold, each
part of its condition is put to Cedar alone as well, so that what is said to lack is what Cedar finds lacking.
"""

from dataclasses import dataclass, replace

import cedarpy
from cedarpy import pst

from wardround.authorization.decide import Authorizer, Decision
from wardround.authorization.policy import Policies, Policy, circumstances_in
from wardround.authorization.request import DEFAULTS, NEVER, Request, cedar
from wardround.errors import CodecError

__all__ = ["Almost", "Explanation", "Told", "explain", "words"]


@dataclass(frozen=True, slots=True)
class Told:
    """A policy's name and meaning."""

    id: str
    says: str


@dataclass(frozen=True, slots=True)
class Almost:
    """A permit that would hold if the conditions in `lacking` did; `found` are the circumstances they look at."""

    id: str
    says: str
    lacking: tuple[str, ...]
    found: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision with its reasons told."""

    decision: Decision
    permitted: tuple[Told, ...]
    forbade: tuple[Told, ...]
    almost: tuple[Almost, ...]


def explain(authorizer: Authorizer, request: Request) -> Explanation:
    """Decide, and say why."""
    decision = authorizer.decide(request)
    policies = authorizer.policies
    try:
        asked = cedar(request)
    except CodecError:
        return Explanation(decision, (), (), ())
    permitted: list[Told] = []
    forbade: list[Told] = []
    almost: list[Almost] = []
    for policy in policies.by_id.values():
        if _holds(policy.alone, asked, policies):
            (permitted if policy.effect == "permit" else forbade).append(Told(policy.id, policy.says))
        elif policy.effect == "permit" and _holds(_with(policy.parsed, ()), asked, policies):
            almost.append(_almost(policy, asked, request, policies))
    return Explanation(decision, tuple(permitted), tuple(forbade), tuple(almost))


def words(explanation: Explanation) -> list[str]:
    """The explanation, line by line."""
    decision = explanation.decision
    verdict = "allowed" if decision.allowed else "denied"
    lines = [f"{verdict}: {decision.principal} may {'' if decision.allowed else 'not '}{decision.action}"]
    lines[0] += f" {decision.resource}"
    lines += [f"  permitted by {told.id}: {told.says}" for told in explanation.permitted]
    lines += [f"  forbidden by {told.id}: {told.says}" for told in explanation.forbade]
    for near in explanation.almost:
        lines.append(f"  almost permitted by {near.id}: {near.says}")
        lines += [f"    it lacks: {lacking}" for lacking in near.lacking]
        lines += [f"    here {found}" for found in near.found]
    if not decision.allowed and not (explanation.permitted or explanation.forbade or explanation.almost):
        lines.append("  no policy is about this principal, action and resource, and what nothing permits is denied")
    if decision.step_up:
        lines.append("  a newer login with a second factor would be enough: log in again")
    lines += [f"  went wrong: {error}" for error in decision.diagnostics]
    return lines


def _almost(policy: Policy, asked: tuple[dict[str, object], str], request: Request, policies: Policies) -> Almost:
    lacking: list[str] = []
    found: set[str] = set()
    for clause in policy.parsed.clauses:
        for part in _parts(clause):
            alone = _with(policy.parsed, (part,))
            if not _holds(alone, asked, policies):
                lacking.append(_condition(alone))
                found |= circumstances_in(part.expr)
    told = (_told(name, request) for name in sorted(found))
    return Almost(policy.id, policy.says, tuple(lacking), tuple(told))


def _told(name: str, request: Request) -> str:
    value = request.circumstances.get(name, DEFAULTS.get(name))
    if value is None:
        return f"{name} is not known"
    if name == "auth_age" and value == NEVER:
        return "nobody logged in"
    return f"{name} is {str(value).lower()}" if isinstance(value, bool) else f"{name} is {value!r}"


def _parts(clause: pst.Clause) -> list[pst.Clause]:
    """The conditions that a clause joins by "and"; of an `unless` there is one."""
    if isinstance(clause, pst.Unless):
        return [clause]
    waiting, parts = [clause.expr], []
    while waiting:
        expression = waiting.pop()
        if isinstance(expression, pst.BinaryOp) and expression.op == "and":
            waiting += [expression.right, expression.left]
        else:
            parts.append(pst.When(expression))
    return list(parts)


def _with(parsed: pst.Template, clauses: tuple[pst.Clause, ...]) -> cedarpy.PolicySet:
    """The policy with other conditions."""
    made = replace(parsed, clauses=clauses)
    empty = pst.FrozenMap[str, pst.Template]()
    return cedarpy.PolicySet.from_pst(pst.PolicySet(empty, pst.FrozenMap({parsed.id: made}), ()))


def _condition(alone: cedarpy.PolicySet) -> str:
    """The condition of a policy that has one, as Cedar writes it."""
    text = " ".join(str(alone).split())
    kind = "unless" if "unless {" in text else "when"
    condition = text.partition(f"{kind} {{")[2].rpartition("}")[0].strip()
    return f"not ({condition})" if kind == "unless" else condition


def _holds(policies: cedarpy.PolicySet, asked: tuple[dict[str, object], str], known: Policies) -> bool:
    """Whether the one policy in `policies` holds for the request."""
    try:
        found = cedarpy.is_authorized(dict(asked[0]), policies, asked[1], known.schema)
    except (ValueError, TypeError):
        return False
    return bool(found.diagnostics.reasons) and not found.diagnostics.errors
