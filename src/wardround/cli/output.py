"""How commands print: tables and words for people, JSON for scripts, logs to standard error."""

import sys
from collections.abc import Callable, MutableMapping
from typing import Any

import click
import msgspec

__all__ = ["as_json", "configure_logs", "folder_argument", "show"]

FIELDS = frozenset(
    {"event", "level", "timestamp", "code", "reason", "run", "round", "wait_seconds", "exception", "what", "site"}
)
"""Every field that a log line may carry; anything else is dropped. No field holds a record's value."""


def as_json(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--json``."""
    return click.option("--json", "json_", is_flag=True, help="Print JSON for scripts.")(command)


def folder_argument(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the folder argument; its default and variable are named in the help."""
    return click.argument("folder", default=default, type=click.Path(file_okay=False), envvar="WARDROUND_FOLDER")


def show(json_: bool, value: object, words: str) -> None:
    """Print `value` as JSON, or `words`."""
    click.echo(msgspec.json.format(msgspec.json.encode(value)).decode() if json_ else words)


def configure_logs(*, json_: bool) -> None:
    """Log to standard error: an allow-list of fields, JSON or one readable line."""
    import structlog

    renderer: Any = structlog.processors.JSONRenderer() if json_ else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            _allowed,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _allowed(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {name: value for name, value in fields.items() if name in FIELDS}
