"""A code package: sources with a manifest, a lock, a bill of materials and signatures, in one zip.

    *.py                        the study's code
    wardround-package.toml      manifest     ┐
    wardround-package.lock      lock         │ all four or none: a bare package is sources alone,
    sbom.cdx.json               CycloneDX    │ which a site may refuse
    provenance.dsse.json        signatures   ┘

The package's digest, which a plan names and people approve, is the SHA-256 of the zip.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wardround.codec import canonical
from wardround.crypto import signing
from wardround.errors import PackageError
from wardround.ids import Digest
from wardround.provenance import archive, sbom, statement
from wardround.provenance import manifest as manifests
from wardround.provenance.manifest import Manifest, Pin

__all__ = ["ENVELOPE", "METADATA", "Package", "build", "is_source", "opened", "require_signers"]

_MANIFEST, _LOCK, _SBOM = "wardround-package.toml", "wardround-package.lock", "sbom.cdx.json"
ENVELOPE = "provenance.dsse.json"
METADATA = frozenset({_MANIFEST, _LOCK, _SBOM, ENVELOPE})
_SOURCE = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*/){0,8}[A-Za-z_][A-Za-z0-9_]*\.py")


@dataclass(frozen=True, slots=True)
class Package:
    """An opened package; `manifest` is None where it is sources alone, `signers` those whose keys were known."""

    digest: Digest
    sources: Mapping[str, bytes]
    manifest: Manifest | None
    pins: tuple[Pin, ...] = ()
    signers: frozenset[str] = frozenset()


def is_source(name: str) -> bool:
    """Whether a file of this name may be code in a package: a path of Python names that ends in ``.py``."""
    return _SOURCE.fullmatch(name) is not None


def build(
    sources: Mapping[str, bytes],
    manifest: Manifest,
    pins: tuple[Pin, ...],
    keys: Mapping[str, signing.PrivateKey],
) -> bytes:
    """A whole package's bytes; the same input gives the same bytes everywhere.

    Args:
        sources: Code by path.
        manifest: What the package is.
        pins: Exact versions of what it requires.
        keys: Who signs, by name.

    Raises:
        PackageError: A name or value that none may have, or a requirement that is not pinned.
    """
    _check_sources(sources)
    _check_pinned(manifest, pins)
    files = {
        **sources,
        _MANIFEST: manifests.render(manifest),
        _LOCK: manifests.render_lock(pins),
        _SBOM: sbom.create(manifest, pins, sources),
    }
    files[ENVELOPE] = statement.sign(statement.create(manifest, pins, files), keys)
    return archive.write(files)


def opened(data: bytes, keys: Mapping[str, signing.PublicKey]) -> Package:
    """Check a package from outside, and open it.

    Args:
        data: The zip.
        keys: Public keys by name: whose signatures are looked for.

    Raises:
        PackageError: Not a package, files that none may have, or a manifest, lock, bill of materials or signature
            that is not of these files.
        SignatureError: A signature under one of these names is not by that key.
    """
    files = archive.read(data)
    sources = {name: body for name, body in files.items() if name not in METADATA}
    digest = canonical.digest(data)
    _check_sources(sources)
    if not METADATA & files.keys():
        return Package(digest, sources, None)
    if missing := METADATA - files.keys():
        raise PackageError(f"the package lacks {', '.join(sorted(missing))}")
    manifest, pins = manifests.parse(files[_MANIFEST]), manifests.parse_lock(files[_LOCK])
    _check_pinned(manifest, pins)
    sbom.check(files[_SBOM], manifest, pins, sources)
    stated = {name: body for name, body in files.items() if name != ENVELOPE}
    signed = statement.create(manifest, pins, stated)
    return Package(digest, sources, manifest, pins, statement.signers(files[ENVELOPE], signed, keys))


def require_signers(package: Package, anyone_of: Iterable[Iterable[str]]) -> None:
    """Refuse a package that lacks a signature: of each group of names at least one must have signed.

    Raises:
        PackageError: Names the groups of which nobody has.
    """
    lacking = [sorted(group) for group in anyone_of if not package.signers & set(group)]
    if lacking:
        words = "; ".join(" or ".join(group) or "nobody known here" for group in lacking)
        raise PackageError(f"the package is not signed by {words}: ask its author to build it with their key")


def _check_sources(sources: Mapping[str, bytes]) -> None:
    if not sources:
        raise PackageError("a package holds at least one .py file")
    if not all(is_source(name) for name in sources):
        raise PackageError("a package holds .py files whose folders and names are Python names, and no other kind")


def _check_pinned(manifest: Manifest, pins: tuple[Pin, ...]) -> None:
    if missing := {manifests.normalized(name) for name in manifest.requires} - {pin.name for pin in pins}:
        raise PackageError(f"the package's lock does not pin {', '.join(sorted(missing))}")
