import base64
import hashlib
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import assume, given
from hypothesis import strategies as st

from wardround.crypto import certificate, signing
from wardround.errors import CodecError, CryptoError

NOW = 1_760_000_000.0
DAY = 86_400.0
KEY = signing.PrivateKey.from_private_bytes(bytes(range(32)))
AUTHORITY_KEY, AUTHORITY = certificate.create_authority("Test federation", NOW)
OTHER_KEY, OTHER = certificate.create_authority("Test federation", NOW)
REQUEST = certificate.request("site-a", KEY)
IDENTITY = certificate.issue(REQUEST, "site-a", "site", AUTHORITY_KEY, AUTHORITY, NOW, 90 * DAY)
SERVER_KEY, SERVER = certificate.issue_server(AUTHORITY_KEY, AUTHORITY, ["hub.example", "127.0.0.1", "::1"], NOW, DAY)


def issued(
    request=REQUEST, *, name="site-a", role="site", key=AUTHORITY_KEY, authority=AUTHORITY, now=NOW, lifetime=DAY
):
    return certificate.issue(request, name, role, key, authority, now, lifetime)


def request_for(subject, key, algorithm=None):
    name = x509.Name([x509.NameAttribute(oid, text) for oid, text in subject])
    builder = x509.CertificateSigningRequestBuilder(subject_name=name)
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)


