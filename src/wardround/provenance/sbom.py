"""A package's bill of materials: every file and every pinned library, in CycloneDX 1.6 JSON.

It is a function of the package, so that checking it is making it again: nothing in it can be left out or added.

References:
    ECMA-424, CycloneDX Bill of Materials, version 1.6.
    https://github.com/package-url/purl-spec, type pypi.
"""

import hashlib
import hmac
from collections.abc import Mapping

import msgspec

from wardround.errors import PackageError
from wardround.provenance.manifest import Manifest, Pin

__all__ = ["check", "create"]

_PACKAGE = "package"


def create(manifest: Manifest, pins: tuple[Pin, ...], sources: Mapping[str, bytes]) -> bytes:
    """The document, as JSON with sorted keys.

    Args:
        manifest: What the package says of itself.
        pins: Its lock.
        sources: Its source files by name.
    """
    files = [
        {
            "type": "file",
            "bom-ref": f"file:{name}",
            "name": name,
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(sources[name]).hexdigest()}],
        }
        for name in sorted(sources)
    ]
    libraries = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{pin.name}@{pin.version}",
            "name": pin.name,
            "version": pin.version,
            "purl": f"pkg:pypi/{pin.name}@{pin.version}",
            "scope": "required",
            "hashes": [{"alg": "SHA-256", "content": digest} for digest in pin.hashes],
        }
        for pin in sorted(pins)
    ]
    references = [str(component["bom-ref"]) for component in (*files, *libraries)]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": _PACKAGE,
                "name": manifest.name,
                "version": manifest.version,
                "description": manifest.description,
            }
        },
        "components": [*files, *libraries],
        "dependencies": [
            {"ref": _PACKAGE, "dependsOn": references},
            *({"ref": reference, "dependsOn": []} for reference in references),
        ],
    }
    content = msgspec.json.encode(document, order="sorted")
    document["serialNumber"] = _serial_number(content)
    return msgspec.json.encode(document, order="sorted")


def check(document: bytes, manifest: Manifest, pins: tuple[Pin, ...], sources: Mapping[str, bytes]) -> None:
    """Refuse a bill of materials that is not the package's.

    Raises:
        PackageError: It lists something else than what is there.
    """
    if not hmac.compare_digest(document, create(manifest, pins, sources)):
        raise PackageError("the package's bill of materials is not of its files and its lock: build it again")


def _serial_number(content: bytes) -> str:
    # RFC 9562, section 5.8: a UUID of version 8 may follow from whatever its maker chooses; here from the content.
    raw = bytearray(hashlib.sha256(content).digest()[:16])
    raw[6], raw[8] = raw[6] & 0x0F | 0x80, raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"urn:uuid:{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
