"""`wardround audit verify | prove | export | disclosures | siem`: the tamper-evident log, offline, from files alone."""

import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from wardround.audit import checkpoint as checkpoints
from wardround.audit import merkle, note, proof, siem, tile, verification, witness_policy
from wardround.audit.checkpoint import SignedCheckpoint
from wardround.audit.disclosure import Accounting, Disclosure
from wardround.audit.entry import MAX_MILLIS
from wardround.audit.tile import Read
from wardround.audit.verification import CHECKPOINT, POLICY, WITNESSED, LogReport
from wardround.audit.witness_policy import WitnessPolicy
from wardround.cli.output import as_json, show
from wardround.errors import AuditError, ConfigError
from wardround.storage import log_export

__all__ = ["disclosures", "export", "prove", "siem_lines", "verify"]

_MAX_BYTES = note.MAX_NOTE_BYTES
_OWN_KEYS = "The keys are the export's own: pin the log's with --key, or log and witnesses with --policy."


def _key_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--key", "keys", multiple=True, help="Verifier key of the log (name+ID+base64); may be repeated."),
        click.option("--policy", type=click.Path(exists=True, dir_okay=False), help="File: keys of log and witnesses."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("target", required=False, type=click.Path(exists=True))
@click.option("--proof", "proof_", type=click.Path(exists=True, dir_okay=False), help="Verify this tlog-proof instead.")
@click.option("--entry", type=click.Path(exists=True, dir_okay=False), help="The entry's bytes, if not in the proof.")
@click.option(
    "--against", multiple=True, type=click.Path(exists=True, dir_okay=False), help="A checkpoint you kept earlier."
)
@click.option("--origin", help="The log's name, where it is not its key's.")
@_key_options
@as_json
def verify(
    target: str | None,
    proof_: str | None,
    entry: str | None,
    against: tuple[str, ...],
    origin: str | None,
    keys: tuple[str, ...],
    policy: str | None,
    json_: bool,
) -> None:
    """Verify TARGET: an export, the folder of a log, hub or node, or a checkpoint; or one entry, with --proof.

    Exits with 1 where anything is wrong.

    Works on these files alone. A checkpoint or proof takes --key or --policy; an export brings keys along, which prove
    nothing until they are compared with keys from elsewhere.
    """
    if proof_ is not None:
        _verify_proof(Path(proof_), entry, target, keys, policy, origin, json_=json_)
        return
    if target is None:
        raise ConfigError("name an export, a log's folder or a checkpoint to verify, or give --proof")
    if _is_note(Path(target)):
        _verify_checkpoint(Path(target), keys, policy, origin, json_=json_)
        return
    with log_export.opened(_log_in(target)) as read:
        used, is_pinned = _policy(read, keys, policy)
        kept = [checkpoints.parse(_bytes(path)) for path in against]
        # A kept checkpoint counts only if the log signed it: otherwise anybody could accuse the log.
        for signed in kept:
            witness_policy.check_log(signed, used.logs, origin=None)
        report = verification.verify_log(read, used, origin=origin, against=kept)
    words = _words(report, used) + ([] if is_pinned else [_OWN_KEYS])
    _finish(json_, {**asdict(report), "pinned": is_pinned, "valid": not report.problems}, words, report.problems)


@click.command()
@click.argument("target", type=click.Path(exists=True))
@click.argument("index", type=click.IntRange(min=0))
@click.option("--out", type=click.Path(dir_okay=False), help="File [default: standard output].")
@_key_options
@as_json
def prove(target: str, index: int, out: str | None, keys: tuple[str, ...], policy: str | None, json_: bool) -> None:
    """Write a proof that entry INDEX is in the log TARGET (a tlog-proof): it carries the entry and verifies alone."""
    with log_export.opened(_log_in(target)) as read:
        used, _ = _policy(read, keys, policy)
        data = _proof(read, used, index)
    if out is None and not json_:
        click.echo(data, nl=False)
        return
    if out is not None:
        Path(out).write_bytes(data)
    show(json_, {"index": index, "out": out, "proof": data.decode()}, f"Entry {index} is proven by {out}.")


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.argument("out", type=click.Path())
@click.option("--policy", type=click.Path(exists=True, dir_okay=False), help="Keys [default: the log's own file].")
@as_json
def export(folder: str, out: str, policy: str | None, json_: bool) -> None:
    """Copy the log of FOLDER to OUT, a new .zip file or folder, for an auditor; the log may be in use."""
    log = _log_in(folder)
    text = _bytes(policy) if policy else _bytes(log / POLICY)
    size = log_export.write_export(log, Path(out), policy=text.decode("utf-8", "replace"))
    show(json_, {"entries": size, "out": out}, f"{size} entries were exported to {out}.")


@click.command()
@click.argument("target", type=click.Path(exists=True))
@click.option("--dataset", help="Only this dataset.")
@click.option("--study", help="Only this study, by its digest.")
@click.option("--since", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]), help="Only from here on, UTC.")
@_key_options
@as_json
def disclosures(
    target: str,
    dataset: str | None,
    study: str | None,
    since: datetime | None,
    keys: tuple[str, ...],
    policy: str | None,
    json_: bool,
) -> None:
    """Say who used which dataset of TARGET (an export or a log's folder), for what, when, and what left.

    The log is verified on the way; the accounting of one that does not verify is shown, and the exit code is 1.
    """
    first = 0 if since is None else int(since.replace(tzinfo=UTC).timestamp() * 1000)
    accounting = Accounting(dataset=dataset, study=study, since=first)
    with log_export.opened(_log_in(target)) as read:
        used, _ = _policy(read, keys, policy)
        report = verification.verify_log(read, used, seen=lambda _, entry: accounting.add(entry))
    lines = accounting.lines()
    words = [_line_words(line) for line in lines] or ["No disclosure is recorded."]
    value = {"disclosures": msgspec.to_builtins(lines), "problems": report.problems, "valid": not report.problems}
    _finish(json_, value, words, report.problems)


