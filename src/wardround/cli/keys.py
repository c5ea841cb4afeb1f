"""`wardround keys`: the keys that seal a node's state at rest."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from wardround.cli.output import as_json, folder_argument, show

if TYPE_CHECKING:
    from wardround.storage.key_ring import KeyRing, RingStatus
    from wardround.storage.vault import SealedVault

__all__ = ["keys", "opened_ring", "opened_vault"]


@click.group()
def keys() -> None:
    """Show, rotate, back up and restore the keys that seal a node's state."""


@keys.command(name="show")
@folder_argument("node")
@as_json
def show_(folder: str, json_: bool) -> None:
    """Say which keys there are, what wraps them and how much each seals; no key is shown."""
    ring = opened_ring(Path(folder))
    status, sealed = ring.status(), _sealed(Path(folder), ring)
    value = {"status": status, "values": sealed[0], "files": sealed[1]}
    show(json_, value, "\n".join(_words(status, *sealed)))


@keys.command()
@folder_argument("node")
@click.option("--to", default="", help="Wrap under another store from now on: pkcs11:…, kms:… or file:….")
@as_json
def rotate(folder: str, to: str, json_: bool) -> None:
    """Make a new key-encryption key and data key, and wrap all data keys anew; no data is rewritten."""
    from wardround.cli.presenting import permitted
    from wardround.storage.key_ring import open_store

    place = Path(folder)
    permitted(place, "rotate_key", "Key", "state")
    ring = opened_ring(place)
    _record(place, "rotated")
    status = ring.rotate(to=open_store(to, place, os.environ) if to else None)
    words = f"Rotated: key {ring.current} seals from now on. Restart the node, so that it uses it."
    if to:
        words += (
            f"\nBoth stores open the ring now. Put this into node.toml: state_key = {to!r}; then rotate once more, and "
            "only the new store does."
        )
    if status.backup:
        words += f"\nThe shares of backup {status.backup} stay good; put the state folder into its next backup."
    show(json_, {"status": status}, words)


@keys.command()
@folder_argument("node")
@click.option("--shares", type=int, required=True, help="How many share files to write.")
@click.option("--threshold", type=int, required=True, help="How many of them open the ring together.")
@click.option("--to", "target", default="shares", show_default=True, help="Folder for the share files.")
@as_json
def backup(folder: str, shares: int, threshold: int, target: str, json_: bool) -> None:
    """Write share files, to be printed or kept apart; with the state folder, THRESHOLD of them restore its keys."""
    from wardround.cli.presenting import permitted
    from wardround.storage import key_shares
    from wardround.storage.key_file import write_durably
    from wardround.system import SystemClock, SystemEntropy

    permitted(Path(folder), "rotate_key", "Key", "backup")
    ring = opened_ring(Path(folder))
    recovery, made = key_shares.make(
        ring.tenant, shares=shares, threshold=threshold, draw=SystemEntropy().draw, now=SystemClock().now()
    )
    paths = []
    for share in made:
        path = Path(target) / f"{ring.tenant}-{recovery.id}-{share.number}-of-{share.shares}.share"
        write_durably(path, key_shares.text_of(share).encode())
        paths.append(str(path))
    # The shares are on the disk before the ring counts on them; older shares open it no more from here on.
    ring.back_up(recovery)
    words = (
        f"Backup {recovery.id}: {shares} shares, any {threshold} together. Give each to another person, and delete the "
        "files here.\n" + "\n".join(paths) + "\nThey open nothing without a backup of the state folder."
    )
    show(json_, {"backup": recovery.id, "shares": paths}, words)


@keys.command()
@folder_argument("node")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@as_json
def restore(folder: str, files: tuple[str, ...], json_: bool) -> None:
    """Open the key ring with share FILES, and wrap its keys under a new key of the store in the settings."""
    from wardround.node.setup import load_config
    from wardround.storage import key_shares
    from wardround.storage.key_ring import RING_NAME, open_store

    place = Path(folder)
    config = load_config(place)
    found = [key_shares.read(Path(name).read_text(errors="replace")) for name in files]
    store = open_store(config.state_key, place, os.environ)
    forged = key_shares.restore(place / config.state / RING_NAME, found, store, tenant=config.name)
    words = f"The keys of {config.name} are restored, under a new version of {store.name}."
    if forged:
        numbers = ", ".join(str(number) for number in sorted(forged))
        words += f"\nShares {numbers} are forged: ask who held them, and make a new backup."
    show(json_, {"store": store.name, "forged": sorted(forged)}, words)


