"""`wardround study`: a researcher's studies."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wardround.cli.output import as_json, show

if TYPE_CHECKING:
    from wardround.protocol.messages import StudyStatus
    from wardround.sdk.client import Researcher
    from wardround.sdk.study import Study
    from wardround.sdk.utility import Point

__all__ = ["study"]

_REPEATS = 3

_folder = click.option(
    "--folder",
    default="researcher",
    show_default=True,
    envvar="WARDROUND_RESEARCHER",
    help="The researcher's folder [env var: WARDROUND_RESEARCHER].",
)


@click.group()
def study() -> None:
    """Declare, submit, watch and fetch studies."""


@study.command()
@click.option("--invite", "line", required=True, help="The line that the hub's operator handed over.")
@_folder
@as_json
def enrol(line: str, folder: str, json_: bool) -> None:
    """Make a researcher's folder: own keys, and a certificate from the hub."""
    from wardround.sdk import client

    config = client.enrol(Path(folder), line)
    show(json_, {"name": config.name, "hub": config.hub}, f"Enrolled {config.name} at {config.hub}.")


@study.command(name="rotate-key")
@click.option("--invite", "line", default="", help="A new invite, where the certificate ended too long ago to renew.")
@_folder
@as_json
def rotate_key(line: str, folder: str, json_: bool) -> None:
    """Take another key for connections now; signed plans stay as they are."""
    from wardround.sdk import client

    expires = client.rotate_key(Path(folder), line)
    show(json_, {"expires": expires}, "Connections have a new key. Its certificate is renewed by any command in time.")


@study.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--researcher", default="researcher", help="Name to declare it under.")
@click.option("--epsilon", type=float, help="Also print the noise that a private plan needs for this epsilon.")
@click.option("--utility", type=click.Path(dir_okay=False), help="HTML file: utility against epsilon, on made-up data.")
@click.option("--records", default=200, show_default=True, help="With --utility: made-up records at each site.")
@as_json
def check(file: str, researcher: str, epsilon: float | None, utility: str | None, records: int, json_: bool) -> None:
    """Read a study file, and print what its plan will do, as every approver will see it.

    Of a private plan, also what its guarantee is, and what a site's steward must grant. No site is asked.
    """
    from wardround.protocol import policy
    from wardround.sdk import planning
    from wardround.sdk import study as studies

    declared = studies.from_toml(Path(file).read_text(), researcher)
    words = policy.explain(declared.plan)
    figures = planning.figures(declared.plan, epsilon)
    privacy = planning.privacy_words(declared.plan, figures)
    lines = [
        f"Study {declared.id}",
        *(f"  - {line}" for line in words),
        "Privacy",
        *(f"  - {line}" for line in privacy),
    ]
    document = {"study": declared.id, "plan": declared.plan, "words": words}
    document |= {"privacy": figures, "privacy_words": privacy}
    if utility is not None:
        points = _curve(declared, privacy, utility, epsilon, records)
        document["utility"] = points
        lines += ["", f"Utility on made-up records against epsilon: see {utility}"]
    show(json_, document, "\n".join(lines))


def _curve(declared: "Study", guarantee: list[str], file: str, epsilon: float | None, records: int) -> "list[Point]":
    """Try the plan on made-up records, and write the page; progress goes to standard error."""
    from wardround.sdk import utility, utility_page

    asked = sorted({*utility.EPSILONS, *([epsilon] if epsilon is not None else [])})
    points = utility.utility_curve(
        declared,
        asked,
        records=records,
        repeats=_REPEATS,
        progress=lambda words: click.echo(f"{words} …", err=True),
    )
    page = utility_page.curve_page(declared.plan, points, guarantee, records=records, repeats=_REPEATS)
    Path(file).write_text(page, encoding="utf-8")
    return points


@study.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@_folder
@as_json
def submit(file: str, folder: str, json_: bool) -> None:
    """Sign the plan of a study file and propose it to the hub."""
    from wardround.sdk import study as studies

    researcher = _connect(folder)
    declared = studies.from_toml(Path(file).read_text(), researcher.config.name)
    status = researcher.submit(declared)
    show(json_, status, f"{status.study}\n{status.title}: {status.phase}; waiting for {', '.join(status.decisions)}")


