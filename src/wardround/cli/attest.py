"""`wardround attest`: verify a machine's evidence offline, and keep the collateral that this takes."""

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from wardround.cli.output import as_json, show
from wardround.errors import ConfigError

if TYPE_CHECKING:
    from wardround.attestation.collateral import AmdCollateral, SignedBundle
    from wardround.attestation.reference import ReferenceValues

__all__ = ["attest"]

_MAX_FILE_BYTES = 8 * 1024 * 1024
_DAY_SECONDS = 86400
_AMD_PARTS = ("ark", "ask", "asvk", "vcek-crl", "vlek-crl")
_PAIR = re.compile(r"([A-Za-z0-9][A-Za-z0-9./_-]{0,127})=(.+)")
_existing = click.Path(exists=True, dir_okay=False)
_file = click.argument("file", type=click.Path(dir_okay=False))


@click.group()
def attest() -> None:
    """Check what machines prove about themselves, without a network."""


@attest.command()
@click.argument("evidence", type=_existing)
@click.option("--reference", required=True, type=_existing, help="What is accepted: reference values, JSON or TOML.")
@click.option("--collateral", required=True, type=_existing, help="The officers' signed bundle.")
@click.option("--officer", "officers", multiple=True, help="An officer's public key (hexadecimal); may be repeated.")
@click.option("--quorum", type=click.IntRange(1), help="How many of them must have signed [default: all].")
@click.option("--unsigned", is_flag=True, help="Accept a bundle that nobody vouches for.")
@click.option("--report-data", help="The 64 bytes that the evidence must bind (hexadecimal).")
@click.option("--at", help="When: 2026-05-31T12:00:00Z, or seconds since 1970 [default: now].")
@as_json
def verify(
    evidence: str,
    reference: str,
    collateral: str,
    officers: tuple[str, ...],
    quorum: int | None,
    unsigned: bool,
    report_data: str | None,
    at: str | None,
    json_: bool,
) -> None:
    """Verify EVIDENCE of a processor: AMD SEV-SNP, Intel TDX or Intel SGX."""
    from wardround.attestation import appraisal
    from wardround.attestation import collateral as bundles
    from wardround.attestation import evidence as processor_evidence
    from wardround.attestation import reference as values
    from wardround.codec import canonical

    now = time.time() if at is None else _instant(at)
    given, accepted = processor_evidence.read(_read(evidence)), _reference(reference)
    signed = _bundle(collateral)
    if unsigned:
        bundle = canonical.decode(signed.bundle, bundles.Bundle)
        bundles.check(bundle)
    elif not officers:
        raise ConfigError("name the officers whose signatures count with --officer, or say --unsigned")
    else:
        keys = [_hex(officer, "an officer's key") for officer in officers]
        bundle = bundles.open_bundle(signed, keys, quorum or len(set(keys)), now=now)
    is_bound = report_data is not None
    wanted = _hex(report_data or "", "report data") if is_bound else processor_evidence.unverified_report_data(given)
    if len(wanted) != 64:
        raise ConfigError(f"report data has 64 bytes, this has {len(wanted)}")
    found = appraisal.appraise(given, accepted, bundle, expected_report_data=wanted, now=now)
    warnings = list(found.warnings)
    if not is_bound:
        warnings.append("no --report-data: anybody could have copied this evidence from elsewhere")
    if unsigned:
        warnings.append("no officer vouches for the collateral")
    result = {
        "kind": found.kind,
        "bound": is_bound,
        "reference": values.digest(accepted),
        "measurements": dict(found.measurements),
        "tcb": dict(found.tcb),
        "platform": found.platform,
        "report_data": found.report_data.hex(),
        "valid_until": found.valid_until,
        "advisories": list(found.advisories),
        "warnings": warnings,
        "checks": [{"clause": check.clause, "what": check.what} for check in found.checks],
    }
    lines = [f"ok    {check.clause}: {check.what}" for check in found.checks]
    lines += [f"note  {warning}" for warning in (*warnings, *(f"advisory {name}" for name in found.advisories))]
    show(json_, result, "\n".join([*lines, f"Verified: {found.kind}, {accepted.name}, machine {found.platform[:16]}…"]))


@attest.group()
def bundle() -> None:
    """Draft, sign and show the vendors' collateral."""


