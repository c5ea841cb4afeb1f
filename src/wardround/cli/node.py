"""`wardround node`: make and run a hospital's node, and decide about studies."""

import signal
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wardround.cli.budget import budget
from wardround.cli.left import left
from wardround.cli.output import as_json, configure_logs, folder_argument, show
from wardround.cli.privacy_audit import node_audit

if TYPE_CHECKING:
    from wardround.node.agent import Agent
    from wardround.node.setup import Node
    from wardround.services.approvals import Verdict

__all__ = ["node"]

_PEOPLE = "Whether whoever approves here must log in with an account of this node, or is believed a name."


@click.group()
def node() -> None:
    """Run a hospital's node."""


node.add_command(budget)
node.add_command(node_audit)
node.add_command(left)


@node.command()
@folder_argument("node")
@click.option("--invite", "line", required=True, help="The line that the hub's operator handed over.")
@click.option("--people", type=click.Choice(["local", "none"]), default="local", show_default=True, help=_PEOPLE)
@as_json
def enrol(folder: str, line: str, people: str, json_: bool) -> None:
    """Make a node in FOLDER: its own keys, a certificate from the hub, settings and an example mapping."""
    from wardround.node import setup

    config = setup.enrol(Path(folder), line, people=people)
    words = (
        f"Enrolled {config.name} at {config.hub}. The private key was made here and has not left {folder}.\n"
        f"Next: say where the records are in {folder}/mapping.toml, then: wardround node run {folder}"
    )
    show(json_, {"name": config.name, "hub": config.hub}, words)


@node.command(name="rotate-key")
@folder_argument("node")
@click.option("--invite", "line", default="", help="A new invite, where the certificate ended too long ago to renew.")
@as_json
def rotate_key(folder: str, line: str, json_: bool) -> None:
    """Take another key for connections now; the node may go on running, and its signatures stay valid."""
    from wardround.node import setup

    expires = datetime.fromtimestamp(setup.rotate_key(Path(folder), line), UTC)
    text = f"Connections have a new key. Its certificate ends on {expires:%Y-%m-%d %H:%M} UTC and renews itself."
    show(json_, {"expires": expires.timestamp()}, text)


@node.command()
@folder_argument("node")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False))
@as_json
def officers(folder: str, file: str | None, json_: bool) -> None:
    """Show whose signatures make a roster here; with FILE, follow a change that enough of them have signed."""
    from wardround.node.officers import follow_officers, officers_of
    from wardround.node.setup import load_config

    config = load_config(Path(folder))
    found = officers_of(Path(folder), config) if file is None else follow_officers(Path(folder), config, Path(file))
    keys = [key.hex() for key in found.officers]
    text = "\n".join(
        [f"{found.quorum} of these {len(keys)} sign (change {found.number}):", *(f"  {key}" for key in keys)]
    )
    if file is not None:
        text += "\nA node that is running follows once it is started again."
    show(json_, {"number": found.number, "officers": keys, "quorum": found.quorum}, text)


@node.command()
@folder_argument("node")
@as_json
def card(folder: str, json_: bool) -> None:
    """Hand this site's public keys to the hub, and print the fingerprint to read to the roster's officers."""
    from wardround.node import setup
    from wardround.sdk import rosters

    setup.make_agreement_key(Path(folder))
    opened = setup.open_node(Path(folder))
    mine = opened.membership.card
    opened.hub.put_card(mine)
    text = f"The card of {mine.site} is at the hub. Its fingerprint, for the telephone:\n  {rosters.fingerprint(mine)}"
    show(json_, {"site": mine.site, "fingerprint": rosters.fingerprint(mine)}, text)


@node.command()
@folder_argument("node")
@click.argument("run_")
@as_json
def verify(folder: str, run_: str, json_: bool) -> None:
    """Check the signed transcripts of a secure run: that all saw one list, and that this site's vector is in it."""
    from wardround.node import setup, verifying

    opened = setup.open_node(Path(folder))
    found = verifying.verify(opened, run_)
    lines = [f"round {one.number}, cohort {one.cohort}: {one.finding}" for one in found]
    show(json_, found, "\n".join(lines) or "This run has opened no cohort.")
    if not all(one.holds for one in found):
        raise SystemExit(1)


@node.command()
@folder_argument("node")
@click.option("--log-json", is_flag=True, help="Log as JSON.")
def run(folder: str, log_json: bool) -> None:
    """Run the node: wait for tasks of approved studies and perform them, until stopped."""
    from wardround.node import setup

    configure_logs(json_=log_json)
    opened = setup.open_node(Path(folder), progress=_log_progress)
    _hand_in_card(opened)
    agent, told = opened.agent(), list[int]()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda number, _: told.append(number))
    click.echo(f"{opened.config.name} waits for tasks from {opened.config.hub}. Stop with Ctrl-C.", err=True)
    # The agent has a thread of its own, so that a signal interrupts nothing that others wait for.
    failed: list[BaseException] = []
    working = threading.Thread(target=_working, args=(agent, failed), daemon=True, name="agent")
    working.start()
    while working.is_alive() and not told:  # no lock of ours: the handler runs in the middle of whatever waits
        working.join(0.2)
    agent.stop()
    opened.participant.close()
    opened.guarded.close()
    opened.recording.auditing.close()
    opened.hub.close()
    if failed:
        raise failed[0]


