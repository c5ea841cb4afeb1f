"""`wardround policy`: test, explain and show the policies that say who may do what."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wardround.cli.output import as_json, show

if TYPE_CHECKING:
    from wardround.authorization.decide import Authorizer
    from wardround.authorization.request import Principal, Value

__all__ = ["policy"]

_at = click.option(
    "--at",
    type=click.Choice(["site", "hub"]),
    default="site",
    show_default=True,
    help="Whose policies: a site's or a hub's.",
)
_own = click.option(
    "--policy",
    "own",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The site's or operator's own file, beside the shipped policies.",
)


@click.group()
def policy() -> None:
    """Say who may do what: test, explain and show policies."""


@policy.command(name="test")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_at
@_own
@click.option("--all", "all_", is_flag=True, help="The shipped policies must each decide a case, too.")
@as_json
def test_(file: Path, at: str, own: Path | None, all_: bool, json_: bool) -> None:
    """Decide the cases in FILE and compare; exits 1 where one differs, or a policy of --policy decides none of them."""
    from wardround.authorization import case

    authorizer = _authorizer(at, own)
    named = authorizer.policies.by_id.values()
    tested = frozenset(one.id for one in named if all_ or one.origin == "policy.cedar")
    outcome = case.run(authorizer, case.read(_text(file)), tested=tested)
    lines = []
    for row in outcome.rows:
        why = ", ".join(row.reasons) or "no policy"
        lines.append(f"{'ok    ' if row.holds else 'DIFFERS'} {row.found:5}  {row.name}  ({why})")
        if not row.holds:
            asked = f" by {row.policy}" if row.policy else ""
            lines.append(f"        expected {row.expect}{asked}")
            lines += [f"        {error}" for error in row.diagnostics]
    lines += [f"UNTESTED {name}: it decides none of the cases" for name in outcome.untested]
    lines.append(f"{sum(row.holds for row in outcome.rows)} of {len(outcome.rows)} cases as expected")
    answer = {"holds": outcome.holds, "cases": outcome.rows, "untested": outcome.untested}
    show(json_, answer, "\n".join(lines))
    if not outcome.holds:
        raise SystemExit(1)


@policy.command(name="explain")
@click.option(
    "--principal", required=True, help="anyone, person:NAME[@SITE], or KIND:NAME of a machine (node:arran, hub:hub)."
)
@click.option("--role", "roles", multiple=True, help="A person's role; may be given several times.")
@click.option("--issuer", default="", help="Who vouches for the person [default: nobody, as without logins].")
@click.option("--action", required=True, help="What is to be done; docs/reference/policy-actions.md lists all.")
@click.option("--resource", required=True, help="KIND:NAME of what it is done to, such as Study:stroke.")
@click.option("--owner", default="", help="Whose it is.")
@click.option("--participant", "participants", multiple=True, help="A site that takes part in its study.")
@click.option("--researcher", default="", help="Whose study it is.")
@click.option("--context", "context", multiple=True, help="A circumstance, as name=value.")
@_at
@_own
@as_json
def explain_(
    principal: str,
    roles: tuple[str, ...],
    issuer: str,
    action: str,
    resource: str,
    owner: str,
    participants: tuple[str, ...],
    researcher: str,
    context: tuple[str, ...],
    at: str,
    own: Path | None,
    json_: bool,
) -> None:
    """Say whether something is allowed, by which policies, and what lacks where it is not; exits 1 where it is not."""
    from wardround.authorization import explain
    from wardround.authorization.request import Request, Resource

    kind, _, name = resource.partition(":")
    study = name if kind == "Study" else ""
    what = Resource(kind, name, owner=owner, study=study, participants=participants, researcher=researcher)
    asked = Request(_principal(principal, roles, issuer), action, what, dict(map(_circumstance, context)))
    found = explain.explain(_authorizer(at, own), asked)
    show(json_, found, "\n".join(explain.words(found)))
    if not found.decision.allowed:
        raise SystemExit(1)


@policy.command(name="show")
@_at
@_own
@as_json
def show_(at: str, own: Path | None, json_: bool) -> None:
    """Print the policies in force, what each means, and the digest that audit logs name them by."""
    authorizer = _authorizer(at, own)
    policies = list(authorizer.policies.by_id.values())
    lines = [f"{one.effect:6}  {one.id}: {one.says}  [{one.origin}]" for one in policies]
    lines.append(f"{len(policies)} policies, digest {authorizer.digest}")
    told = [
        {"id": one.id, "effect": one.effect, "says": one.says, "origin": one.origin, "cedar": one.cedar}
        for one in policies
    ]
    show(json_, {"digest": authorizer.digest, "policies": told}, "\n".join(lines))


def _authorizer(at: str, own: Path | None) -> "Authorizer":
    from wardround.authorization import shipped

    text = _text(own) if own is not None else ""
    return shipped.hub(text) if at == "hub" else shipped.site(text)


def _text(path: Path) -> str:
    from wardround.errors import ConfigError

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text: {type(error).__name__}") from None


def _principal(text: str, roles: tuple[str, ...], issuer: str) -> "Principal":
    from wardround.authorization.request import ANYONE, Machine, Person

    kind, _, name = text.partition(":")
    if text == "anyone":
        return ANYONE
    if not name:
        raise click.UsageError("--principal is anyone, person:NAME[@SITE], or KIND:NAME of a machine")
    if kind == "person":
        name, _, site = name.partition("@")
        return Person(name, roles, site, issuer)
    return Machine(name, kind, name if kind == "node" else "")


def _circumstance(text: str) -> "tuple[str, Value]":
    name, sign, value = text.partition("=")
    if not sign:
        raise click.UsageError("--context is name=value, such as --context mfa=true")
    if value in {"true", "false"}:
        return name, value == "true"
    return name, int(value) if value.isascii() and value.isdigit() and len(value) < 17 else value
