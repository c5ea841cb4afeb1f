"""The filter that the kernel asks about every system call of study code (seccomp), assembled here.

A filter is a program for the kernel's little machine (classic BPF): eight bytes an instruction, jumps forward only,
one register, and 64 bytes to look at:

    offset 0   number of the call       offset 16 + 8 i   argument i, low half
    offset 4   architecture             offset 20 + 8 i   argument i, high half (little-endian machines)

    (1) another architecture than the one the filter was made for: end the process. A 64-bit process may make 32-bit
        calls, whose numbers mean something else.
    (2) on x86-64, a number with bit 30 (the x32 calls): end it too.
    (3) clone with a flag for a new namespace: end it. clone3 hides its flags in memory: "no such call", so that the
        C library takes clone.
    (4) socket of the local family: EACCES, since the C library asks the name service's daemon; of any other: end it.
    (5) ioctl but for a few harmless requests: EPERM, since it changes a file's flags; with devices, which need their
        own requests, only those that type into a terminal. fcntl that takes a lease on a file: EPERM.
    (6) the groups of `wardround.sandbox.system_call`; all else: "no such call".

Hazard: a filter judges numbers and registers, never memory; it cannot look at a path.

References:
    Linux, Documentation/userspace-api/seccomp_filter.rst; include/uapi/linux/{seccomp,audit,bpf_common,sched}.h.
"""

import errno
import platform
import struct

from wardround.errors import SandboxError
from wardround.sandbox import system_call

__all__ = ["ALLOW", "END", "Instruction", "assemble", "instructions", "refuse"]

Instruction = tuple[int, int, int, int]
"""Operation, how far to jump when true, when false, and the constant."""

ALLOW = 0x7FFF0000
END = 0x80000000
"""End the whole process, by SIGSYS."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET; a new time namespace is for clone3 and unshare only.
_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_LOCAL_FAMILY = 1
_TYPES_INTO_A_TERMINAL = (0x5412, 0x541C)  # TIOCSTI and TIOCLINUX
_HARMLESS_REQUESTS = (
    0x5401,
    0x5413,
    0x541B,
    0x5421,
    0x5450,
    0x5451,
)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIO(N)CLEX
_TAKES_A_LEASE = 1024


def refuse(number: int) -> int:
    """The verdict that answers a call with an error's number."""
    return 0x00050000 | number


def instructions(machine: str, *, devices: bool = False) -> list[Instruction]:
    """The filter for one kind of machine; `devices` where study code may use some.

    Raises:
        SandboxError: There is no table of system calls for it.
    """
    if machine not in _ARCHITECTURES:
        raise SandboxError(
            f"study code is contained on {' and '.join(_ARCHITECTURES)}; this machine says {machine[:20]!r}"
        )
    made: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _ARCHITECTURES[machine]),  # (1)
        (_RETURN, 0, 0, END),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        made += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, END)]  # (2)
    looked_at = {name: numbers[machine] for name, numbers in system_call.LOOKED_AT.items()}
    made += _group(
        looked_at["clone"],  # (3)
        [(_LOAD, 0, 0, _FIRST), (_ANY_BIT, 0, 1, _NAMESPACES), (_RETURN, 0, 0, END), (_RETURN, 0, 0, ALLOW)],
    )
    made += _group(
        looked_at["socket"],  # (4)
        [
            (_LOAD, 0, 0, _FIRST),
            (_EQUAL, 0, 1, _LOCAL_FAMILY),
            (_RETURN, 0, 0, refuse(errno.EACCES)),
            (_RETURN, 0, 0, END),
        ],
    )
    listed, verdict, rest = (
        (_TYPES_INTO_A_TERMINAL, refuse(errno.EPERM), ALLOW)
        if devices
        else (_HARMLESS_REQUESTS, ALLOW, refuse(errno.EPERM))
    )
    steps = [step for code in listed for step in ((_EQUAL, 0, 1, code), (_RETURN, 0, 0, verdict))]
    made += _group(looked_at["ioctl"], [(_LOAD, 0, 0, _SECOND), *steps, (_RETURN, 0, 0, rest)])  # (5)
    lease: list[Instruction] = [(_EQUAL, 0, 1, _TAKES_A_LEASE), (_RETURN, 0, 0, refuse(errno.EPERM))]
    made += _group(looked_at["fcntl"], [(_LOAD, 0, 0, _SECOND), *lease, (_RETURN, 0, 0, ALLOW)])
    groups = (
        (system_call.HARMLESS, ALLOW),
        (system_call.REFUSED, refuse(errno.EPERM)),
        (system_call.HOSTILE, END),
    )
    for calls, verdict in groups:  # (6)
        for numbers in calls.values():
            if machine in numbers:
                made += _group(numbers[machine], [(_RETURN, 0, 0, verdict)])
    return [*made, (_RETURN, 0, 0, refuse(errno.ENOSYS))]


def assemble(machine: str = "", *, devices: bool = False) -> bytes:
    """The filter's bytes, as ``bwrap --seccomp`` and ``prctl`` take them; for this machine where none is named.

    Raises:
        SandboxError: There is no table of system calls for it.
    """
    return b"".join(
        struct.pack("<HBBI", *step) for step in instructions(machine or platform.machine(), devices=devices)
    )


def _group(number: int, steps: list[Instruction]) -> list[Instruction]:
    # Every group ends by returning, so what follows it still has the number in the register.
    return [(_EQUAL, 0, len(steps), number), *steps]
