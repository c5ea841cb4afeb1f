"""The text of a PDF, page by page, read in a process of its own that has little memory, little time and no files."""

import os
import subprocess
import sys
import tempfile
from typing import IO, Final

import msgspec

from wardround.errors import UnavailableError

__all__ = ["MOST_BYTES", "SECONDS", "pages"]

MOST_BYTES: Final = 64 * 2**20
MOST_PAGES: Final = 2_000
SECONDS: Final = 30
_ANSWER_BYTES: Final = 32 * 2**20
_WAIT_SECONDS: Final = 30
"""Beyond its processor time, which it may not get at once on a busy machine."""


class _Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pages: list[str] = []
    refused: str = ""


def pages(content: bytes, *, most_pages: int = MOST_PAGES, seconds: int = SECONDS) -> list[str] | str:
    """The text of every page; the name of the reason where the document is refused.

    Raises:
        UnavailableError: The process cannot be started.
    """
    if len(content) > MOST_BYTES:
        return "too large"
    command = [sys.executable, "-P", "-m", "wardround.sources.pdf_text", str(most_pages), str(seconds)]
    environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    with _in_memory() as answer:
        try:
            # The answer goes to a file because a pipe has no end: what is read back is bounded here as well.
            done = subprocess.run(
                command,
                input=content,
                stdout=answer,
                stderr=subprocess.DEVNULL,
                timeout=seconds + _WAIT_SECONDS,
                check=False,
                env=environment,
            )
        except subprocess.TimeoutExpired:
            return "PDF took too long or too much memory"
        except OSError as error:
            raise UnavailableError(f"the process that reads PDFs cannot be started ({type(error).__name__})") from None
        answer.seek(0)
        said = answer.read(_ANSWER_BYTES + 1)
    if done.returncode or len(said) > _ANSWER_BYTES:
        return "PDF took too long or too much memory" if done.returncode < 0 else "broken PDF"
    try:
        found = msgspec.json.decode(said, type=_Answer)
    except msgspec.MsgspecError:
        return "broken PDF"
    return found.refused or found.pages


def _in_memory() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("wardround-text", os.MFD_CLOEXEC), "w+b")
    return tempfile.TemporaryFile()