def signed_by_the_authority(
    *, key=KEY, common_name="site-a", uris=("wardround:site/site-a",), usage=ExtendedKeyUsageOID.CLIENT_AUTH, ca=False
):
    """A certificate such as `issue` would never make."""
    authority = x509.load_pem_x509_certificate(AUTHORITY)
    return (
        x509.CertificateBuilder(
            issuer_name=authority.subject,
            subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]),
            public_key=key.public_key(),
        )
        .serial_number(1)
        .not_valid_before(authority.not_valid_before_utc)
        .not_valid_after(authority.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris]), critical=False
        )
        .sign(serialization.load_pem_private_key(AUTHORITY_KEY, None), hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def altered(pem, position):
    """The same PEM with one byte of its DER changed."""
    label = "CERTIFICATE REQUEST" if b"REQUEST" in pem else "CERTIFICATE"
    body = b"".join(pem.splitlines()[1:-1])
    der = bytearray(base64.b64decode(body))
    der[position % len(der)] ^= 1
    text = base64.encodebytes(bytes(der)).decode()
    return f"-----BEGIN {label}-----\n{text}-----END {label}-----\n".encode()


def says_the_same(pem):
    """Whether what is signed and the signature are unchanged: a bit string may count a last bit of 0 as unused."""
    was = x509.load_pem_x509_certificate(IDENTITY)
    try:
        now = x509.load_pem_x509_certificate(pem)
        return (now.tbs_certificate_bytes, now.signature) == (was.tbs_certificate_bytes, was.signature)
    except (ValueError, x509.InvalidVersion):
        return False


def test_an_identity_opens_to_name_role_and_key():
    name, role, key = certificate.open_identity(IDENTITY, AUTHORITY, NOW)
    assert (name, role) == ("site-a", "site")
    assert signing.public_bytes(key) == signing.public_bytes(KEY.public_key())


def test_it_is_valid_from_a_little_earlier_until_the_second_it_expires():
    assert certificate.expires(IDENTITY) == NOW + 90 * DAY
    certificate.open_identity(IDENTITY, AUTHORITY, NOW - 300)
    certificate.open_identity(IDENTITY, AUTHORITY, NOW + 90 * DAY)


def test_an_expired_certificate_is_refused_with_its_name_and_date():
    with pytest.raises(CryptoError, match=r"certificate of site-a expired on 2026-01-07 08:53:20 UTC"):
        certificate.open_identity(IDENTITY, AUTHORITY, NOW + 90 * DAY + 1)


def test_a_certificate_from_the_future_is_refused():
    later = issued(now=NOW + DAY)
    with pytest.raises(CryptoError, match="not valid before"):
        certificate.open_identity(later, AUTHORITY, NOW)


def test_an_expired_authority_is_refused():
    with pytest.raises(CryptoError, match=r"the authority's certificate expired on 2035"):
        certificate.open_identity(IDENTITY, AUTHORITY, NOW + 4000 * DAY)
    with pytest.raises(CryptoError, match="expired"):
        issued(now=NOW + 4000 * DAY)


def test_a_time_that_is_none_is_refused():
    with pytest.raises(CryptoError):
        certificate.open_identity(IDENTITY, AUTHORITY, float("nan"))


def test_nothing_outlives_its_authority():
    assert certificate.expires(AUTHORITY) == NOW + 3652 * DAY
    assert certificate.expires(issued(lifetime=9999 * DAY)) == certificate.expires(AUTHORITY)


def test_another_authority_of_the_same_name_is_refused():
    with pytest.raises(CryptoError, match="not issued by"):
        certificate.open_identity(IDENTITY, OTHER, NOW)


def test_another_authority_of_another_name_is_refused():
    with pytest.raises(CryptoError, match="not issued by"):
        certificate.open_identity(IDENTITY, certificate.create_authority("Elsewhere", NOW)[1], NOW)


@pytest.mark.parametrize("other", [SERVER, AUTHORITY], ids=["server", "authority"])
def test_a_certificate_of_our_authority_for_something_else_is_no_identity(other):
    with pytest.raises(CryptoError, match="not the certificate of a person or site"):
        certificate.open_identity(other, AUTHORITY, NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"key": ec.generate_private_key(ec.SECP256R1())},
        {"common_name": "site-b"},
        {"uris": ["wardround:site/site-b"]},
        {"uris": []},
        {"uris": ["wardround:site/site-a", "wardround:operator/site-a"]},
        {"uris": ["wardround:site/site-a/x"]},
        {"uris": ["https://hub.example/site-a"]},
        {"usage": ExtendedKeyUsageOID.SERVER_AUTH},
        {"ca": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_certificate_of_another_form_is_no_identity(changes):
    assert certificate.open_identity(signed_by_the_authority(), AUTHORITY, NOW)[:2] == ("site-a", "site")
    with pytest.raises(CryptoError, match=r"not the certificate of|not Ed25519"):
        certificate.open_identity(signed_by_the_authority(**changes), AUTHORITY, NOW)


@given(position=st.integers(0, 2000))
def test_an_altered_certificate_is_refused(position):
    changed = altered(IDENTITY, position)
    assume(not says_the_same(changed))
    with pytest.raises(CryptoError):
        certificate.open_identity(changed, AUTHORITY, NOW)


@given(position=st.integers(0, 2000))
def test_an_altered_request_is_refused(position):
    with pytest.raises(CryptoError):
        issued(altered(REQUEST, position))


@given(data=st.binary(max_size=200))
def test_garbage_is_refused(data):
    with pytest.raises(CryptoError):
        certificate.open_identity(data, AUTHORITY, NOW)
    with pytest.raises(CryptoError):
        issued(data)
    with pytest.raises(CryptoError):
        certificate.expires(data)
    with pytest.raises(CryptoError):
        certificate.fingerprint(data)
    with pytest.raises(CryptoError):
        issued(key=data)


def test_a_request_for_another_name_is_refused():
    with pytest.raises(CryptoError, match="not for site-b"):
        issued(name="site-b")


@pytest.mark.parametrize(
    "subject",
    [
        [],
        [(NameOID.COMMON_NAME, "site-a"), (NameOID.COMMON_NAME, "site-b")],
        [(NameOID.COMMON_NAME, "site-a"), (NameOID.ORGANIZATION_NAME, "Hospital")],
        [(NameOID.ORGANIZATION_NAME, "site-a")],
        [(NameOID.COMMON_NAME, "site-a ")],
    ],
)
def test_a_request_with_another_subject_than_the_name_is_refused(subject):
    with pytest.raises(CryptoError, match="not for site-a"):
        issued(request_for(subject, KEY))


@pytest.mark.parametrize(
    "key", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())], ids=["rsa", "p-256"]
)
def test_a_request_with_a_key_of_another_kind_is_refused(key):
    with pytest.raises(CryptoError, match="not Ed25519"):
        issued(request_for([(NameOID.COMMON_NAME, "site-a")], key, hashes.SHA256()))


def test_a_request_for_somebody_elses_key_is_refused():
    mine = x509.load_pem_x509_csr(REQUEST).public_bytes(serialization.Encoding.DER)
    theirs = ed25519.Ed25519PrivateKey.generate().public_key()
    swapped = mine.replace(signing.public_bytes(KEY.public_key()), signing.public_bytes(theirs))
    pem = x509.load_der_x509_csr(swapped).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(CryptoError, match="not signed by its own key"):
        issued(pem)


def test_a_request_that_is_too_large_is_refused():
    with pytest.raises(CryptoError, match="16384"):
        issued(REQUEST + b"\n" * 16384)