@bundle.command()
@_file
@click.option("--consortium", required=True, help="Whose bundle it is.")
@click.option("--number", default=1, show_default=True, help="Which one in a row.")
@click.option("--days", default=30, show_default=True, type=click.IntRange(1, 366), help="How long it is valid.")
@click.option("--from", "start", help="From when it is valid [default: now].")
@click.option("--amd", multiple=True, help="PRODUCT/PART=FILE: ark, ask, asvk (PEM or DER), vcek-crl, vlek-crl (DER).")
@click.option("--intel", multiple=True, type=_existing, help="A QuoteCollateralV3 as JSON.")
@click.option("--blob", multiple=True, help="NAME=FILE, such as nvidia/rim/ID=rim.swidtag.")
@as_json
def draft(
    file: str,
    consortium: str,
    number: int,
    days: int,
    start: str | None,
    amd: tuple[str, ...],
    intel: tuple[str, ...],
    blob: tuple[str, ...],
    json_: bool,
) -> None:
    """Put the vendors' files into a bundle that nobody has signed, and write it to FILE."""
    from wardround.attestation import collateral as bundles

    begin = int(time.time() if start is None else _instant(start))
    made = bundles.unsigned(
        bundles.Bundle(
            consortium=consortium,
            number=number,
            valid_from=begin,
            valid_until=begin + days * _DAY_SECONDS,
            amd=_amd(amd),
            intel=tuple(_read(path).decode("utf-8", "replace") for path in intel),
            blobs={name: _read(path) for name, path in map(_pair, blob)},
        )
    )
    _write(file, made)
    text = "\n".join([*_words(made), f"Next, for each officer: wardround attest bundle sign {file} --folder OFFICER"])
    show(json_, {"collateral": bundles.digest(made)}, text)


@bundle.command()
@_file
@click.option("--folder", default="officer", show_default=True, help="The officer's folder.")
@as_json
def sign(file: str, folder: str, json_: bool) -> None:
    """Add an officer's signature to the bundle in FILE."""
    from wardround.attestation import collateral as bundles
    from wardround.sdk import rosters

    endorsed = bundles.sign(_bundle(file), rosters.load_officer(Path(folder)))
    _write(file, endorsed)
    count = len(endorsed.endorsements)
    digest = bundles.digest(endorsed)
    show(json_, {"collateral": digest, "signatures": count}, f"Signed; {file} has {count} signatures now.")


@bundle.command(name="show")
@_file
@as_json
def show_(file: str, json_: bool) -> None:
    """Show what the bundle in FILE holds, until when, and who signed it."""
    from wardround.attestation import collateral as bundles

    signed = _bundle(file)
    signers = [endorsement.officer.hex() for endorsement in signed.endorsements]
    show(json_, {"collateral": bundles.digest(signed), "officers": signers}, "\n".join(_words(signed)))


def _amd(pairs: tuple[str, ...]) -> "tuple[AmdCollateral, ...]":
    from wardround.attestation import amd_certificate
    from wardround.attestation.collateral import AmdCollateral

    found: dict[str, dict[str, Any]] = {}
    for name, path in map(_pair, pairs):
        product, _, part = name.partition("/")
        if part not in _AMD_PARTS:
            raise ConfigError(f"--amd takes PRODUCT/PART=FILE, where PART is one of {', '.join(_AMD_PARTS)}")
        data = _read(path)
        if b"BEGIN CERTIFICATE" in data:
            # AMD serves ASK and ARK as one file, in this order.
            chain = amd_certificate.load_pem(data)
            data = chain[-1] if part == "ark" else chain[0]
        found.setdefault(product, {"product": product})[part.replace("-", "_")] = data
    try:
        return tuple(msgspec.convert(entry, AmdCollateral) for entry in found.values())
    except msgspec.ValidationError as error:
        raise ConfigError(f"--amd: {error}") from None


def _reference(path: str) -> "ReferenceValues":
    from wardround.attestation import reference
    from wardround.attestation.reference import ReferenceValues

    data = _read(path)
    try:
        decode = msgspec.toml.decode if path.endswith(".toml") else msgspec.json.decode
        values = decode(data, type=ReferenceValues)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"{path} holds no reference values: {error}") from None
    reference.check(values)
    return values


def _bundle(path: str) -> "SignedBundle":
    from wardround.attestation.collateral import SignedBundle

    try:
        return msgspec.json.decode(_read(path), type=SignedBundle)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"{path} holds no collateral: {error}") from None


def _words(signed: "SignedBundle") -> list[str]:
    from wardround.attestation.collateral import Bundle, digest
    from wardround.codec import canonical

    held = canonical.decode(signed.bundle, Bundle)
    until = f"{datetime.fromtimestamp(held.valid_until, UTC):%Y-%m-%d %H:%M} UTC"
    return [
        f"Collateral {held.number} of {held.consortium} ({digest(signed)[:16]}…), valid until {until}",
        f"AMD: {', '.join(entry.product for entry in held.amd) or 'nothing'}",
        f"Intel: {len(held.intel)} platform families; other files: {len(held.blobs)}",
        *(f"signed by {endorsement.officer.hex()} (not checked here)" for endorsement in signed.endorsements),
    ]


def _write(path: str, signed: "SignedBundle") -> None:
    Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(signed)))


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigError(f"{path} is larger than {_MAX_FILE_BYTES} bytes")
    return data


def _pair(text: str) -> tuple[str, str]:
    match = _PAIR.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} is not NAME=FILE")
    return match[1], match[2]


def _hex(text: str, what: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ConfigError(f"{what} is written in hexadecimal") from None


def _instant(text: str) -> float:
    try:
        if text.isdigit():
            return float(text)
        found = datetime.fromisoformat(text)
        # A time without a zone is UTC here, as everywhere in this project.
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ConfigError(f"{text!r} is no time: 2026-05-31T12:00:00Z or seconds since 1970 expected") from None
