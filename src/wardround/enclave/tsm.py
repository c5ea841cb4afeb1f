"""Evidence from the Linux kernel: configfs-tsm, the one interface to SEV-SNP and TDX guests.

    mkdir  /sys/kernel/config/tsm/report/<name>
    write  privlevel, service_provider            where asked for; each write adds one to generation
    write  inblob                                 64 bytes
    read   outblob, auxblob, manifestblob         report or quote; certificates; an SVSM's manifest
    read   generation, provider                   nobody else wrote to this entry in between
    rmdir                                         always, whatever happened

Every entry is this call's own and has a random name, so that no two callers share one; that `generation` is what our
own writes make it is checked all the same, because root can write to any entry.

The places in the file system are the kernel's. They are arguments only so that tests can put a tree of their own there:
no option, setting or variable reaches them, and a provider that is not hardware's is refused.

References:
    Linux, Documentation/ABI/testing/configfs-tsm-report (6.7; SVSM since 6.10).
    AMD, Guest-Hypervisor Communication Block Standardization (56421): the certificate table in auxblob.
    UEFI / Intel, Guest-Host-Communication Interface for TDX: the CCEL table's event log.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from wardround.attestation import evidence as travelling
from wardround.attestation.binding import REPORT_DATA_BYTES
from wardround.attestation.evidence import Evidence
from wardround.errors import AttestationError, ConfigError, UnavailableError

__all__ = ["KernelReports", "TsmReport"]

_REPORTS: Final = Path("/sys/kernel/config/tsm/report")
_EVENT_LOG: Final = Path("/sys/firmware/acpi/tables/data/CCEL")
_KINDS: Final[dict[str, Literal["snp", "tdx"]]] = {"sev_guest": "snp", "tdx_guest": "tdx"}
_TRIES = 3
_MAX_TEXT_BYTES = 64
_MAX_MANIFEST_BYTES = 256 * 1024
_BUSY = frozenset({errno.EBUSY, errno.EWOULDBLOCK, errno.EINTR})


@dataclass(frozen=True, slots=True)
class TsmReport:
    """What one entry gave; `auxiliary` and `manifest` are empty where the provider has none."""

    provider: str
    report: bytes
    auxiliary: bytes
    manifest: bytes


class KernelReports:
    """Evidence of the guest that this process runs in."""

    def __init__(self, *, reports: Path = _REPORTS, event_log: Path = _EVENT_LOG) -> None:
        self._reports, self._event_log = reports, event_log

    def evidence(self, report_data: bytes, *, privilege_level: int | None = None) -> Evidence:
        """Evidence over 64 bytes, as it travels.

        Args:
            report_data: What it binds; see `wardround.attestation.binding`.
            privilege_level: Where the provider has levels (SNP's VMPL), which one; None: the kernel's own.

        Raises:
            ConfigError: This machine is no guest whose kernel gives evidence, or this process may not ask for it.
            AttestationError: The provider is not one of hardware that is known here, or what it gave is too large.
            UnavailableError: The kernel was busy, or others kept writing to the entry.
        """
        found = self.report(report_data, privilege_level=privilege_level)
        kind = _KINDS.get(found.provider)
        if kind is None:
            raise AttestationError(f"the kernel's provider of evidence is none of {', '.join(_KINDS)}")
        log = b""
        if kind == "tdx":
            with suppress(FileNotFoundError, ConfigError):
                log = _read(self._event_log, travelling.MAX_EVENT_LOG_BYTES)
        made = Evidence(kind=kind, report=found.report, auxiliary=found.auxiliary, event_log=log)
        travelling.check(made)
        return made

    def report(
        self, report_data: bytes, *, privilege_level: int | None = None, service: Literal["", "svsm"] = ""
    ) -> TsmReport:
        """One report of the kernel, with what came beside it.

        Args:
            report_data: Exactly 64 bytes.
            privilege_level: As in `evidence`.
            service: "svsm": have the SVSM report for its services, with a manifest of them.

        Raises:
            ConfigError: As in `evidence`.
            AttestationError: As in `evidence`.
            UnavailableError: As in `evidence`.
        """
        if len(report_data) != REPORT_DATA_BYTES:
            raise ValueError(f"report_data has {REPORT_DATA_BYTES} bytes, this has {len(report_data)}")
        for _ in range(_TRIES):
            try:
                with self._entry() as entry:
                    found = _one(entry, report_data, privilege_level, service)
            except FileNotFoundError as error:
                raise _no_such(error) from None
            except PermissionError:
                raise ConfigError("this process may not ask the kernel for evidence: it needs root's rights") from None
            except OSError as error:
                if error.errno in _BUSY:
                    continue
                raise _failed(error) from None
            if found is not None:
                return found
        raise UnavailableError(f"the kernel gave no undisturbed report in {_TRIES} attempts")

    @contextmanager
    def _entry(self) -> Iterator[Path]:
        entry = self._reports / f"wardround-{secrets.token_hex(16)}"
        entry.mkdir(mode=0o700)
        try:
            yield entry
        finally:
            # Entries are kernel memory: one is left behind only where the kernel itself refuses.
            with suppress(OSError):
                entry.rmdir()


def _one(entry: Path, report_data: bytes, privilege_level: int | None, service: str) -> TsmReport | None:
    """What an entry gives, or None where somebody else wrote to it."""
    before, writes = _number(entry / "generation"), 1
    if privilege_level is not None:
        _write(entry / "privlevel", str(privilege_level).encode())
        writes += 1
    if service:
        _write(entry / "service_provider", service.encode())
        writes += 1
    _write(entry / "inblob", report_data)
    report = _read(entry / "outblob", travelling.MAX_REPORT_BYTES)
    auxiliary = _read_if_there(entry / "auxblob", travelling.MAX_AUXILIARY_BYTES)
    manifest = _read_if_there(entry / "manifestblob", _MAX_MANIFEST_BYTES) if service else b""
    provider = _read(entry / "provider", _MAX_TEXT_BYTES).decode("ascii", "replace").strip()
    if _number(entry / "generation") != before + writes:
        return None
    if not report:
        raise AttestationError("the kernel gave an empty report")
    return TsmReport(provider, report, auxiliary, manifest)


def _write(path: Path, data: bytes) -> None:
    # Binary attributes take effect when they are closed, and closing says whether they were accepted.
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        written = os.write(descriptor, data)
    finally:
        os.close(descriptor)
    if written != len(data):
        raise ConfigError(f"the kernel took {written} of {len(data)} bytes of {path.name}")


def _read(path: Path, most: int) -> bytes:
    pieces, size = [], 0
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        while piece := os.read(descriptor, 65536):
            pieces.append(piece)
            size += len(piece)
            if size > most:
                raise AttestationError(f"the kernel's {path.name} is larger than the {most} bytes that it may have")
    finally:
        os.close(descriptor)
    return b"".join(pieces)


def _read_if_there(path: Path, most: int) -> bytes:
    try:
        return _read(path, most)
    except FileNotFoundError:
        return b""


def _number(path: Path) -> int:
    text = _read(path, _MAX_TEXT_BYTES).strip()
    if not text.isdigit():
        raise AttestationError(f"the kernel's {path.name} is no number")
    return int(text)


def _no_such(error: FileNotFoundError) -> ConfigError:
    name = Path(str(error.filename)).name if error.filename else "it"
    return ConfigError(
        f"this machine gives no evidence of itself ({name} is not there): run in an SEV-SNP or TDX guest with Linux "
        "6.7 or newer, with configfs mounted and the module sev-guest or tdx-guest loaded"
    )


def _failed(error: OSError) -> AttestationError:
    return AttestationError(f"the kernel refused to make a report: {errno.errorcode.get(error.errno or 0, 'unknown')}")