@click.command("siem")
@click.argument("target", type=click.Path(exists=True))
@click.option("--format", "form", type=click.Choice(["ocsf", "syslog"]), default="ocsf", show_default=True)
@click.option("--start", type=click.IntRange(min=0), default=0, show_default=True, help="First entry.")
@click.option("--json", "json_", is_flag=True, help="The same as --format ocsf: one JSON document for each line.")
def siem_lines(target: str, form: str, start: int, json_: bool) -> None:
    """Print entries of TARGET for a security operations centre: OCSF JSON lines, or syslog lines of RFC 5424.

    Each line carries the entry's index and leaf hash. Nothing is verified here: that is what `verify` does.
    """
    import importlib.metadata

    version = importlib.metadata.version("wardround")
    with log_export.opened(_log_in(target)) as read:
        signed = checkpoints.parse(_need(read, CHECKPOINT))
        origin, host = signed.checkpoint.origin, platform.node()
        for index, data in verification.read_entries(read, signed.checkpoint.size, start):
            if form == "syslog" and not json_:
                click.echo(siem.syslog(index, data, origin=origin, host=host))
            else:
                click.echo(msgspec.json.encode(siem.ocsf(index, data, origin=origin, version=version)).decode())


def _verify_checkpoint(
    path: Path, keys: tuple[str, ...], policy: str | None, origin: str | None, *, json_: bool
) -> None:
    used, _ = _policy(None, keys, policy)
    found = checkpoints.parse(_bytes(path))
    problems, signers = _signed_by(found, used, origin)
    head = found.checkpoint
    value = {
        "origin": head.origin,
        "size": head.size,
        "root": head.root.hex(),
        "witnesses": signers,
        "problems": problems,
        "valid": not problems,
    }
    words = [f"Checkpoint of {head.origin}: {head.size} entries, root {head.root.hex()}."]
    _finish(json_, value, [*words, f"Witnesses: {', '.join(signers) or 'none'}."], tuple(problems))


def _verify_proof(
    path: Path,
    entry: str | None,
    target: str | None,
    keys: tuple[str, ...],
    policy: str | None,
    origin: str | None,
    *,
    json_: bool,
) -> None:
    source: AbstractContextManager[Read | None] = (
        nullcontext() if target is None else log_export.opened(_log_in(target))
    )
    with source as read:
        used, is_pinned = _policy(read, keys, policy)
    given = proof.parse_proof(_bytes(path))
    data = given.entry if entry is None else _bytes(entry)
    if data is None:
        raise ConfigError("the proof does not carry its entry: give the entry's bytes with --entry")
    problems: list[str] = []
    signers: list[str] = []
    try:
        signed = proof.verify_entry(given, data)
        problems, signers = _signed_by(signed, used, origin)
    except AuditError as error:
        problems = [str(error)]
    text = data.decode("utf-8", "replace")
    value = {
        "index": given.index,
        "entry": text,
        "witnesses": signers,
        "pinned": is_pinned,
        "problems": problems,
        "valid": not problems,
    }
    words = [] if problems else [f"Entry {given.index} is in the log:", f"  {text}"]
    _finish(json_, value, words + ([] if is_pinned else [_OWN_KEYS]), tuple(problems))


def _signed_by(signed: SignedCheckpoint, used: WitnessPolicy, origin: str | None) -> tuple[list[str], list[str]]:
    inside, least = witness_policy.members(used)
    try:
        witness_policy.check_log(signed, used.logs, origin=origin)
        found = witness_policy.cosigners(signed, used)
    except AuditError as error:
        return [str(error)], []
    signers = [name for name in inside if name in found]
    few = f"too few witnesses: {len(signers)} of {len(inside)} signed, {least} are needed"
    return ([] if witness_policy.is_quorum(found, used) else [few]), signers


