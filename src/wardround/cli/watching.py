"""A run, live on the terminal: where it is, and how the model does at each site."""

import time
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from wardround.errors import ConfigError
from wardround.ids import RunId
from wardround.protocol.messages import RunStatus
from wardround.sdk.client import Researcher

__all__ = ["follow", "wait_for_run"]

_SHOWN = ("auc", "accuracy", "c_index", "rmse", "brier")


def wait_for_run(researcher: Researcher, prefix: str) -> RunId:
    """The study's last run; waits until the sites have approved.

    Raises:
        ConfigError: The study ended without a run.
    """
    console = Console(stderr=True)
    with console.status("waiting for approvals …"):
        while True:
            status = researcher.status(prefix)
            if status.runs:
                return status.runs[-1]
            if status.phase != "proposed":
                raise ConfigError(f"the study is {status.phase}: {status.reason}")
            time.sleep(1.0)


def follow(statuses: Iterable[RunStatus]) -> None:
    """Show a table that grows with the run; at the end, one line that says how it ended."""
    console = Console()
    sites: dict[str, dict[str, Any]] = {}
    last: RunStatus | None = None
    with Live(console=console, refresh_per_second=8) as live:
        for status in statuses:
            last = status
            for event in status.events:
                if event["event"] == "update-accepted":
                    sites[str(event["site"])] = event
                elif event["event"] == "round-combined" and event.get("evaluation"):
                    sites["all sites"] = _pooled(event)
            live.update(_table(status, sites))
    if last is not None:
        console.print(f"run {last.run[:12]}…{last.run[-2:]} {last.phase}. {last.reason}")


def _table(status: RunStatus, sites: dict[str, dict[str, Any]]) -> Table:
    table = Table(title=f"round {status.round} of {status.rounds}: {status.phase}")
    names = [
        name
        for name in _SHOWN
        if any(name in ((event.get("evaluation") or {}).get("metrics") or {}) for event in sites.values())
    ]
    for heading in ("site", "round", "records", *names, "seconds"):
        table.add_column(heading, justify="left" if heading == "site" else "right")
    for site, event in sorted(sites.items()):
        metrics = (event.get("evaluation") or {}).get("metrics") or {}
        shown = [_number(metrics.get(name)) for name in names]
        table.add_row(site, str(event["number"]), str(event["records"]), *shown, f"{event['train_seconds']:.2f}")
    return table


def _pooled(event: dict[str, Any]) -> dict[str, Any]:
    """What is known of all sites together, where nothing is of one."""
    return {**event, "records": event["evaluation"]["records"], "train_seconds": 0.0}


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
