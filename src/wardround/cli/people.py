"""`wardround people`: the accounts that a hub or a node keeps of its people."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wardround.cli.output import as_json, folder_argument, show

if TYPE_CHECKING:
    from wardround.cli.places import Place
    from wardround.services.desk import LocalPeople

__all__ = ["people"]

_KEEPERS = frozenset({"operator", "site-it"})


@click.group()
def people() -> None:
    """Keep the accounts of people at a hub or a node: add, list, roles, remove, reset, end."""


def _role_option(command: Callable[..., Any]) -> Callable[..., Any]:
    words = "A role; repeatable."
    return click.option("--role", "roles", multiple=True, required=True, help=words)(command)


def _broken_glass(command: Callable[..., Any]) -> Callable[..., Any]:
    words = "Without a login of an operator's own, where nobody can log in any more; say why."
    return click.option("--break-glass", "reason", default="", help=words)(command)


@people.command()
@click.argument("name")
@folder_argument("hub")
@_role_option
@click.option("--shown", default="", help="The name as it is shown [default: NAME].")
@_broken_glass
@as_json
def add(name: str, folder: str, roles: tuple[str, ...], shown: str, reason: str, json_: bool) -> None:
    """Make an account NAME and print the code for its first login, to be handed over on a trusted way."""
    from wardround.cli.places import open_place

    with open_place(Path(folder)) as place:
        local = _kept(place, Path(folder), "add", name, reason)
        code = local.book.add(name, roles, shown=shown, site=local.site, now=time.time())
    words = f"{code}\nWithin 72 hours: wardround login {folder} --first --name {name}"
    show(json_, {"name": name, "roles": sorted(roles), "code": code}, words)


@people.command(name="list")
@folder_argument("hub")
@as_json
def list_(folder: str, json_: bool) -> None:
    """List the accounts, their roles, and what each can log in with."""
    from wardround.cli.places import open_place

    with open_place(Path(folder)) as place:
        book = _local(place).book
        accounts = [book.get(name) for name in book.names()]
    found = [{"name": one.name, "shown": one.shown, "roles": one.roles, "factors": one.factors} for one in accounts]
    lines = [
        f"{one.name:20} {', '.join(one.roles):30} {', '.join(one.factors) or 'has not logged in yet'}"
        for one in accounts
    ]
    show(json_, found, "\n".join(lines) or "There are no accounts.")


@people.command()
@click.argument("name")
@folder_argument("hub")
@_role_option
@_broken_glass
@as_json
def roles(name: str, folder: str, roles: tuple[str, ...], reason: str, json_: bool) -> None:
    """Give NAME these roles and no others; present logins of theirs end."""
    from wardround.cli.places import open_place

    with open_place(Path(folder)) as place:
        account = _kept(place, Path(folder), "roles", name, reason).book.set_roles(name, roles, time.time())
    show(json_, {"name": name, "roles": account.roles}, f"{name}: {', '.join(account.roles)}")


@people.command()
@click.argument("name")
@folder_argument("hub")
@_broken_glass
@as_json
def remove(name: str, folder: str, reason: str, json_: bool) -> None:
    """Remove the account NAME; present logins of theirs end."""
    from wardround.cli.places import open_place

    with open_place(Path(folder)) as place:
        _kept(place, Path(folder), "remove", name, reason).book.remove(name, time.time())
    show(json_, {"removed": name}, f"{name} has no account any more.")


@people.command()
@click.argument("name")
@folder_argument("hub")
@click.option("--keep", is_flag=True, help="Keep the factors that are there, and let one more be added.")
@_broken_glass
@as_json
def reset(name: str, folder: str, keep: bool, reason: str, json_: bool) -> None:
    """Take every factor of NAME away, end present logins, and print a code for a new first login."""
    from wardround.cli.places import open_place

    with open_place(Path(folder)) as place:
        book, now = _kept(place, Path(folder), "reset", name, reason).book, time.time()
        code = book.renew(name, now) if keep else book.reset(name, now)
    words = f"{code}\nWithin 72 hours: wardround login {folder} --first --name {name}"
    show(json_, {"name": name, "code": code}, words)


@people.command()
@click.argument("subject")
@folder_argument("hub")
@_broken_glass
@as_json
def end(subject: str, folder: str, reason: str, json_: bool) -> None:
    """End every present login of SUBJECT here: an account's name, or a provider's name for a person."""
    from wardround.cli.places import open_place
    from wardround.errors import ConfigError

    with open_place(Path(folder)) as place:
        if place.desk is None:
            raise ConfigError('people are not checked here: provider is "none" in people.toml')
        if place.desk.local is not None:
            _kept(place, Path(folder), "end", subject, reason)
        place.desk.endings.end_person(place.desk.issuer, subject, time.time())
    show(json_, {"ended": subject}, f"{subject} must log in again.")


def _kept(place: "Place", folder: Path, what: str, name: str, reason: str) -> "LocalPeople":
    """The accounts, for whoever may change them: an operator who is logged in, or anybody before the first login."""
    from wardround.cli.presenting import present
    from wardround.errors import ForbiddenError

    local = _local(place)
    keepers = [one for one in map(local.book.get, local.book.names()) if one.factors and _KEEPERS & set(one.roles)]
    if keepers and not reason:
        person = present(folder, "people", about=f"{what}/{name}")
        if not person.roles & _KEEPERS:
            raise ForbiddenError(f"{person.name} is neither operator nor site-it here, and keeps no accounts")
    return local


def _local(place: "Place") -> "LocalPeople":
    from wardround.errors import ConfigError

    if place.desk is None or place.desk.local is None:
        raise ConfigError('no accounts are kept here; put provider = "local" into people.toml')
    return place.desk.local
