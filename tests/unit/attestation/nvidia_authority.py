"""An authority of our own in NVIDIA's place: devices that sign SPDM reports, and RIMs, for what no sample shows.

Only its roots differ from NVIDIA's: the verifier is given them instead of its pins.
"""

import base64
import datetime as dt
import hashlib
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from lxml import etree
from signxml import XMLSigner
from signxml.algorithms import CanonicalizationMethod, SignatureConstructionMethod

from wardround.attestation.nvidia_device import DeviceEvidence

ROOT = Path(__file__).parents[3]
SAMPLES = Path(os.environ.get("WARDROUND_ATTESTATION", ROOT.parent / "shared" / "attestation")) / "nvidia" / "nvtrust"
MISSING = not SAMPLES.is_dir()
REASON = "the samples of NVIDIA are not at WARDROUND_ATTESTATION"
NOW = dt.datetime(2025, 1, 1, tzinfo=dt.UTC).timestamp()
"""Inside of all of NVIDIA's sample RIMs' certificates."""
FWID = bytes(range(48))
OPAQUE = {
    3: b"550.90.07\0",
    6: bytes.fromhex("009f009601000000"),
    11: b"\xaa",
    15: b"882\0\0\0",
    17: b"1010\0",
    18: b"0200\0",
    20: FWID,
}
DRIVER_ID, VBIOS_ID = "NV_GPU_DRIVER_GH100_550.90.07", "NV_GPU_VBIOS_1010_0200_882_96009F0001"
MEASUREMENTS = {index: hashlib.sha384(bytes([index])).digest() for index in range(1, 65)}


def named(name):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def at(seconds):
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


class Authority:
    """A root, an intermediate, and leaves below it; all P-384."""

    def __init__(self, name="Test Root", path_length=None, curve=None):
        self.curve = curve or ec.SECP384R1()
        self.root_key, self.middle_key = ec.generate_private_key(self.curve), ec.generate_private_key(self.curve)
        self.root = self.issue(named(name), self.root_key, named(name), self.root_key, ca=True, path_length=path_length)
        self.middle = self.issue(
            named(f"{name} Intermediate"), self.middle_key, self.root.subject, self.root_key, ca=True
        )

    @property
    def pins(self):
        key = self.root.public_key()
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return frozenset({hashlib.sha256(der).hexdigest()})

    def issue(self, subject, key, issuer, issuer_key, *, ca, path_length=None, extensions=(), days=3650, usage=None):
        usage = usage or {"digital_signature": not ca, "key_cert_sign": ca, "crl_sign": ca}
        flags = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
             "decipher_only"), False)  # fmt: skip
        builder = (
            x509.CertificateBuilder(issuer, subject, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(at(NOW - 86400))
            .not_valid_after(at(NOW + days * 86400))
            .add_extension(x509.KeyUsage(**flags, **usage), critical=True)
        )
        if ca:
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        for one in extensions:
            builder = builder.add_extension(one, critical=False)
        return builder.sign(issuer_key, hashes.SHA384())

    def leaf(self, name, key, **options):
        return self.issue(named(name), key, self.middle.subject, self.middle_key, ca=False, **options)

    def crl(self, *revoked, key=None, since=NOW - 3600, until=NOW + 86400, issuer=None):
        builder = x509.CertificateRevocationListBuilder(issuer or self.middle.subject, at(since), at(until))
        for one in revoked:
            entry = x509.RevokedCertificateBuilder(one.serial_number, at(since)).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(key or self.middle_key, hashes.SHA384()).public_bytes(serialization.Encoding.DER)


class Device:
    """A GPU whose vendor is an `Authority`."""

    def __init__(self, authority, name="GH100 A01 GSP FMC LF", fwid=FWID, **options):
        self.authority, self.key, self.brom_key = (
            authority,
            ec.generate_private_key(authority.curve),
            ec.generate_private_key(authority.curve),
        )
        self.brom = authority.issue(
            named("GH100 A01 GSP BROM"), self.brom_key, authority.middle.subject, authority.middle_key, ca=True
        )
        info = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.23.133.5.4.1"), b"\x30\x33\x04\x30" + fwid)
        self.leaf = authority.issue(
            named(name), self.key, self.brom.subject, self.brom_key, ca=False, extensions=[info], **options
        )

    @property
    def chain(self):
        return [self.leaf, self.brom, self.authority.middle, self.authority.root]

    def report(self, nonce, *, measurements=None, opaque=None, request=b"\x11\xe0\x01\xff", response=b"\x11\x60\0\0"):
        return sign(unsigned(nonce, measurements or MEASUREMENTS, opaque or OPAQUE, request, response), self.key)

    def evidence(self, nonce, **options):
        return packed(self.report(nonce, **options), self.chain)


def unsigned(nonce, measurements, opaque, request=b"\x11\xe0\x01\xff", response=b"\x11\x60\0\0"):
    blocks = b"".join(
        bytes([index, 1]) + (len(value) + 3).to_bytes(2, "little") + b"\1" + len(value).to_bytes(2, "little") + value
        for index, value in measurements.items()
    )
    fields = b"".join(
        kind.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value for kind, value in opaque.items()
    )
    head = request + nonce + b"\0" + response + bytes([len(measurements)]) + len(blocks).to_bytes(3, "little")
    return head + blocks + bytes(32) + len(fields).to_bytes(2, "little") + fields


def sign(message, key):
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA384())))
    size = (key.curve.key_size + 7) // 8
    return message + r.to_bytes(size, "big") + s.to_bytes(size, "big")


