"""Decisions: allowed only if a policy permits it, none forbids it, and nothing at all went wrong.

    allowed = some permit holds  and  no forbid holds  and  Cedar reports no error  and  the request fits the schema

Cedar skips a policy whose evaluation fails, so that a broken forbid would forbid nothing: any error denies here.
Policies and schema are parsed once, when they are loaded. A decision follows from them and the request alone (no
clock, nothing looked up), so that what was allowed is kept under the whole request and answered from there the next
time; refusals are decided each time. So are entities kept, checked against the schema, under their exact text.

References:
    Cutler et al. Cedar: a new language for expressive, fast, safe, and analyzable authorization. OOPSLA 2024.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache

import cedarpy

from wardround.authorization import policy
from wardround.authorization.policy import STEP_UP, Policies, Text
from wardround.authorization.request import Anyone, Request, cedar, uid_of
from wardround.errors import CodecError
from wardround.ids import Digest

__all__ = ["Authorizer", "Decision"]

_UNCHECKED = 120
_KEPT = 256
_KEPT_DECISIONS = 1024
_MAX_DIAGNOSTICS = 8


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided, and why.

    `reasons` names the policies that decided: the forbids that hold, or else the permits. `diagnostics` says what went
    wrong, in Cedar's words. `missing` names circumstances that are not known and that a permit of this action asks
    for. `step_up` says that a newer or stronger login would be enough. `policies` is the digest of what was in force.
    """

    allowed: bool
    principal: str
    action: str
    resource: str
    reasons: tuple[str, ...]
    diagnostics: tuple[str, ...]
    missing: tuple[str, ...]
    step_up: bool
    policies: Digest


class Authorizer:
    """Decides by a fixed set of policies. May be shared by threads.

    Raises:
        ConfigError: The policies are not ones that can be put in force; with file, line and column.
    """

    def __init__(self, schema: str, *texts: Text) -> None:
        self.policies: Policies = policy.load(schema, texts)
        self._wanted = _wanted(self.policies)
        checked = self.policies.schema
        self._allowed: dict[Hashable, Decision] = {}
        self._entities = lru_cache(_KEPT)(lambda text: cedarpy.Entities.from_json_str(text, checked))

    @property
    def digest(self) -> Digest:
        """The digest of schema and policies."""
        return self.policies.digest

    def decide(self, request: Request) -> Decision:
        """Decide; whatever is wrong with `request` is a denial that says so."""
        key = _key(request)
        if key is not None and (known := self._allowed.get(key)) is not None:
            return known
        decision = self._decide(request)
        if decision.allowed and key is not None:
            if len(self._allowed) >= _KEPT_DECISIONS:
                self._allowed.clear()
            self._allowed[key] = decision
        return decision

    def _decide(self, request: Request) -> Decision:
        try:
            asked, entities = cedar(request)
            known = self._checked(entities)
            found = cedarpy.is_authorized(asked, self.policies.together, known, self.policies.schema)
        except (CodecError, ValueError, TypeError, AttributeError, RecursionError) as error:
            return self._decision(request, diagnostics=(str(error),))
        names = found.diagnostics.id_annotations_by_reason
        reasons = tuple(sorted(names.get(reason, "") for reason in found.diagnostics.reasons))
        errors = tuple(_short(error) for error in found.diagnostics.errors[:_MAX_DIAGNOSTICS])
        allowed = found.decision is cedarpy.Decision.Allow and not errors and bool(reasons)
        return self._decision(request, allowed=allowed, reasons=reasons, diagnostics=errors)

    def _checked(self, text: str) -> cedarpy.Entities | str:
        """The entities in `text`, checked; where they do not fit, the text, of which Cedar then says what is wrong."""
        try:
            return self._entities(text)
        except ValueError:
            return text

    def _decision(
        self,
        request: Request,
        *,
        allowed: bool = False,
        reasons: tuple[str, ...] = (),
        diagnostics: tuple[str, ...] = (),
    ) -> Decision:
        # Whether a login would be enough: every forbid that holds asks for one. A permit must still hold then.
        asks = {self.policies.by_id[reason].asks for reason in reasons if reason in self.policies.by_id}
        missing: tuple[str, ...] = ()
        if not allowed:
            wanted = self._wanted.get(request.action, frozenset()) | self._wanted.get("", frozenset())
            missing = tuple(sorted(wanted - set(request.circumstances)))
        who = request.principal.uid if isinstance(request.principal, Anyone) else uid_of(request.principal)["id"]
        return Decision(
            allowed=allowed,
            principal=f"{type(request.principal).__name__} {who}"[:_UNCHECKED],
            action=request.action[:_UNCHECKED],
            resource=f"{request.resource.kind} {request.resource.name}"[:_UNCHECKED],
            reasons=reasons,
            diagnostics=tuple(_short(error) for error in diagnostics),
            missing=missing,
            step_up=not allowed and not diagnostics and asks == {STEP_UP},
            policies=self.policies.digest,
        )


def _wanted(policies: Policies) -> dict[str, frozenset[str]]:
    """By action, the circumstances that its permits ask to be known; under no name, those of permits of any action."""
    wanted: dict[str, set[str]] = {}
    for one in policies.by_id.values():
        asked = policy.optional_circumstances(one) if one.effect == "permit" else frozenset()
        if asked:
            for action in policy.actions(one) or ("",):
                wanted.setdefault(action, set()).update(asked)
    return {action: frozenset(names) for action, names in wanted.items()}


def _key(request: Request) -> Hashable | None:
    """What a decision is kept under; None where the request is not of the types that it should be.

    The types are part of it: to Python true is 1, to a policy it is not.
    """
    try:
        circumstances = tuple((name, type(value), value) for name, value in sorted(request.circumstances.items()))
        key = request.principal, request.action, request.resource, circumstances
        hash(key)
    except TypeError:
        return None
    return key


def _short(text: str) -> str:
    if text.startswith("failed to parse entities from:"):
        text = text.rpartition("]: ")[2]  # Cedar repeats all that it was given; what is wrong comes last.
    return text if len(text) <= 300 else text[:299] + "…"
