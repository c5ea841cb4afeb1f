"""`wardround node left`: exactly what has left this hospital, message by message."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wardround.cli.output import as_json, folder_argument, show

if TYPE_CHECKING:
    from wardround.services.departures import Departure

__all__ = ["left"]

_SHOWN = 12


@click.command()
@folder_argument("node")
@click.option("--study", default="", help="Only this study, by its first characters.")
@click.option("--run", "run_", default="", help="Only this run, by its first characters.")
@click.option("--round", "number", type=int, default=None, help="Only this round.")
@as_json
def left(folder: str, study: str, run_: str, number: int | None, json_: bool) -> None:
    """List what left this site: when, what kind, how many bytes, and every count and metric that could be read."""
    from wardround.cli.keys import opened_vault
    from wardround.services.departures import Departures
    from wardround.storage.anchor import BudgetAnchor
    from wardround.system import SystemClock

    vault, state = opened_vault(Path(folder))
    try:
        book = Departures(vault=vault, clock=SystemClock(), anchor=BudgetAnchor(state))
        found = book.entries(study=study, run=run_, number=number)
        today = book.left_today()
    finally:
        vault.close()
    sent = [entry for entry in found if not entry.refused]
    total = (
        f"{len(sent)} messages and files of {sum(entry.bytes for entry in sent):,} bytes left; "
        f"{len(found) - len(sent)} were held back. Today: {today:,} bytes of everything."
    )
    show(json_, found, "\n".join([*(_line(entry) for entry in found), total]))


def _line(entry: "Departure") -> str:
    at = datetime.fromtimestamp(entry.at, UTC).isoformat(timespec="seconds")
    where = f" run {entry.run[:12]}.{entry.run.rpartition('.')[2]}" if entry.run else f" study {entry.study[:12]}"
    where = where if entry.run or entry.study else ""
    if entry.refused:
        return f"{entry.seq:6} {at} HELD BACK {entry.kind}{where}: {entry.refused}"
    seen = "masked" if entry.masked else "readable"
    words = f"{entry.seq:6} {at} {entry.kind}{where} round {entry.round}: {entry.bytes:,} bytes, {seen}"
    words += f", sha256 {entry.digest[:16]}, fields: {', '.join(entry.fields) or 'a file'}"
    numbers = [f"{name}={'none' if value is None else format(value, 'g')}" for name, value in entry.numbers.items()]
    more = len(numbers) - _SHOWN + entry.numbers_left_out
    tail = f" and {more} more (--json shows them)" if more > 0 else ""
    return words + (f"; {' '.join(numbers[:_SHOWN])}{tail}" if numbers else "")
