"""`wardround package`: build, look at, compare and allow study code."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wardround.cli.output import as_json, show

if TYPE_CHECKING:
    from wardround.node.setup import Node
    from wardround.provenance.package import Package

__all__ = ["package"]

_file = click.argument("file", type=click.Path(exists=True, dir_okay=False))
_node = click.option("--node", "node_", required=True, type=click.Path(exists=True, file_okay=False), help="The node.")
_researcher = click.option(
    "--folder", default="researcher", show_default=True, envvar="WARDROUND_RESEARCHER", help="The researcher's folder."
)
_advisories = click.option(
    "--advisories", type=click.Path(exists=True), help="Offline OSV database: a folder, or osv.dev's zip for PyPI."
)


@click.group()
def package() -> None:
    """Build, look at, compare and allow study code."""


@package.command()
@click.argument("sources", type=click.Path(exists=True, file_okay=False))
@click.option("--name", required=True, help="What all its versions are called: a-z, 0-9 and '-'.")
@click.option("--version", "version_", required=True, help="This version, such as 1.0.0.")
@click.option("--factory", required=True, help="module:function that makes the model.")
@click.option("--description", default="", help="One sentence.")
@click.option("--lock", type=click.Path(exists=True, dir_okay=False), help="Exact versions with hashes, as pip's.")
@click.option("--to", "target", required=True, type=click.Path(dir_okay=False), help="The zip to write.")
@_researcher
@as_json
def build(
    sources: str,
    name: str,
    version_: str,
    factory: str,
    description: str,
    lock: str | None,
    target: str,
    folder: str,
    json_: bool,
) -> None:
    """Pack the .py files below SOURCES, with manifest, lock, bill of materials and the researcher's signature.

    The same sources give the same bytes on every machine.
    """
    from wardround.codec import canonical
    from wardround.provenance import manifest as manifests
    from wardround.provenance import package as packages
    from wardround.sdk import client

    researcher = client.connect(folder)
    pins = manifests.parse_lock(Path(lock).read_bytes()) if lock else ()
    made = manifests.Manifest(
        name=name,
        version=version_,
        factory=factory,
        description=description,
        requires=tuple(pin.name for pin in pins),
    )
    root = Path(sources)
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.py"))}
    data = packages.build(files, made, pins, {researcher.config.name: researcher.key})
    with Path(target).open("xb") as file:
        file.write(data)
    digest = canonical.digest(data)
    show(json_, {"package": target, "digest": digest, "files": len(files)}, f"{target}\ndigest {digest}")


@package.command(name="show")
@_file
@_advisories
@as_json
def show_(file: str, advisories: str | None, json_: bool) -> None:
    """Say what is in the package FILE, what it reaches for, and what is known of its libraries."""
    from wardround.provenance import package as packages

    opened = packages.opened(Path(file).read_bytes(), {})
    document, lines = _described(opened, advisories)
    show(json_, document, "\n".join([*lines, "Signatures were not checked: `wardround package review` does."]))


@package.command()
@click.argument("old", type=click.Path(exists=True, dir_okay=False))
@click.argument("new", type=click.Path(exists=True, dir_okay=False))
@as_json
def diff(old: str, new: str, json_: bool) -> None:
    """Show what changed from the package OLD to the package NEW."""
    from wardround.provenance import difference
    from wardround.provenance import package as packages

    before, after = (packages.opened(Path(path).read_bytes(), {}) for path in (old, new))
    lines = difference.of_packages(before, after)
    show(json_, {"old": before.digest, "new": after.digest, "lines": lines}, "\n".join(lines) or "Nothing changed.")


@package.command()
@click.argument("study")
@_node
@_advisories
@as_json
def review(study: str, node_: str, advisories: str | None, json_: bool) -> None:
    """Fetch the code of STUDY, check its signatures, and show it beside what this site allowed last."""
    from wardround.node import code
    from wardround.provenance import difference

    opened = _open(node_)
    found = code.fetch(opened, study)
    document, lines = _described(found.package, advisories)
    before = code.last_approved(opened, found.package)
    changed = difference.of_packages(before, found.package)
    beside = f"Beside {before.digest[:16]}…, which this site allowed last:" if before else "All of it is new here:"
    said = [f"  {one.person}: {one.verdict}" for one in opened.code.reviews(found.package.digest)]
    missing = opened.code.missing(found.package.digest)
    state = "It may run here." if not missing else f"{missing} more people must approve it before it may run here."
    text = [*lines, "", beside, *changed, "", *(["Reviews"] if said else []), *said, state]
    document |= {"diff": changed, "missing": missing, "researcher": found.researcher}
    show(json_, document, "\n".join(text))


def _decision(verdict: Any, words: str) -> None:
    @package.command(name=verdict, help=words)
    @click.argument("study")
    @_node
    @_advisories
    @click.option("--person", default=None, help="Who decides, where people do not log in [default: the login name].")
    @as_json
    def decide(study: str, node_: str, advisories: str | None, person: str | None, json_: bool) -> None:
        from wardround.cli.presenting import present
        from wardround.node import code

        opened = _open(node_)
        done = code.decide(
            opened,
            study,
            verdict,
            person=present(
                Path(node_), "refuse" if verdict == "refuse" else "approve-code", about=study, person=person
            ),
            advisories=Path(advisories) if advisories else None,
        )
        missing = opened.code.missing(done.package)
        state = "it may run here" if not missing else f"{missing} more people must approve it"
        show(json_, {"review": done, "missing": missing}, f"{verdict}: {done.package[:16]}…; {state}.")


_decision("approve", "Allow the code of STUDY, as one of the people whom this site's policy asks for.")
_decision("refuse", "Refuse the code of STUDY at this site; it stops at once.")


@package.command()
@_file
@click.option("--to", "target", required=True, type=click.Path(dir_okay=False), help="The bundle to write.")
@_researcher
@as_json
def export(file: str, target: str, folder: str, json_: bool) -> None:
    """Write the package FILE as one signed bundle, to be carried to a machine without a network."""
    from wardround.sdk import carrying, client

    index = carrying.export_package(
        client.connect(folder), client.own_certificate(Path(folder)), Path(file), Path(target)
    )
    show(json_, index, target)


@package.command(name="import")
@_file
@click.option(
    "--authority", required=True, type=click.Path(exists=True, dir_okay=False), help="The federation's authority, PEM."
)
@click.option("--to", "target", required=True, type=click.Path(file_okay=False), help="A new folder.")
@as_json
def import_(file: str, authority: str, target: str, json_: bool) -> None:
    """Check the bundle FILE wholly, of a package or of a study, and unpack it into a new folder."""
    from wardround.protocol import policy
    from wardround.sdk import carrying

    with carrying.opened(Path(file), Path(authority).read_bytes()) as carried:
        made = carrying.unpack(carried, Path(target))
        words = policy.explain(carried.plan) if carried.plan else []
        document = {"index": carried.index, "files": [path.name for path in made], "words": words}
        lines = [f"Exported by {carried.index.exporter}.", *(f"  - {line}" for line in words), *map(str, made)]
    show(json_, document, "\n".join(lines))


def _described(opened: "Package", database: str | None) -> tuple[dict[str, object], list[str]]:
    from wardround.node import advisories
    from wardround.provenance import inspection
    from wardround.provenance.difference import escaped

    manifest, reached = opened.manifest, inspection.findings(opened.sources)
    lines = [
        f"Package {opened.digest}",
        f"  {manifest.name} {manifest.version}: {manifest.description}" if manifest else "  sources alone: no manifest",
        f"  {len(opened.sources)} files, {sum(map(len, opened.sources.values())):,} bytes; signed by "
        + (", ".join(sorted(opened.signers)) or "nobody whose key is known here"),
        f"  pins {len(opened.pins)} libraries",
        "What it reaches for (where to read first; this is no boundary, the sandbox is):",
        *(f"  {escaped(one.file)}:{one.line}  {one.kind}: {one.name}" for one in reached),
        *([] if reached else ["  nothing that is on the list"]),
    ]
    document: dict[str, object] = {
        "digest": opened.digest,
        "manifest": manifest,
        "pins": opened.pins,
        "signers": sorted(opened.signers),
        "findings": reached,
        "weaknesses": None,
    }
    if database is None:
        lines.append("Known weaknesses of its libraries: not looked up, no advisory database given (--advisories).")
    else:
        weak, count = advisories.look_up(opened.pins, Path(database))
        document["weaknesses"] = weak
        lines.append(f"Known weaknesses of its libraries, of {count:,} records: {len(weak)}")
        lines += [f"  {one.library} {one.version}: {one.advisory} {escaped(one.summary)[:200]}" for one in weak]
    return document, lines


def _open(folder: str) -> "Node":
    from wardround.node import setup

    return setup.open_node(Path(folder))
