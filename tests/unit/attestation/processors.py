"""Genuine evidence of processors, where it is, and authorities made for tests where no sample shows what is asked."""

import functools
import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID, ObjectIdentifier

from wardround.attestation import amd_certificate
from wardround.attestation.collateral import AmdCollateral, Bundle
from wardround.attestation.evidence import Evidence
from wardround.attestation.reference import ReferenceValues, SnpReference, SnpTcb

EVIDENCE = Path(os.environ.get("WARDROUND_ATTESTATION", Path(__file__).resolve().parents[4] / "shared" / "attestation"))
genuine = pytest.mark.skipif(not EVIDENCE.exists(), reason="genuine evidence is not here; see WARDROUND_ATTESTATION")
NOW = 1_767_225_600.0  # 2026-01-01, inside every certificate of the samples and of the authority below.
START, END = 1_764_547_200, 1_790_000_000
_PSS = padding.PSS(padding.MGF1(hashes.SHA384()), 48)


def bundle(*, amd=(), intel=(), start=START, end=END):
    return Bundle(consortium="test", number=3, valid_from=start, valid_until=end, amd=tuple(amd), intel=tuple(intel))


def amd_chain(product, file, kind="ask", **more):
    middle, root = amd_certificate.load_pem((EVIDENCE / "sev-snp" / file).read_bytes())
    return AmdCollateral(product=product, ark=root, **{kind: middle}, **more)


def snp_reference(report, **changes):
    return SnpReference(
        **{
            "measurements": (report[0x90:0xC0].hex(),),
            "minimum_tcb": {
                "Milan": SnpTcb(bootloader=1, tee=0, snp=5, microcode=0x44),
                "Genoa": SnpTcb(bootloader=1, tee=0, snp=5, microcode=0x44),
                "Turin": SnpTcb(bootloader=1, tee=0, snp=1, microcode=9, fmc=1),
            },
            "allow": ("smt", "no-revocation-list"),
            **changes,
        }
    )


def values(**kinds):
    return ReferenceValues(name="test build", **kinds)


def milan():
    folder = EVIDENCE / "sev-snp" / "virtee-sev"
    report = bytes.fromhex((folder / "report_milan.hex").read_text().strip())
    evidence = Evidence(kind="snp", report=report, certificates=((folder / "vcek_milan.der").read_bytes(),))
    return evidence, bundle(amd=[amd_chain("Milan", "virtee-sev/cert_chain_milan")])


def milan_with_debug():
    folder = EVIDENCE / "sev-snp" / "go-sev-guest"
    report = (folder / "attestation.bin").read_bytes()
    evidence = Evidence(kind="snp", report=report, certificates=((folder / "vcek.testcer").read_bytes(),))
    return evidence, bundle(amd=[amd_chain("Milan", "go-sev-guest/ask_ark_milan.pem")])


def changed(data, offset, new):
    return data[:offset] + new + data[offset + len(new) :]


@functools.cache
def _keys():
    # Two, because each takes a while: the root's, and one for both intermediate authorities.
    return tuple(rsa.generate_private_key(65537, 4096) for _ in range(2))


@functools.cache
def leaf_key():
    return ec.generate_private_key(ec.SECP384R1())


def _name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _when(instant):
    return datetime.fromtimestamp(instant, UTC)


def _der(certificate):
    return certificate.public_bytes(serialization.Encoding.DER)


def _ca(builder):
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).add_extension(
        usage, critical=True
    )


def _builder(subject, issuer, key, serial, start=NOW - 1e7, end=NOW + 1e7):
    return x509.CertificateBuilder(_name(issuer), _name(subject), key, serial, _when(start), _when(end))


@dataclass(frozen=True, slots=True)
class Authority:
    """An ARK, ASK and ASVK of our own; `pin` is what the code under test must be told to trust."""

    product: str
    ark: bytes
    ask: bytes
    asvk: bytes

    def collateral(self, **more):
        return AmdCollateral(product=self.product, ark=self.ark, ask=self.ask, asvk=self.asvk, **more)


@functools.cache
def authority(product):
    root, middle = _keys()
    ark = _ca(_builder(f"ARK-{product}", f"ARK-{product}", root.public_key(), 7))
    ask = _ca(_builder(f"SEV-{product}", f"ARK-{product}", middle.public_key(), 8))
    asvk = _ca(_builder(f"SEV-VLEK-{product}", f"ARK-{product}", middle.public_key(), 9))
    return Authority(product, *(_der(item.sign(root, hashes.SHA384(), rsa_padding=_PSS)) for item in (ark, ask, asvk)))


