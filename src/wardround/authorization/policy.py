"""Policies as they are loaded: parsed, checked against the schema, named, and refused whole if anything is wrong.

Every policy says in annotations what it is called and what it means::

    @id("node-takes-its-tasks")
    @says("A node may ask for its own site's tasks.")
    permit (principal in Kind::"node", action == Action::"take_task", resource is Site)
    when { resource.owner == principal.name };

The name goes into the audit log and the meaning to people, so both are demanded here. `@asks("step-up")` on a forbid
says that a newer or stronger login would be enough.

Hazard: nothing of this is checked again when a decision is made. `load` is the only way to a `Policies`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass

import cedarpy
from cedarpy import pst

from wardround.authorization.statement import Statement, Token, place, statements
from wardround.codec import canonical
from wardround.errors import ConfigError
from wardround.ids import Digest

__all__ = ["STEP_UP", "Policies", "Policy", "Text", "actions", "circumstances_in", "load", "optional_circumstances"]

STEP_UP = "step-up"
_ID = re.compile(r"[a-z][a-z0-9-]{0,63}")
_ANNOTATIONS = frozenset({"id", "says", "asks"})
_SAYS_LENGTH = 300
_MAX_TEXTS = 8


@dataclass(frozen=True, slots=True)
class Text:
    """A policy text and the name that errors call it by: a file's."""

    name: str
    cedar: str


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy: its name, meaning, text, origin, and what Cedar parsed."""

    id: str
    says: str
    asks: str
    effect: str
    cedar: str
    origin: str
    alone: cedarpy.PolicySet
    parsed: pst.Template


@dataclass(frozen=True, slots=True)
class Policies:
    """Policies in force, by name, with the schema that they were checked against; `digest` names all of it."""

    by_id: dict[str, Policy]
    together: cedarpy.PolicySet
    schema: cedarpy.Schema
    digest: Digest


def load(schema: str, texts: tuple[Text, ...]) -> Policies:
    """Parse and check policies.

    Raises:
        ConfigError: A text is not Cedar, does not fit the schema, is a template, or a policy lacks its name or
            meaning or has another's name; with file, line and column.
    """
    if len(texts) > _MAX_TEXTS:
        raise ConfigError(f"policies come from at most {_MAX_TEXTS} files")
    try:
        checked = cedarpy.Schema.from_str(schema)
    except ValueError as error:
        raise ConfigError(f"the schema of policies is not Cedar: {error}") from None
    by_id: dict[str, Policy] = {}
    for text in texts:
        for statement in statements(text.cedar, text.name):
            policy = _policy(statement, checked, text.name)
            if policy.id in by_id:
                other = by_id[policy.id].origin
                where = place(text.name, statement.tokens[0])
                raise ConfigError(f"{where}: the policy {policy.id!r} is in {other} already; give it another name")
            by_id[policy.id] = policy
    together = cedarpy.PolicySet.from_str("\n".join(policy.cedar for policy in by_id.values()))
    document = [schema, *(policy.cedar for policy in by_id.values())]
    return Policies(by_id, together, checked, canonical.digest(canonical.encode(document)))


def _policy(statement: Statement, schema: cedarpy.Schema, name: str) -> Policy:
    alone = _parsed(statement, name)
    first = place(name, statement.tokens[0])
    try:
        nodes = alone.to_pst()
    except ValueError as error:
        raise ConfigError(f"{first}: this policy is not one that can be explained: {error}") from None
    if nodes.templates or len(nodes.static_policies) != 1:
        raise ConfigError(f"{first}: a template decides nothing; write principal and resource out")
    parsed = next(iter(nodes.static_policies.values()))
    result = cedarpy.validate_policies(statement.text, schema)
    if not result.validation_passed:
        # Cedar says it once for every action, in no order, and what follows from it as well.
        found = sorted((one.error for one in result.errors), key=lambda error: ("unable to find" in error, error))
        wrong = found[0] if found else "it does not fit the schema"
        words = wrong.removeprefix("for policy `policy0`").lstrip(",: ")
        raise ConfigError(f"{place(name, _named(statement, words))}: {words}")
    annotations = parsed.annotations
    if stray := sorted(set(annotations) - _ANNOTATIONS):
        raise ConfigError(f"{first}: the annotation @{stray[0]} is none of @id, @says and @asks")
    identifier, says = annotations.get("id", ""), annotations.get("says", "")
    if not _ID.fullmatch(identifier):
        raise ConfigError(f'{first}: a policy needs a name of a-z, 0-9 and "-", such as @id("no-study-code")')
    if not says.strip() or len(says) > _SAYS_LENGTH or not says.isprintable():
        raise ConfigError(
            f'{first}: the policy {identifier!r} must say what it means in 1 to {_SAYS_LENGTH} letters, as @says("…")'
        )
    asks = annotations.get("asks", "")
    if asks not in {"", STEP_UP} or (asks and parsed.effect != "forbid"):
        raise ConfigError(f'{first}: @asks("{STEP_UP}") stands on a forbid, and there is nothing else to ask')
    return Policy(identifier, says, asks, parsed.effect, statement.text, name, alone, parsed)


def _parsed(statement: Statement, name: str) -> cedarpy.PolicySet:
    if statement.tokens[-1].text != ";":
        raise ConfigError(f"{place(name, statement.tokens[-1])}: the text ends within a policy; is a ';' missing?")
    error = _refusal(statement.text)
    if not error:
        return cedarpy.PolicySet.from_str(statement.text)
    offender = _offender(statement)
    if offender is statement.tokens[-1]:
        # What Cedar finds wrong only once all is read, it names.
        named = set(re.findall(r"[`'\"]([^`'\"]+)[`'\"]|: (\w+)$", error))
        words = {word for pair in named for word in pair if word}
        offender = next((token for token in statement.tokens if token.text in words), offender)
    raise ConfigError(f"{place(name, offender)}: {error}; found {offender.text[:40]!r}")


def _refusal(text: str) -> str:
    """What Cedar says against `text`, or nothing."""
    try:
        cedarpy.PolicySet.from_str(text)
    except (ValueError, TypeError) as error:
        return str(error)
    return ""


def _offender(statement: Statement) -> Token:
    """The first token with which the policy can no longer become one."""
    tokens, begins = statement.tokens, statement.tokens[0].start
    viable, broken = 0, len(tokens)
    while broken - viable > 1:
        middle = (viable + broken) // 2
        end = tokens[middle - 1].start + len(tokens[middle - 1].text) - begins
        if _refusal(statement.text[:end]) in {"", "unexpected end of input"}:
            viable = middle
        else:
            broken = middle
    return tokens[broken - 1]


def _named(statement: Statement, words: str) -> Token:
    """The first token that the validator's words name, or the policy's first."""
    said = re.findall(r"`([^`]*)`", words)
    # Of an entity such as `Role::"king"` the quoted part is what is wrong.
    parts = (re.findall(r'"([^"]+)"', one) or re.findall(r"[A-Za-z0-9_]+", one) for one in said)
    named = {part for several in parts for part in several} - {"context", "principal", "resource", "policy0"}
    head = next((i for i, token in enumerate(statement.tokens) if token.text in {"permit", "forbid"}), 0)
    for token in statement.tokens[head:]:
        if token.text.strip('"') in named:
            return token
    return statement.tokens[0]


def actions(policy: Policy) -> tuple[str, ...]:
    """The actions that a policy is about, by name; empty where it is about any."""
    match policy.parsed.action:
        case pst.ActionEq(entity):
            return (entity.id,)
        case pst.ActionIn(entities):
            return tuple(entity.id for entity in entities)
        case _:
            return ()


def optional_circumstances(policy: Policy) -> frozenset[str]:
    """The circumstances that a policy asks to be known, by `context has`."""
    found: set[str] = set()
    for node in _nodes(policy.parsed.clauses):
        if isinstance(node, pst.HasAttr) and node.base == pst.Var("context"):
            found.update(node.attrs[:1])
    return frozenset(found)


def circumstances_in(expression: object) -> set[str]:
    """The circumstances that an expression looks at."""
    found: set[str] = set()
    for node in _nodes(expression):
        if isinstance(node, pst.GetAttr | pst.HasAttr) and node.base == pst.Var("context"):
            found.add(node.attrs[0] if isinstance(node, pst.HasAttr) else node.attr)
    return found


def _nodes(root: object) -> Iterator[object]:
    """Every node of a parsed expression."""
    waiting: list[object] = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, tuple | list):
            waiting.extend(node)
        elif isinstance(node, dict):
            waiting.extend(node.values())
        elif is_dataclass(node):
            yield node
            waiting.extend(getattr(node, one.name) for one in fields(node))