def _proof(read: Read, used: WitnessPolicy, index: int) -> bytes:
    chosen = _need(read, CHECKPOINT)
    witnessed = read(WITNESSED)
    if witnessed is not None and index < checkpoints.parse(witnessed).checkpoint.size:
        chosen = witnessed
    signed = checkpoints.parse(chosen)
    witness_policy.check_log(signed, used.logs, origin=None)
    size = signed.checkpoint.size
    hashes = merkle.inclusion_proof(index, size, tile.subtree_reader(read, size))
    entry = next(data for place, data in verification.read_entries(read, size, index) if place == index)
    made = proof.LogProof(index, tuple(hashes), chosen, entry)
    # What is written verifies, or is not written: a damaged log gives no proofs.
    proof.verify_entry(made, entry)
    return proof.format_proof(made)


def _policy(read: Read | None, keys: tuple[str, ...], policy: str | None) -> tuple[WitnessPolicy, bool]:
    """The keys that count, and whether they come from elsewhere than the log's own files."""
    own = read(POLICY) if read is not None and policy is None else None
    text = _bytes(policy) if policy is not None else own
    found = None if text is None else witness_policy.parse_policy(text.decode("utf-8", "replace"))
    if not keys:
        if found is None:
            raise ConfigError("no key of the log is known: give it with --key, or keys and witnesses with --policy")
        return found, policy is not None
    pinned = witness_policy.log_policy([note.parse_vkey(key) for key in keys], {})
    if found is None:
        return pinned, True
    lines = [line for line in witness_policy.format_policy(found).splitlines() if not line.startswith("log ")]
    return witness_policy.parse_policy("\n".join([*(f"log {key}" for key in pinned.logs), *lines])), True


def _words(report: LogReport, used: WitnessPolicy) -> list[str]:
    if not report.origin:
        return []
    inside, _ = witness_policy.members(used)
    words = [f"{report.origin}: {report.size} entries, root {report.root}."]
    if report.first_at is not None and report.last_at is not None:
        words.append(f"From {_instant(report.first_at)} to {_instant(report.last_at)}, by the log's own clock.")
    words += [f"  {count:>8}  {kind}" for kind, count in report.kinds.items()]
    if inside:
        names = f"{len(report.witnesses)} of {len(inside)} ({', '.join(report.witnesses) or 'none'})"
        words.append(f"Witnesses: {names}, {report.witnesses_needed} are needed.")
    if report.witnessed_at is not None:
        later = report.size - report.witnessed_size
        seen = _instant(report.witnessed_at * 1000)
        words.append(f"The first {report.witnessed_size} entries were witnessed at {seen}; {later} are newer.")
    return words


def _line_words(line: Disclosure) -> str:
    head = (
        f"{line.dataset}: {line.purpose}, study {line.study[:12] or '-'}, {_day(line.first_at)} to {_day(line.last_at)}"
    )
    read = f"{line.reads} reads of up to {line.records} records"
    left = f"{line.rounds} rounds, {line.bytes_left} bytes left, epsilon {line.epsilon:g}"
    basis = f"; {line.legal_basis}" if line.legal_basis else ""
    return f"{head}: {read}, {left}; by {', '.join(line.actors)}{basis}"


def _finish(json_: bool, value: object, words: list[str], problems: tuple[str, ...]) -> None:
    verdict = [f"WRONG: {problem}" for problem in problems] or ["Everything verifies."]
    show(json_, value, "\n".join([*words, *verdict]))
    if problems:
        raise SystemExit(1)


def _log_in(target: str) -> Path:
    """The log of a hub's or node's folder; anything else is a log, an export or a checkpoint itself."""
    place = Path(target)
    if (place / "hub.toml").is_file():
        return place / "state" / "log"
    if (place / "node.toml").is_file():
        from wardround.node import setup

        return place / setup.load_config(place).state / "log"
    return place


def _is_note(path: Path) -> bool:
    if path.is_dir():
        return False
    with path.open("rb") as file:
        return file.read(4) != b"PK\x03\x04"


def _bytes(path: str | Path) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({type(error).__name__})") from None
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path} is larger than {_MAX_BYTES} bytes")
    return data


def _need(read: Read, path: str) -> bytes:
    data = read(path)
    if data is None:
        raise AuditError(f"{path} is missing: this is no log, or it was cut off")
    return data


def _instant(millis: int) -> str:
    # A witness may claim any time; the year 9999 is the last that can be written.
    return (
        datetime.fromtimestamp(min(millis, MAX_MILLIS) / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    )


def _day(millis: int) -> str:
    return _instant(millis)[:10]