def test_nothing_but_the_key_is_taken_from_a_request():
    builder = x509.CertificateSigningRequestBuilder(
        subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "site-a")])
    ).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    opened = x509.load_pem_x509_certificate(issued(builder.sign(KEY, None).public_bytes(serialization.Encoding.PEM)))
    assert opened.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


@pytest.mark.parametrize("name", ["", "Site-A", "site a", "a" * 64, "site-a/../b"])
def test_a_name_must_be_a_name(name):
    with pytest.raises(CodecError):
        certificate.request(name, KEY)
    with pytest.raises(CodecError):
        issued(name=name)


@pytest.mark.parametrize("role", ["", "Site", "site/x", "r" * 33])
def test_a_role_must_be_a_word(role):
    with pytest.raises(ValueError):
        issued(role=role)


@pytest.mark.parametrize("lifetime", [0, -1, float("nan")])
def test_a_lifetime_must_be_positive(lifetime):
    with pytest.raises(ValueError):
        issued(lifetime=lifetime)


def test_the_authoritys_key_must_be_the_one_of_its_certificate():
    with pytest.raises(CryptoError, match="not the one of its certificate"):
        issued(key=OTHER_KEY)
    with pytest.raises(CryptoError, match="not the one of its certificate"):
        issued(key=signing.private_pem(KEY))


def test_a_server_cannot_issue():
    with pytest.raises(CryptoError, match="not an authority's"):
        issued(key=SERVER_KEY, authority=SERVER)


def test_a_servers_hosts_are_names_and_addresses():
    opened = x509.load_pem_x509_certificate(SERVER)
    names = opened.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["hub.example"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


@pytest.mark.parametrize("hosts", [[], [""], ["Hub.Example"], ["a b"], ["-a"], ["a..b"], ["hub.example:8443"], ["é"]])
def test_a_host_must_be_a_name_or_an_address(hosts):
    with pytest.raises(ValueError):
        certificate.issue_server(AUTHORITY_KEY, AUTHORITY, hosts, NOW, DAY)


def test_a_fingerprint_is_the_one_that_openssl_shows():
    der = ssl.PEM_cert_to_DER_cert(IDENTITY.decode())
    assert certificate.fingerprint(IDENTITY) == hashlib.sha256(der).hexdigest()


def test_every_certificate_has_its_own_serial_number():
    serials = {x509.load_pem_x509_certificate(pem).serial_number for pem in (AUTHORITY, IDENTITY, SERVER, issued())}
    assert len(serials) == 4


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl command")
@pytest.mark.parametrize(
    ("pem", "purpose", "extra"),
    [
        (IDENTITY, "sslclient", []),
        (SERVER, "sslserver", ["-verify_hostname", "hub.example"]),
        (SERVER, "sslserver", ["-verify_ip", "127.0.0.1"]),
    ],
    ids=["identity", "server name", "server address"],
)
def test_openssl_verifies_strictly(tmp_path: Path, pem, purpose, extra):
    (tmp_path / "authority.pem").write_bytes(AUTHORITY)
    (tmp_path / "end.pem").write_bytes(pem)
    command = ["openssl", "verify", "-x509_strict", "-check_ss_sig", "-attime", str(int(NOW)), "-purpose", purpose]
    done = subprocess.run(
        [*command, *extra, "-CAfile", "authority.pem", "end.pem"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_both_ends_of_tls_accept_each_other_under_strict_verification(tmp_path: Path):
    # In memory: OpenSSL reads the time from the machine, so these are issued around it.
    now = Path(tmp_path).stat().st_mtime
    authority_key, authority = certificate.create_authority("Test federation", now)
    server_key, server = certificate.issue_server(authority_key, authority, ["hub.example"], now, DAY)
    client = certificate.issue(REQUEST, "site-a", "site", authority_key, authority, now, DAY)
    ends = {"server": (server_key, server), "client": (signing.private_pem(KEY), client)}
    contexts = {}
    for name, (key, pem) in ends.items():
        (tmp_path / name).write_bytes(key + pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if name == "server" else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
        context.load_cert_chain(tmp_path / name)
        context.load_verify_locations(cadata=authority.decode())
        contexts[name] = context
    pipes = [ssl.MemoryBIO(), ssl.MemoryBIO()]
    hub = contexts["server"].wrap_bio(pipes[0], pipes[1], server_side=True)
    node = contexts["client"].wrap_bio(pipes[1], pipes[0], server_hostname="hub.example")
    for _ in range(3):
        for end in (node, hub):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert hub.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(client.decode())
    assert node.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(server.decode())