@study.command(name="list")
@_folder
@as_json
def list_(folder: str, json_: bool) -> None:
    """List the researcher's studies and what each site decided."""
    found = _connect(folder).studies()
    lines = [
        f"{status.study[:16]}  {status.phase:10} {status.title}  "
        + ", ".join(f"{site}: {verdict or 'undecided'}" for site, verdict in status.decisions.items())
        + (f"  audits, {status.audits_needed} needed: {_audits(status)}" if status.audits_needed else "")
        + (f"  ({status.reason})" if status.reason else "")
        for status in found
    ]
    show(json_, found, "\n".join(lines) or "No studies yet.")


@study.command()
@click.argument("prefix", metavar="STUDY")
@_folder
@as_json
def watch(prefix: str, folder: str, json_: bool) -> None:
    """Follow STUDY's run live until it ends."""
    import msgspec

    from wardround.cli import watching

    researcher = _connect(folder)
    run = watching.wait_for_run(researcher, prefix)
    if json_:
        for status in researcher.watch(run):
            for event in status.events:
                click.echo(msgspec.json.encode(event).decode())
        return
    watching.follow(researcher.watch(run))


def _action(name: Any, words: str) -> None:
    @study.command(name=name, help=words)
    @click.argument("prefix", metavar="STUDY")
    @click.option("--reason", default="", help="Kept with the study.")
    @_folder
    @as_json
    def act(prefix: str, reason: str, folder: str, json_: bool) -> None:
        from wardround.cli.presenting import speaks_for

        researcher = _connect(folder)
        speaks_for(researcher.hub, researcher.config.hub_public or researcher.config.hub)
        status = researcher.act(researcher.status(prefix).study, name, reason)
        show(json_, status, f"{status.title}: {status.phase}")


_action("start", "Start STUDY with the sites that approved so far.")
_action("release", "Release the evaluated STUDY's model.")
_action("withdraw", "Take STUDY back; its run stops.")


@study.command()
@click.argument("prefix", metavar="STUDY")
@click.option("--to", "target", required=True, type=click.Path(dir_okay=False), help="The bundle to write.")
@_folder
@as_json
def export(prefix: str, target: str, folder: str, json_: bool) -> None:
    """Write STUDY with all that its plan names as one signed bundle, for a machine without a network."""
    from wardround.sdk import carrying, client

    researcher = _connect(folder)
    study_id = researcher.status(prefix).study
    index = carrying.export_study(researcher, client.own_certificate(Path(folder)), study_id, Path(target))
    show(json_, index, target)


@study.command()
@click.argument("prefix", metavar="STUDY")
@click.option("--to", "target", default="result", show_default=True, help="Folder to write to.")
@_folder
@as_json
def fetch(prefix: str, target: str, folder: str, json_: bool) -> None:
    """Download STUDY's model, global statistics and plan, and write a report of its run."""
    from wardround.sdk import report
    from wardround.sdk.evidence import evidence

    researcher = _connect(folder)
    status = researcher.status(prefix)
    if not status.runs:
        raise click.ClickException("the study has no run yet")
    run = status.runs[-1]
    model = researcher.fetch(run, Path(target))
    page = Path(target) / "report.html"
    events = [event for part in researcher.watch_past(run) for event in part.events]
    plan, findings = researcher.findings(run)
    found = evidence(plan, events, findings)
    (Path(target) / "report.json").write_text(json.dumps(found, indent=1, sort_keys=True), encoding="utf-8")
    page.write_text(report.run_page(status.title, events, found), encoding="utf-8")
    words = "\n".join([*found["advice"], str(model), str(page)])
    show(json_, {"model": str(model), "report": str(page), "advice": found["advice"]}, words)


def _audits(status: "StudyStatus") -> str:
    return ", ".join(f"{site}: {verdict or 'not yet'}" for site, verdict in status.audits.items()) or "no run yet"


def _connect(folder: str) -> "Researcher":
    from wardround.sdk import client

    return client.connect(Path(folder))
