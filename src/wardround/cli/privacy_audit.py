"""`wardround audit privacy`, and `wardround node audit`: what a model tells of those on whom it was trained."""

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wardround.cli.output import as_json, folder_argument, show

if TYPE_CHECKING:
    from wardround.sdk.privacy_audit import PrivacyAudit

__all__ = ["node_audit", "privacy"]


def _attack_options(command: Callable[..., Any]) -> Callable[..., Any]:
    share = "Share of members that an attack may find at 0.1 % false positives [default: 0.1, or what epsilon allows]."
    for option in (
        click.option("--references", default=8, show_default=True, help="Reference models that the attack trains."),
        click.option("--most-found", type=click.FloatRange(0.0, 1.0), help=share),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("result", type=click.Path(exists=True, file_okay=False))
@click.option("--node", "node_", type=click.Path(exists=True, file_okay=False), help="Folder of a node: its records.")
@click.option("--package", type=click.Path(exists=True, dir_okay=False), help="Zip of the study code; it runs here.")
@click.option("--report", type=click.Path(dir_okay=False), help="HTML file [default: audit.html in RESULT].")
@_attack_options
@as_json
def privacy(
    result: str,
    node_: str | None,
    package: str | None,
    report: str | None,
    most_found: float | None,
    references: int,
    json_: bool,
) -> None:
    """Audit the model in RESULT, the folder that `wardround study fetch` wrote; exit with 1 when it fails.

    Checks the mechanism of differential privacy where the plan has one, and attacks gradients of made-up records; with
    --node it attacks the model with that site's records, too. Nothing leaves this machine. The report is written
    as HTML, and as JSON beside it.
    """
    from wardround.node import setup
    from wardround.sdk import privacy_audit

    read = privacy_audit.read_result(Path(result))
    table = None
    if node_ is not None:
        folder = Path(node_)
        records = setup.open_records(folder, setup.load_config(folder))
        table = setup.open_recording(folder).source(records, read.plan, purpose="audit").load(read.plan.data)
    found = privacy_audit.audit_privacy(
        read,
        table=table,
        package=Path(package).read_bytes() if package else b"",
        most_found=most_found,
        references=references,
        progress=_progress,
    )
    page = Path(report) if report else Path(result) / "audit.html"
    found.write(page)
    _show(found, page, json_=json_)


@click.command(name="audit")
@folder_argument("node")
@click.argument("study")
@click.option("--person", default=None, help="Who answers for the audit [default: the login name].")
@_attack_options
@as_json
def node_audit(
    folder: str, study: str, person: str | None, most_found: float | None, references: int, json_: bool
) -> None:
    """Audit the model of STUDY's last run with this site's records, and tell the hub whether it passed.

    The report stays here, in the node's state. Only the verdict and digests leave, signed, where the plan asks for
    audits. Exits with 1 when the audit fails: then the model is not released.
    """
    from wardround.node import setup
    from wardround.sdk import site_audit

    opened = setup.open_node(Path(folder))
    found = site_audit.audit_study(
        Path(folder),
        opened,
        setup.study_named(opened, study),
        person=person or getpass.getuser(),
        most_found=most_found,
        references=references,
        progress=_progress,
    )
    told = "The hub was told the verdict." if found.is_handed_in else "The plan asks for no audits: nobody was told."
    _show(found.audit, found.report, told, json_=json_)


def _show(found: "PrivacyAudit", page: Path, told: str = "", *, json_: bool) -> None:
    lines = [f"  {'ok  ' if check.passed else 'FAIL'}  {check.name}: {check.words}" for check in found.gate.checks]
    lines += ["", *found.words, f"The audit {'passed' if found.passed else 'FAILED'}: {page}", told]
    show(json_, {**found.document, "report": str(page), "digest": found.digest}, "\n".join(lines).strip("\n"))
    if not found.passed:
        raise SystemExit(1)


def _progress(words: str) -> None:
    click.echo(f"{words} …", err=True)
