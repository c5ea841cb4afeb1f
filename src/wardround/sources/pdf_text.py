"""The process that reads one PDF: the document comes in by standard input, its text goes out by standard output.

It gives up its rights before it looks at the first byte: no new files, no new processes, bounded memory, processor time
and output. Whatever a hostile document does to the PDF library happens here, and ends with this process.

The answer is JSON: {"pages": ["…", …]} or {"refused": "reason"}.
"""

import codecs
import ctypes
import json
import resource
import sys

__all__ = ["MOST_CHARACTERS", "main"]

MOST_CHARACTERS = 5_000_000
_MEMORY_BYTES = 2 * 2**30
_ANSWER_BYTES = 32 * 2**20
_ENCRYPTED = 4


def main(most_pages: int, seconds: int) -> int:
    """Read standard input as a PDF and answer."""
    import pypdfium2.raw as pdfium

    limits = {
        resource.RLIMIT_AS: _MEMORY_BYTES,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: _ANSWER_BYTES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    codecs.lookup("utf-16-le")
    content = sys.stdin.buffer.read()
    for which, most in limits.items():
        resource.setrlimit(which, (most, most))
    # What is needed is open and loaded already; from here on no file can be opened.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    answer = json.dumps(_read(pdfium, content, most_pages))
    sys.stdout.write(answer)
    sys.stdout.flush()
    return 0


def _read(pdfium, content: bytes, most_pages: int) -> dict[str, object]:  # type: ignore[no-untyped-def]  # noqa: ANN001, a module
    pdfium.FPDF_InitLibrary()
    document = pdfium.FPDF_LoadMemDocument64(content, len(content), None)
    if not document:
        return {"refused": "encrypted PDF" if pdfium.FPDF_GetLastError() == _ENCRYPTED else "broken PDF"}
    count = pdfium.FPDF_GetPageCount(document)
    if not 0 < count <= most_pages:
        return {"refused": "PDF with no page or too many pages"}
    pages: list[str] = []
    for number in range(count):
        text = _page(pdfium, document, number)
        if text is None:
            return {"refused": "broken PDF"}
        pages.append(text)
        if sum(map(len, pages)) > MOST_CHARACTERS:
            return {"refused": "PDF with too much text"}
    return {"pages": pages}


def _page(pdfium, document: object, number: int) -> str | None:  # type: ignore[no-untyped-def]  # noqa: ANN001, a module
    page = pdfium.FPDF_LoadPage(document, number)
    if not page:
        return None
    layer = pdfium.FPDFText_LoadPage(page)
    count = pdfium.FPDFText_CountChars(layer) if layer else -1
    if count < 0:
        return None
    length = min(count, MOST_CHARACTERS) + 1
    units = (ctypes.c_ushort * length)()
    written = pdfium.FPDFText_GetText(layer, 0, length - 1, units)
    pdfium.FPDFText_ClosePage(layer)
    pdfium.FPDF_ClosePage(page)
    return bytes(units)[: 2 * max(0, written - 1)].decode("utf-16-le", "replace")


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
