"""Writes small PDFs, well-formed or not, without a library."""

import zlib

ENCRYPTED = (
    b"/ID [<00112233445566778899aabbccddeeff> <00112233445566778899aabbccddeeff>] /Encrypt << /Filter /Standard "
)
ENCRYPTED += b"/V 1 /R 2 /P -4 /O <" + b"41" * 32 + b"> /U <" + b"42" * 32 + b"> >> "


def escaped(line):
    text = line.encode("latin-1")
    for sign in (b"\\", b"(", b")"):
        text = text.replace(sign, b"\\" + sign)
    return text


def drawn(page):
    lines = b" ".join(b"(%s) Tj T*" % escaped(line) for line in page.split("\n"))
    return b"BT /F1 10 Tf 12 TL 40 800 Td " + lines + b" ET"


def pdf(*pages, trailer=b"", compress=False):
    """One page for each text (its lines below one another) or content stream."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for page in pages:
        content = page if isinstance(page, bytes) else drawn(page)
        content = zlib.compress(content) if compress else content
        how = b"/Filter /FlateDecode " if compress else b""
        objects.append(b"<< %s/Length %d >>\nstream\n%s\nendstream" % (how, len(content), content))
        fonts = b"/Resources << /Font << /F1 3 0 R >> >>"
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] %s /Contents %d 0 R >>" % (fonts, len(objects))
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    made, places = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        places.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer << /Size %d /Root 1 0 R %s>>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, trailer, len(made))
    return made + b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + table + end