def forged_middle(product):
    """An ASK with the right names, which the root never signed."""
    middle = _keys()[1]
    builder = _ca(_builder(f"SEV-{product}", f"ARK-{product}", middle.public_key(), 8))
    return _der(builder.sign(middle, hashes.SHA384(), rsa_padding=_PSS))


def small_middle(product):
    """An ASK that the root signed, with a key of 2048 bits."""
    key = rsa.generate_private_key(65537, 2048).public_key()
    builder = _ca(_builder(f"SEV-{product}", f"ARK-{product}", key, 8))
    return _der(builder.sign(_keys()[0], hashes.SHA384(), rsa_padding=_PSS))


def pin():
    key = _keys()[0].public_key()
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def crl(product, serials=(), start=NOW - 1e6, end=NOW + 1e6, issuer=None, key=None, partial=False):
    builder = x509.CertificateRevocationListBuilder(_name(issuer or f"ARK-{product}"), _when(start), _when(end))
    if partial:
        scope = x509.IssuingDistributionPoint(None, None, False, True, None, False, False)
        builder = builder.add_extension(scope, critical=True)
    for serial in serials:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_when(start)).build()
        )
    return builder.sign(key or _keys()[0], hashes.SHA384(), rsa_padding=_PSS).public_bytes(serialization.Encoding.DER)


def tcb_bytes(product, *, bootloader=3, tee=0, snp=8, microcode=115, fmc=1):
    if product == "Turin":
        return bytes((fmc, bootloader, tee, snp, 0, 0, 0, microcode))
    return bytes((bootloader, tee, 0, 0, 0, 0, snp, microcode))


def leaf(product, *, chip=b"", csp="", tcb=None, serial=11, extra=(), issuer=None, key=None, more=(), **times):
    """A VCEK with `chip`, or a VLEK with `csp`, of our own authority."""
    parts = {"bootloader": 3, "tee": 0, "snp": 8, "microcode": 115, **(tcb or {})}
    arcs = {1: parts["bootloader"], 2: parts["tee"], 3: parts["snp"], 8: parts["microcode"]}
    if product == "Turin":
        arcs[9] = parts.get("fmc", 1)
    name = product.encode()
    extensions = {"1": bytes((2, 1, product == "Turin")), "2": bytes((0x16, len(name))) + name}
    extensions |= {f"3.{arc}": bytes((2, 1, value)) for arc, value in arcs.items()}
    if chip:
        extensions["4"] = chip[:8] if product == "Turin" else chip
    if csp:
        extensions["5"] = bytes((0x16, len(csp))) + csp.encode()
    extensions |= dict(extra)
    issuer = issuer or (f"SEV-VLEK-{product}" if csp else f"SEV-{product}")
    builder = _builder("SEV-VLEK" if csp else "SEV-VCEK", issuer, (key or leaf_key()).public_key(), serial, **times)
    for arc, value in extensions.items():
        oid = ObjectIdentifier(f"1.3.6.1.4.1.3704.1.{arc}")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
    for extension in more:
        builder = builder.add_extension(extension, critical=True)
    return _der(builder.sign(_keys()[1], hashes.SHA384(), rsa_padding=_PSS))


def report(product, *, version=3, policy=0x30000, chip=b"\x07" * 64, signing_key=0, key=None, fields=(), tcb=None):
    """A report signed by the test's own leaf key; `fields` overwrite bytes before it is signed."""
    parts = bytearray(0x2A0)

    def put(offset, value):
        parts[offset : offset + len(value)] = value

    tcb = tcb_bytes(product) if tcb is None else tcb
    cpuid = {"Milan": b"\x19\x01\x01", "Genoa": b"\x19\x11\x01", "Turin": b"\x1a\x02\x01"}[product]
    put(0x00, version.to_bytes(4, "little"))
    put(0x08, policy.to_bytes(8, "little"))
    put(0x34, (1).to_bytes(4, "little"))
    put(0x48, (signing_key << 2).to_bytes(4, "little"))
    put(0x50, bytes(range(64)))
    put(0x90, b"\x5a" * 48)
    put(0x160, b"\xff" * 32)
    for offset in (0x38, 0x180, 0x1E0, 0x1F0):
        put(offset, tcb)
    if version >= 3:
        put(0x188, cpuid)
    put(0x1A0, chip)
    for offset, value in fields:
        put(offset, value)
    r, s = decode_dss_signature((key or leaf_key()).sign(bytes(parts), ec.ECDSA(hashes.SHA384())))
    return bytes(parts) + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(512 - 144)