def packed(report, chain):
    pem = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain)
    return DeviceEvidence(certificate=base64.b64encode(pem).decode(), evidence=base64.b64encode(report).decode())


def swidtag(version, golden, *, inner="", prolog="", last=""):
    """A manifest; `golden` gives for an index whether it is active, and the values it may have."""
    resources = "".join(
        f'<ns0:Resource type="Measurement" index="{index}" active="{active}" alternatives="{len(values)}" '
        + " ".join(f'ns2:Hash{place}="{value.hex()}"' for place, value in enumerate(values))
        + f' name="Measurement_{index}" size="48"/>'
        for index, (active, values) in golden.items()
    )
    space = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
    return (
        f'{prolog}<SoftwareIdentity xmlns="{space}" xmlns:ns0="{space}" '
        'xmlns:ns2="http://www.w3.org/2001/04/xmlenc#sha384" name="GH100" tagId="test">'
        f'<ns0:Meta colloquialVersion="{version}" product="GH100"/>{inner}'
        f"<ns0:Payload>{resources}</ns0:Payload>{last}</SoftwareIdentity>"
    ).encode()


def signed(document, authority, *, key=None, leaf=None, c14n=CanonicalizationMethod.CANONICAL_XML_1_1):
    key = key or ec.generate_private_key(authority.curve)
    leaf = leaf or authority.leaf("RIM Signer", key)
    signer = XMLSigner(
        method=SignatureConstructionMethod.enveloped,
        signature_algorithm="ecdsa-sha384",
        digest_algorithm="sha384",
        c14n_algorithm=c14n,
    )
    pems = [one.public_bytes(serialization.Encoding.PEM).decode() for one in (leaf, authority.middle, authority.root)]
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    root = signer.sign(etree.fromstring(document), key=private, cert=pems)
    return etree.tostring(root)


def golden_of(indexes, *, others=(), wrong=()):
    """Golden values for the test device; indexes are counted from 0."""
    found = {}
    for index in indexes:
        value = MEASUREMENTS[index + 1] if index not in wrong else hashlib.sha384(b"other").digest()
        found[index] = ("True", [hashlib.sha384(b"alternative").digest(), value])
    return found | {index: ("False", [bytes(48)]) for index in others}


def rims(authority, *, driver=None, vbios=None, driver_version="550.90.07", vbios_version="96.00.9F.00.01"):
    return {
        DRIVER_ID: signed(swidtag(driver_version, driver or golden_of(range(7, 40), others=[0])), authority),
        VBIOS_ID: signed(swidtag(vbios_version, vbios or golden_of(range(1, 7), others=[0, 63])), authority),
    }