@keys.command()
@folder_argument("node")
@click.option("--key", "number", type=int, default=None, help="Erase this data key: what it seals is lost for ever.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def destroy(folder: str, number: int | None, yes: bool, json_: bool) -> None:
    """Destroy key-encryption keys that nothing refers to; with --key, erase a data key and all that it seals."""
    from wardround.cli.presenting import permitted

    place = Path(folder)
    if number is None:
        permitted(place, "rotate_key", "Key", "state")
    else:
        permitted(place, "delete", "Key", f"data-{number}")
    ring = opened_ring(place)
    if number is None:
        gone = ring.destroy_versions()
        words = f"Destroyed versions of {ring.status().store}: {', '.join(map(str, gone)) or 'none'}."
        show(json_, {"destroyed": gone}, words)
        return
    values, files = _sealed(place, ring)
    if not yes:
        click.echo(f"Key {number} seals {values.get(number, 0)} values and {files.get(number, 0)} files.")
        click.confirm("They cannot be read by anyone afterwards. Erase it?", abort=True)
    _record(place, "destroyed")
    ring.erase(number)
    show(json_, {"erased": number}, f"Key {number} is erased, with what it sealed. Restart the node: it may hold it.")


def _record(folder: Path, change: Literal["rotated", "destroyed"]) -> None:
    from wardround.audit.entry import KeyChange
    from wardround.codec import canonical
    from wardround.node.setup import open_recording

    recording = open_recording(folder)
    try:
        name = canonical.digest(f"state key of {recording.config.name}".encode())
        recording.auditing.record(KeyChange(change, name, "state-key", holder=recording.config.name))
    finally:
        recording.auditing.close()


def opened_ring(folder: Path) -> "KeyRing":
    """The key ring of a node's folder.

    Raises:
        ConfigError: A setting or key is missing or wrong.
    """
    from wardround.node.setup import load_config
    from wardround.storage.key_ring import open_ring
    from wardround.system import SystemClock, private_folder

    config = load_config(folder)
    state = private_folder(folder / config.state)
    return open_ring(
        config.state_key, base=folder, state=state, tenant=config.name, environ=os.environ, clock=SystemClock()
    )


def opened_vault(folder: Path) -> "tuple[SealedVault, Path]":
    """The vault of a node's folder, and the folder of its state.

    Raises:
        ConfigError: A setting or key is missing or wrong.
    """
    from wardround.node.setup import load_config
    from wardround.storage.vault import SealedVault

    state = folder / load_config(folder).state
    return SealedVault(state / "node.sqlite", opened_ring(folder)), state


def _sealed(folder: Path, ring: "KeyRing") -> tuple[dict[int, int], dict[int, int]]:
    """How many values of the vault, and how many files, each key seals."""
    from wardround.node.setup import load_config
    from wardround.storage import sealed_file
    from wardround.storage.vault import SealedVault

    state = folder / load_config(folder).state
    vault = SealedVault(state / "node.sqlite", ring)
    values = vault.sealed_under()
    vault.close()
    files: dict[int, int] = {}
    for path in (state / "models").glob("memory-*"):
        if sealed_file.is_sealed(path):
            number = sealed_file.sealed_under(path)
            files[number] = files.get(number, 0) + 1
    return values, files


def _words(status: "RingStatus", values: dict[int, int], files: dict[int, int]) -> list[str]:
    lines = [f"The keys are kept by {status.store}."]
    if not status.has_ring:
        lines.append("There is no ring yet: the state key itself seals. `wardround keys rotate` makes one.")
    for key in status.keys:
        state = "erased" if key.is_erased else "seals now" if key.is_current else "opens"
        made = datetime.fromtimestamp(key.made_at, UTC).date().isoformat() if key.made_at else "with the node"
        wrapped = f", wrapped by {', '.join(key.versions)}" if key.versions else ""
        root = " (root)" if key.number == 0 else ""
        lines.append(
            f"  key {key.number}{root}: {state}, made {made}{wrapped}; "
            f"{values.get(key.number, 0)} values, {files.get(key.number, 0)} files"
        )
    if status.unused:
        lines.append(f"Versions that wrap nothing: {', '.join(map(str, status.unused))} (wardround keys destroy).")
    shares = f"{status.backup}: {status.shares} shares, any {status.threshold} together" if status.backup else "none"
    return [*lines, f"Backup: {shares}."]
