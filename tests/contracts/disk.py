"""Disks that are full: a file-size limit that any account can set, and a tiny file system for root."""

import contextlib
import os
import resource
import subprocess

import pytest


@contextlib.contextmanager
def no_file_beyond(size):
    """Every write beyond `size` bytes of a file fails; other processes are not concerned."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def tiny_disk(folder, size):
    """`folder` is a file system of `size` bytes; skips the test where it cannot be mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