def _working(agent: "Agent", failed: list[BaseException]) -> None:
    try:
        agent.run()
    except BaseException as error:  # noqa: BLE001, the main thread raises it
        failed.append(error)


@node.command()
@folder_argument("node")
@click.argument("study", required=False)
@as_json
def review(folder: str, study: str | None, json_: bool) -> None:
    """List the studies that ask this site; with STUDY (or its first characters), show what it will do."""
    from wardround.node import setup

    opened = setup.open_node(Path(folder))
    if study is None:
        found, name = opened.hub.studies(), opened.config.name
        lines = [
            f"{status.study[:16]}  {status.phase:10} {status.decisions.get(name) or 'undecided':10} {status.title}"
            for status in found
        ]
        show(json_, found, "\n".join(lines) or "No study asks this site.")
        return
    identifier = setup.study_named(opened, study)
    plan, words, objections = opened.approvals.review(identifier)
    text = "\n".join([f"Study {identifier}", *(f"  - {line}" for line in words)])
    if objections:
        text += "\nThis site's policy does not allow it:\n" + "\n".join(f"  ! {line}" for line in objections)
    show(json_, {"study": identifier, "plan": plan, "words": words, "objections": objections}, text)


@node.command(name="forget-person")
@folder_argument("node")
@click.argument("name")
@as_json
def forget_person(folder: str, name: str, json_: bool) -> None:
    """Destroy the key of the person NAME's pseudonym: the audit log stays whole, and names them no more."""
    from wardround.node import setup
    from wardround.services.audit_trail import Person

    found = setup.open_recording(Path(folder)).auditing.forget(Person(name))
    show(json_, {"pseudonym": found}, f"{found} is nobody any more." if found else "The audit log does not know them.")


def _decision(verdict: "Verdict", words: str) -> Any:
    @node.command(name=verdict, help=words)
    @folder_argument("node")
    @click.argument("study")
    @click.option("--reason", default="", help="Kept with the decision.")
    @click.option("--person", default=None, help="Who decides, where people do not log in [default: the login name].")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @as_json
    def decide(folder: str, study: str, reason: str, person: str | None, yes: bool, json_: bool) -> None:
        from wardround.cli.presenting import present
        from wardround.node import setup

        opened = setup.open_node(Path(folder))
        identifier = setup.study_named(opened, study)
        _, lines, objections = opened.approvals.review(identifier)
        if not yes:
            click.echo("\n".join(["", *(f"  - {line}" for line in lines), *(f"  ! {line}" for line in objections), ""]))
            click.confirm(f"{verdict.capitalize()} this study for {opened.config.name}?", abort=True)
        who = present(Path(folder), verdict, about=identifier, person=person)
        status = opened.approvals.decide(identifier, verdict, person=who, reason=reason)
        show(json_, status, f"{verdict}: {status.title} is now {status.phase}.")

    return decide


approve = _decision("approve", "Let this site take part in STUDY, after showing what it will do.")
refuse = _decision("refuse", "Refuse STUDY for this site.")
withdraw = _decision("withdraw", "Take this site's approval of STUDY back; it is asked no more.")


@node.command()
@folder_argument("node")
@click.argument("study")
@as_json
def check(folder: str, study: str, json_: bool) -> None:
    """Read the records as STUDY's data contract asks, and print counts; nothing leaves this machine."""
    import numpy as np

    from wardround.node import setup

    opened = setup.open_node(Path(folder))
    plan, _, _ = opened.approvals.review(setup.study_named(opened, study))
    records = setup.open_records(Path(folder), opened.config)
    table = opened.recording.source(records, plan, purpose="preview").load(plan.data)
    report = table.report
    held_out = int(np.count_nonzero(table.held_out))
    owners = f" of {report.patients} patients" if plan.data.patient else ""
    lines = [
        f"{report.read} records read, {report.used} used{owners} ({held_out} held out), {report.dropped} dropped.",
        *(f"  {name}: {count} missing" for name, count in report.missing.items() if count),
        *(f"  {name}: {count} outside the plausible range" for name, count in report.implausible.items() if count),
    ]
    show(json_, {"report": report, "held_out": held_out}, "\n".join(lines))


@node.command()
@folder_argument("node")
@click.argument("study")
@click.option("--to", "target", default="own-model.safetensors", show_default=True, help="File to write.")
@as_json
def model(folder: str, study: str, target: str, json_: bool) -> None:
    """Write this site's own model of STUDY: what its patients alone taught it beside the global one."""
    from wardround.errors import NotFoundError
    from wardround.node import setup

    opened = setup.open_node(Path(folder))
    data = setup.own_model(Path(folder), opened, setup.study_named(opened, study))
    if not data:
        raise NotFoundError("this site has no own model of this study: its plan asks for none, or it has not run")
    Path(target).write_bytes(data)
    show(json_, {"model": target, "bytes": len(data)}, target)


def _hand_in_card(opened: "Node") -> None:
    """So that a roster can be drafted; without an answer the node runs all the same."""
    import structlog

    from wardround.errors import WardroundError

    try:
        opened.hub.put_card(opened.membership.card)
    except WardroundError as error:
        structlog.get_logger("wardround.node").info("card not handed in", code=error.code)


def _log_progress(what: str, task: Any) -> None:
    import structlog

    structlog.get_logger("wardround.node").info(what, run=task.run[:12], round=task.number)
