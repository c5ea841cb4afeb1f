"""`wardround audit`: the privacy of a trained model, and the tamper-evident log."""

import click

from wardround.cli import audit_log
from wardround.cli.privacy_audit import privacy

__all__ = ["audit"]


@click.group()
def audit() -> None:
    """Audit what leaves and what happened: the privacy of a trained model, and the tamper-evident log."""


_COMMANDS = (
    privacy,
    audit_log.verify,
    audit_log.prove,
    audit_log.export,
    audit_log.disclosures,
    audit_log.siem_lines,
)
for _command in _COMMANDS:
    audit.add_command(_command)
