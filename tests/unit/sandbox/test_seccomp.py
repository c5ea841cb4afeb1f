"""The filter, run by an interpreter of the kernel's little machine that knows nothing of how it was assembled."""

import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import SandboxError
from wardround.sandbox import seccomp, system_call

ALLOW, END, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
X86, ARM = ("x86_64", 0xC000003E), ("aarch64", 0xC00000B7)
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def run(program, number, architecture, *arguments):
    """What the kernel would say to one call: classic BPF as in its documentation, forward jumps only."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    steps = [struct.unpack_from("<HBBI", program, place) for place in range(0, len(program), 8)]
    place = register = 0
    while True:
        operation, true, false, constant = steps[place]
        place += 1
        match operation:
            case 0x20:
                assert constant % 4 == 0
                (register,) = struct.unpack_from("<I", data, constant)
            case 0x15:
                place += true if register == constant else false
            case 0x35:
                place += true if register >= constant else false
            case 0x45:
                place += true if register & constant else false
            case 0x06:
                return constant
            case other:
                raise AssertionError(f"the kernel refuses operation {other:#x}")


@pytest.fixture(scope="module", params=[X86, ARM], ids=lambda machine: machine[0])
def machine(request):
    return request.param


@pytest.fixture(scope="module")
def ask(machine):
    program = seccomp.assemble(machine[0])
    return lambda number, *arguments, architecture=machine[1]: run(program, number, architecture, *arguments)


def number_of(name, machine):
    for group in (system_call.HARMLESS, system_call.REFUSED, system_call.HOSTILE, system_call.LOOKED_AT):
        if name in group:
            return group[name].get(machine[0])
    raise AssertionError(name)


def test_what_an_interpreter_needs_is_allowed(ask, machine):
    for name in ("read", "write", "mmap", "futex", "exit_group", "openat", "clock_nanosleep", "execve", "recvmsg"):
        assert ask(number_of(name, machine)) == ALLOW


HOSTILE = (
    "ptrace process_vm_readv process_vm_writev mount umount2 keyctl add_key bpf perf_event_open userfaultfd unshare "
)
HOSTILE += (
    "setns io_uring_setup io_uring_enter kexec_load kexec_file_load init_module pivot_root chroot setuid setresuid "
)
HOSTILE += "capset pidfd_getfd open_by_handle_at reboot"


@pytest.mark.parametrize("name", HOSTILE.split())
def test_what_no_model_needs_ends_the_process(ask, machine, name):
    assert ask(number_of(name, machine)) == END


@pytest.mark.parametrize("architecture", [0, 0x40000003, 0xC000003E, 0xC00000B7, 0xC00000F3, 0xFFFFFFFF])
def test_a_call_of_another_architecture_ends_the_process_whatever_it_is(ask, machine, architecture):
    verdicts = {ask(number, architecture=architecture) for number in (0, 1, 63, 64, 200, 5000)}
    assert (verdicts == {END}) == (architecture != machine[1])


@given(st.integers(0x40000000, 0xFFFFFFFF))
def test_an_x32_call_ends_the_process(number):
    assert run(seccomp.assemble("x86_64"), number, X86[1]) == END


NAMESPACES = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)


@pytest.mark.parametrize("flag", NAMESPACES)
def test_each_namespace_by_itself_ends_the_process(ask, machine, flag):
    for others in (0, 17, 0x3D0F00):
        assert ask(number_of("clone", machine), flag | others) == END


@given(st.integers(0, (1 << 64) - 1))
def test_a_clone_with_a_new_namespace_ends_the_process_and_no_other_does(flags):
    for machine, architecture in (X86, ARM):
        number = number_of("clone", (machine, architecture))
        verdict = run(seccomp.assemble(machine), number, architecture, flags)
        assert verdict == (END if any(flags & name for name in NAMESPACES) else ALLOW)


def test_threads_and_forks_are_allowed(ask, machine):
    for flags in (0x3D0F00, 0x1200011, 17):  # pthread_create and fork of glibc
        assert ask(number_of("clone", machine), flags) == ALLOW
    assert ask(number_of("clone3", machine)) == ERRNO | 38


@pytest.mark.parametrize("family", [0, 2, 3, 10, 16, 17, 38, 40, 0xFFFFFFFF])
def test_a_socket_of_any_family_but_the_local_one_ends_the_process(ask, machine, family):
    assert ask(number_of("socket", machine), family) == END
    assert ask(number_of("socket", machine), 1) == ERRNO | 13


def test_no_terminal_is_typed_into_and_no_files_flags_are_changed(ask, machine):
    for code in (0x5412, 0x541C, 0x5412 | 7 << 32, 0x40086602, 0x401C5820, 0):
        assert ask(number_of("ioctl", machine), 0, code) == ERRNO | 1
    assert ask(number_of("ioctl", machine), 0, 0x5401) == ALLOW


def test_with_devices_only_typing_into_a_terminal_is_refused(machine):
    program = seccomp.assemble(machine[0], devices=True)
    for code, verdict in ((0x5412, ERRNO | 1), (0x541C, ERRNO | 1), (0xC0204601, ALLOW)):
        assert run(program, number_of("ioctl", machine), machine[1], 0, code) == verdict


def test_no_lease_is_taken_and_no_mode_is_changed(ask, machine):
    assert ask(number_of("fcntl", machine), 0, 1024) == ERRNO | 1
    assert ask(number_of("fcntl", machine), 0, 1030) == ALLOW
    assert ask(number_of("fchmod", machine)) == ERRNO | 1


@given(st.integers(0, 0x3FFFFFFF))
def test_a_call_that_nobody_named_is_not_there(number):
    for machine, architecture in (X86, ARM):
        groups = (system_call.HARMLESS, system_call.REFUSED, system_call.HOSTILE, system_call.LOOKED_AT)
        known = {numbers.get(machine) for group in groups for numbers in group.values()}
        if number not in known:
            assert run(seccomp.assemble(machine), number, architecture) == ERRNO | 38


def test_every_number_is_the_kernels_own(machine):
    header = HEADERS[machine[0]]
    if not header.exists():
        pytest.skip(f"no {header}")
    found = re.findall(r"#define __NR(3264)?_(\w+)\s+(\d+)", header.read_text())
    kernels = {name: int(number) for _, name, number in found}
    kernels.setdefault("newfstatat", kernels.get("fstatat", -1))
    seen = 0
    for group in (system_call.HARMLESS, system_call.REFUSED, system_call.HOSTILE, system_call.LOOKED_AT):
        for name, numbers in group.items():
            if name == "newfstatat":
                continue
            assert numbers.get(machine[0]) == kernels.get(name), name
            seen += 1
    assert seen > 250


def test_every_call_is_in_one_group(machine):
    groups = (system_call.HARMLESS, system_call.REFUSED, system_call.HOSTILE, system_call.LOOKED_AT)
    numbers = [numbers[machine[0]] for group in groups for numbers in group.values() if machine[0] in numbers]
    assert len(numbers) == len(set(numbers))


def test_the_kernel_could_take_the_program(machine):
    program = seccomp.instructions(machine[0])
    assert len(program) < 4096
    assert all(0 <= true < 256 and 0 <= false < 256 for _, true, false, _ in program)
    for place, (operation, true, false, _) in enumerate(program):
        if operation in {0x15, 0x35, 0x45}:
            assert place + 1 + max(true, false) < len(program)
    assert program[-1][0] == 0x06


@pytest.mark.parametrize("machine", ["riscv64", "i686", "", "x86_64 "])
def test_a_machine_without_a_table_has_no_filter(machine):
    with pytest.raises(SandboxError, match="this machine says"):
        seccomp.instructions(machine)
