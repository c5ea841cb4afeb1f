"""A copy of Intel's authorities under keys of our own, and quotes that they sign: for what no sample shows.

Every certificate, list and judgement is rebuilt from a genuine one with its names, numbers and times, so that only the
keys differ. Quotes are rebuilt from a genuine one, too, with a body that a test may change.
"""

import functools
import hashlib
import json

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from tests.unit.attestation.processors import EVIDENCE
from tests.unit.attestation.quotes import split

NOW = 1_750_416_000.0  # 2025-06-20, inside the collateral of the samples that are rebuilt.


@functools.cache
def _key(name):
    del name
    return ec.generate_private_key(ec.SECP256R1())


def _common_name(name):
    return name.rfc4514_string().partition("CN=")[2].partition(",")[0]


def _shortened(genuine):
    # Some of Intel's numbers have 160 bits, which the builder of revocation lists does not take.
    return genuine.serial_number % 2**158


def _rebuilt(genuine):
    subject, issuer = _common_name(genuine.subject), _common_name(genuine.issuer)
    key = _key(subject).public_key()
    builder = x509.CertificateBuilder(
        genuine.issuer, genuine.subject, key, _shortened(genuine), genuine.not_valid_before_utc,
        genuine.not_valid_after_utc,
    )  # fmt: skip
    for extension in genuine.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectKeyIdentifier):
            value = x509.SubjectKeyIdentifier.from_public_key(key)
        elif isinstance(value, x509.AuthorityKeyIdentifier):
            value = x509.AuthorityKeyIdentifier.from_issuer_public_key(_key(issuer).public_key())
        builder = builder.add_extension(value, extension.critical)
    return builder.sign(_key(issuer), hashes.SHA256())


def _rebuilt_list(data, revoked):
    genuine = x509.load_der_x509_crl(data)
    issuer = _common_name(genuine.issuer)
    builder = x509.CertificateRevocationListBuilder(genuine.issuer, genuine.last_update_utc, genuine.next_update_utc)
    for extension in genuine.extensions:
        value = extension.value
        if isinstance(value, x509.AuthorityKeyIdentifier):
            value = x509.AuthorityKeyIdentifier.from_issuer_public_key(_key(issuer).public_key())
        builder = builder.add_extension(value, extension.critical)
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial)
        builder = builder.add_revoked_certificate(entry.revocation_date(genuine.last_update_utc).build())
    return builder.sign(_key(issuer), hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _chain(text):
    return [_rebuilt(item) for item in x509.load_pem_x509_certificates(text.encode())]


def _pem(chain):
    return "".join(item.public_bytes(serialization.Encoding.PEM).decode() for item in chain)


def _raw_signature(name, message):
    r, s = decode_dss_signature(_key(name).sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def root_der():
    chain = json.loads((EVIDENCE / "tdx/phala/tdx_quote_collateral.json").read_text())["pck_crl_issuer_chain"]
    return _chain(chain)[-1].public_bytes(serialization.Encoding.DER)


def root_key_id():
    point = _key("Intel SGX Root CA").public_key()
    encoded = point.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return hashlib.sha384(encoded).hexdigest()


def collateral(name, *, revoked=(), revoked_by_root=(), edit=lambda info: info):
    """The genuine collateral `name`, judged again: `edit` may change the TCB info before it is signed."""
    genuine = json.loads((EVIDENCE / name).read_text())
    info = json.dumps(edit(json.loads(genuine["tcb_info"])))
    made = dict(genuine)
    for field in ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain"):
        made[field] = _pem(_chain(genuine[field]))
    made["root_ca_crl"] = _rebuilt_list(bytes.fromhex(genuine["root_ca_crl"]), revoked_by_root).hex()
    made["pck_crl"] = _rebuilt_list(bytes.fromhex(genuine["pck_crl"]), revoked).hex()
    signer = "Intel SGX TCB Signing"
    made["tcb_info"], made["tcb_info_signature"] = info, _raw_signature(signer, info.encode()).hex()
    made["qe_identity_signature"] = _raw_signature(signer, genuine["qe_identity"].encode()).hex()
    return json.dumps(made)


def quote(genuine, edit=lambda body: body):
    """The genuine quote, signed by us: `edit` may change its body."""
    parts = split(genuine)
    chain = _chain(parts.chain.decode())
    signed = parts.header + parts.prefix + edit(parts.body)
    attestation = _key("attestation").public_key()
    point = attestation.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)[1:]
    binding = hashlib.sha256(point + parts.qe_authentication).digest() + bytes(32)
    qe_report = parts.qe_report[:320] + binding
    leaf = _common_name(chain[0].subject)
    certificates = _pem(chain).encode()
    inner = qe_report + _raw_signature(leaf, qe_report)
    inner += len(parts.qe_authentication).to_bytes(2, "little") + parts.qe_authentication
    inner += (5).to_bytes(2, "little") + len(certificates).to_bytes(4, "little") + certificates
    if parts.is_wrapped:
        inner = (6).to_bytes(2, "little") + len(inner).to_bytes(4, "little") + inner
    tail = _raw_signature("attestation", signed) + point + inner
    return signed + len(tail).to_bytes(4, "little") + tail


def serial_of(genuine, depth=0):
    """The serial number of the platform's certificate in a quote, or of the authority `depth` above it."""
    return _shortened(x509.load_pem_x509_certificates(split(genuine).chain)[depth])
