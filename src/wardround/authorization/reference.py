"""What policies speak about and what the shipped ones say, as Markdown, read from the schema and the policies."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from wardround.authorization import policy, shipped
from wardround.authorization.decide import Authorizer

__all__ = ["Verb", "lines", "verbs"]

_VERB = re.compile(
    r'@doc\("(?P<says>[^"]*)"\)\naction "(?P<name>\w+)"(?: in \[(?P<groups>[^\]]*)\])?'
    r"(?: appliesTo \{ principal: (?P<who>[^:]*), resource: (?P<what>[^:]*), context: Circumstances \})?;"
)
_WORD = re.compile(r"[\w-]+")


class Verb(NamedTuple):
    """An action or, with nobody who may be asked about, a group of actions."""

    name: str
    says: str
    groups: tuple[str, ...]
    who: tuple[str, ...]
    what: tuple[str, ...]


def verbs() -> list[Verb]:
    """Every action and group of actions of the schema, in its order."""
    found = _VERB.finditer(shipped.schema())
    return [
        Verb(one["name"], one["says"], _words(one["groups"]), _words(one["who"]), _words(one["what"])) for one in found
    ]


def lines() -> Iterator[str]:
    """The reference page's lines."""
    yield 'A policy names actions as `Action::"train"`, or a group of them as `action in Action::"work"`.\n'
    yield "## Actions\n\n| action | means | by | on | groups |\n|---|---|---|---|---|"
    for verb in verbs():
        if verb.who:
            groups = ", ".join(f"`{group}`" for group in verb.groups)
            yield f"| `{verb.name}` | {verb.says} | {', '.join(verb.who)} | {', '.join(verb.what)} | {groups} |"
    yield "\n## Groups\n\n| group | means |\n|---|---|"
    yield from (f"| `{verb.name}` | {verb.says} |" for verb in verbs() if not verb.who)
    for kind, means in (("Role", "A person's roles"), ("Kind", "Kinds of machines")):
        found = re.search(rf"entity {kind} enum \[(.*?)\]", shipped.schema())
        named = ", ".join(f'`{kind}::"{name}"`' for name in _words(found[1] if found else ""))
        yield f"\n## {means}\n\n{named}"
    yield "\n## Circumstances\n\nThose with a `?` may be unknown: ask with `context has purpose` first.\n"
    circumstances = shipped.schema().partition("type Circumstances = {")[2].partition("}")[0]
    yield "| `context.…` | type |\n|---|---|"
    yield from (f"| `{name}` | {kind} |" for name, kind in re.findall(r"(\w+\??): (\w+)", circumstances))
    for title, authorizer in (("What a hub allows", shipped.hub()), ("What a site allows", shipped.site())):
        yield f"\n## {title}\n\n| policy | | says | about |\n|---|---|---|---|"
        yield from _policies(authorizer)


def _policies(authorizer: Authorizer) -> Iterator[str]:
    for one in authorizer.policies.by_id.values():
        about = ", ".join(f"`{name}`" for name in policy.actions(one)) or "everything"
        yield f"| `{one.id}` | {one.effect} | {one.says} | {about} |"


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(_WORD.findall(text or ""))
