"""`wardround node budget`: what studies may learn about this hospital's patients, in figures of privacy."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wardround.cli.output import as_json, folder_argument, show

if TYPE_CHECKING:
    from wardround.privacy.ledger_entry import Entry
    from wardround.services.budgets import BudgetStatus, RunSpending

__all__ = ["budget"]

_UNIT = click.Choice(["patient", "site"])
_OF_ALL = {"patient": "per patient", "site": "for the site as a whole"}


@click.group()
def budget() -> None:
    """Grant, lower and look at this site's privacy budgets."""


def _unit_option(command: Callable[..., Any]) -> Callable[..., Any]:
    words = "Whom the budget protects."
    return click.option("--unit", type=_UNIT, default="patient", show_default=True, help=words)(command)


def _decision_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--person", default=None, help="Who decides [default: the login name]."),
        click.option("--reason", required=True, help="Kept in the ledger."),
    ):
        command = option(command)
    return command


@budget.command(name="show")
@folder_argument("node")
@_unit_option
@as_json
def show_(folder: str, unit: str, json_: bool) -> None:
    """Say what is granted, spent, reserved and left, and what each run's guarantee rests on."""
    from wardround.node import setup

    budgets = setup.open_budgets(Path(folder))
    status, tight = budgets.status(unit), budgets.tight_epsilon(unit)
    lines = [_standing(status)]
    if tight is not None and status.spent:
        lines.append(
            f"If all of it had been fixed beforehand, what is spent would be epsilon {tight:.3g}. That figure informs; "
            "the budget counts what is safe for studies chosen one after another."
        )
    show(json_, {"status": status, "tight_epsilon": tight}, "\n".join([*lines, *_runs(status)]))


@budget.command()
@folder_argument("node")
@_unit_option
@click.option("--epsilon", type=float, required=True, help="The budget; smaller protects more.")
@click.option("--delta", type=float, required=True, help="Far below 1 / number of patients, such as 1e-6.")
@click.option("--order", type=float, default=None, help="Rényi order at which it is counted [default: the best].")
@_decision_options
@as_json
def grant(
    folder: str,
    unit: str,
    epsilon: float,
    delta: float,
    order: float | None,
    reason: str,
    person: str | None,
    yes: bool,
    json_: bool,
) -> None:
    """Grant a budget, for all studies together; a second grant replaces the first, and what is spent stays spent."""
    from wardround.cli.presenting import permitted
    from wardround.node import setup

    budgets = setup.open_budgets(Path(folder))
    before = budgets.status(unit)
    if not yes:
        click.echo(_standing(before))
        click.confirm(f"Grant epsilon {epsilon:g} at delta {delta:g} {_OF_ALL[unit]} in its place?", abort=True)
    who = permitted(Path(folder), "grant_budget", "Budget", unit, person=person)
    budgets.grant(unit, epsilon, delta, person=who, reason=reason, order=order)
    status = budgets.status(unit)
    show(json_, status, _standing(status))


@budget.command()
@folder_argument("node")
@_unit_option
@click.option("--epsilon", type=float, required=True, help="The new budget, below the present one.")
@_decision_options
@as_json
def lower(folder: str, unit: str, epsilon: float, reason: str, person: str | None, yes: bool, json_: bool) -> None:
    """Lower a budget at the same delta; what is spent stays spent, and runs that no longer fit are stopped."""
    from wardround.cli.presenting import permitted
    from wardround.errors import ConfigError
    from wardround.node import setup

    budgets = setup.open_budgets(Path(folder))
    before = budgets.status(unit)
    if not before.entries:
        raise ConfigError("no budget is granted here yet; a steward does: wardround node budget grant")
    if not epsilon < before.epsilon:
        raise ConfigError(f"epsilon is {before.epsilon:g} now; to raise it: wardround node budget grant")
    if not yes:
        click.echo(_standing(before))
        click.confirm(f"Lower it to epsilon {epsilon:g}? Studies that want more are stopped.", abort=True)
    who = permitted(Path(folder), "grant_budget", "Budget", unit, person=person)
    budgets.grant(unit, epsilon, before.delta, person=who, reason=reason)
    status = budgets.status(unit)
    show(json_, status, _standing(status))


@budget.command()
@folder_argument("node")
@_unit_option
@as_json
def history(folder: str, unit: str, json_: bool) -> None:
    """List every entry of the ledger, from the first."""
    from wardround.node import setup

    entries = setup.open_budgets(Path(folder)).entries(unit)
    show(json_, entries, "\n".join(_line(entry) for entry in entries) or "The ledger is empty.")


@budget.command()
@folder_argument("node")
@click.argument("run")
@as_json
def free(folder: str, run: str, json_: bool) -> None:
    """Free what RUN has reserved and not spent, where its hub never says that it is over; it trains here no more."""
    from wardround.errors import ConfigError
    from wardround.node import setup

    budgets = setup.open_budgets(Path(folder))
    found = {one.run for unit in ("patient", "site") for one in budgets.status(unit).runs if one.run.startswith(run)}
    if len(found) != 1:
        raise ConfigError(
            f"{len(found)} runs of the ledger begin with {run!r}; `wardround node budget show` lists them"
        )
    name = found.pop()
    budgets.release(name)
    show(json_, {"run": name}, f"Run {name[:16]} has nothing reserved any more.")


def _standing(status: "BudgetStatus") -> str:
    if not status.entries:
        return f"No budget is granted {_OF_ALL[status.unit]}: no study with a guarantee of privacy runs here."
    return (
        f"Records: {status.dataset}. Granted: epsilon {status.epsilon:g} at delta {status.delta:g} "
        f"{_OF_ALL[status.unit]}.\n"
        f"Spent: epsilon {status.spent:.3g} ({status.spent_share:.1%} of the budget). "
        f"Reserved by running studies: {status.reserved:.3g} ({status.reserved_share:.1%}). "
        f"Left: {status.remaining:.3g} ({status.remaining_share:.1%}).\n"
        "The shares are what is enforced: epsilons grow fast at first, and slowly then.\n"
        f"Counted at Rényi order {status.order:g}; {status.entries} entries, the last {status.head[:16]}."
    )


def _runs(status: "BudgetStatus") -> list[str]:
    return [line for run in status.runs for line in _run(run)]


def _run(run: "RunSpending") -> list[str]:
    state = "running" if run.is_open else "over"
    name = f"{run.run[:16]}, attempt {run.run.rpartition('.')[2]}"
    return [
        f"Run {name}, {state}: epsilon {run.epsilon:.3g} by itself, {run.share:.1%} of the budget.",
        f"  Protected: {run.relation}.",
        *(f"  {use.kind}: {use.used} of {use.reserved} uses; {use.sampling}." for use in run.uses),
    ]


def _line(entry: "Entry") -> str:
    from wardround.privacy.ledger_entry import Committed, Granted, Released, Reserved

    match entry:
        case Granted():
            words = f"{entry.person} granted epsilon {entry.epsilon:g} at delta {entry.delta:g}: {entry.reason}"
        case Reserved():
            uses = ", ".join(f"{kind} x {use.count}" for kind, use in entry.uses.items())
            words = f"run {entry.run[:16]} reserved {uses}"
        case Committed():
            words = f"run {entry.run[:16]} spent {entry.kind}, {entry.key[:16]}"
        case Released():
            words = f"run {entry.run[:16]} is over"
    return f"{entry.seq:6}  {datetime.fromtimestamp(entry.at, UTC):%Y-%m-%d %H:%M:%S}  {words}"
