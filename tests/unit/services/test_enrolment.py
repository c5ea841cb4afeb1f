"""Certificates are issued once, renewed for whom they are, and open nothing beyond that."""

import base64
import hashlib

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.crypto import certificate, http_signature, signing
from wardround.errors import (
    ConflictError,
    CryptoError,
    DigestMismatchError,
    InviteError,
    SignatureError,
    StaleRequestError,
    WardroundError,
    WrongChallengeError,
)
from wardround.protocol import messages
from wardround.protocol.messages import Enrolment, Renewal
from wardround.services.enrolment import CERTIFICATE_SECONDS, GRACE_SECONDS, Enrolments
from wardround.services.renewal import Renewals
from wardround.storage.memory import MemoryRegistry

START = 1_760_000_000.0
HOUR, DAY = 3600.0, 86400.0
AUTHORITY_KEY, AUTHORITY = certificate.create_authority("Test", START)
OTHER_KEY, OTHER = certificate.create_authority("Other", START)
CHALLENGE = "a-start"


class Clock:
    def __init__(self):
        self.time = START

    def now(self):
        return self.time


class Draws:
    def __init__(self):
        self.count = 0

    def draw(self, size):
        self.count += 1
        return hashlib.shake_256(bytes([self.count])).digest(size)


class Hub:
    def __init__(self, **changes):
        self.clock, self.registry = Clock(), MemoryRegistry()
        arguments = {"authority_key": AUTHORITY_KEY, "authority": AUTHORITY, **changes}
        self.enrolments = Enrolments(self.registry, self.clock, Draws(), **arguments)
        self.renewals = Renewals(self.enrolments, self.clock, challenge=CHALLENGE, window_seconds=300.0)

    def enrol(self, name="arran", role="site", *, connection=None, document=None):
        connection, document = connection or signing.generate(), document or signing.generate()
        secret = self.enrolments.invite(name, role, DAY)
        asked = Enrolment(secret, certificate.request(name, connection), certificate.request(name, document))
        return Enrolled(connection, document, self.enrolments.enrol(asked))


class Enrolled:
    def __init__(self, connection, document, answer):
        self.connection, self.document, self.answer = connection, document, answer


def same(one, other):
    return signing.public_bytes(one) == signing.public_bytes(other.public_key())


def renewal(name="arran", key=None):
    return Renewal(certificate.request(name, key or signing.generate()))


def signed(key, body, *, name="arran", created=START, tag=CHALLENGE, nonce="n" * 16, target="/v1/renewals"):
    return http_signature.sign(
        method="POST",
        target=target,
        digest=hashlib.sha256(body).digest(),
        created=int(created),
        nonce=nonce,
        tag=tag,
        keyid=name,
        key=key,
    )


def check(hub, key, body=b"body", **changes):
    return hub.renewals.check("POST", "/v1/renewals", signed(key, body, **changes), hashlib.sha256(body).digest())


def test_a_certificate_for_connections_lives_for_a_day_and_is_for_clients_only():
    answer = Hub().enrol().answer
    opened = x509.load_pem_x509_certificate(answer.certificate)
    assert (opened.not_valid_after_utc.timestamp() - START) == DAY == CERTIFICATE_SECONDS
    usage = opened.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not opened.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = opened.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["wardround:site/arran"]


def test_a_certificate_for_documents_opens_no_connection():
    answer = Hub().enrol().answer
    opened = x509.load_pem_x509_certificate(answer.document)
    usage = opened.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [one.dotted_string for one in usage] == ["1.3.6.1.5.5.7.3.36"]  # RFC 9336
    with pytest.raises(CryptoError, match="purpose"):
        certificate.open_identity(answer.document, AUTHORITY, START, purpose="connection")
    with pytest.raises(CryptoError, match="purpose"):
        certificate.open_identity(answer.certificate, AUTHORITY, START, purpose="document")


def test_requests_and_documents_are_signed_by_different_keys():
    hub = Hub()
    made = hub.enrol()
    assert same(hub.enrolments.open("arran")[1], made.connection)
    assert same(hub.enrolments.signer("arran"), made.document)
    shown = hub.enrolments.identity("arran")
    assert same(certificate.open_identity(shown.certificate, AUTHORITY, START)[2], made.document)


def test_the_answer_says_where_machines_connect():
    assert Hub(url="https://hub:8443").enrol().answer.url == "https://hub:8443"


def test_one_key_for_both_is_refused():
    hub, key = Hub(), signing.generate()
    with pytest.raises(CryptoError, match="a key each"):
        hub.enrol(connection=key, document=key)
    assert hub.registry.identities() == []


@pytest.mark.parametrize("kind", ["connection", "document"])
def test_a_key_that_is_another_names_is_refused(kind):
    hub = Hub()
    other = hub.enrol("bute")
    for theirs in (other.connection, other.document):
        with pytest.raises(CryptoError, match="another name"):
            hub.enrol("arran", **{kind: theirs})
    hub.enrol("arran")
    with pytest.raises(CryptoError, match="another name"):
        hub.enrolments.renew("arran", renewal(key=other.connection))
    with pytest.raises(CryptoError, match="another name"):
        hub.enrolments.renew("arran", renewal(key=other.document))


def test_an_invite_is_not_used_up_by_a_bad_request():
    hub = Hub()
    secret = hub.enrolments.invite("arran", "site", DAY)
    with pytest.raises(CryptoError, match="not for arran"):
        hub.enrolments.enrol(Enrolment(secret, certificate.request("bute", signing.generate())))
    hub.enrolments.enrol(Enrolment(secret, certificate.request("arran", signing.generate())))
    with pytest.raises(InviteError):
        hub.enrolments.enrol(Enrolment(secret, certificate.request("arran", signing.generate())))


def test_a_renewal_replaces_the_key_at_once_and_keeps_the_documents():
    hub = Hub()
    made = hub.enrol()
    hub.clock.time += 12 * HOUR
    key = signing.generate()
    answer = hub.enrolments.renew("arran", renewal(key=key))
    assert same(hub.enrolments.open("arran")[1], key)
    assert same(hub.enrolments.signer("arran"), made.document)
    assert certificate.expires(answer.certificate) == hub.clock.time + DAY
    assert same(certificate.open_identity(answer.document, AUTHORITY, hub.clock.time)[2], made.document)


def test_a_renewal_whose_answer_was_lost_is_answered_with_the_same_certificate():
    hub, key = Hub(), signing.generate()
    hub.enrol()
    asked = renewal(key=key)
    first = hub.enrolments.renew("arran", asked)
    hub.clock.time += HOUR
    assert hub.enrolments.renew("arran", asked) == first
    hub.clock.time += 12 * HOUR
    assert hub.enrolments.renew("arran", asked).certificate != first.certificate


def test_the_documents_key_is_not_taken_for_connections():
    hub = Hub()
    made = hub.enrol()
    with pytest.raises(CryptoError, match="a key each"):
        hub.enrolments.renew("arran", renewal(key=made.document))


def test_a_renewal_for_another_name_is_refused():
    hub = Hub()
    hub.enrol()
    hub.enrol("bute")
    with pytest.raises(CryptoError, match="not for arran"):
        hub.enrolments.renew("arran", renewal("bute"))


def test_a_role_is_never_the_renewers_to_say():
    hub = Hub()
    hub.enrol("ada", "researcher")
    answer = hub.enrolments.renew("ada", renewal("ada"))
    assert answer.role == "researcher"
    assert certificate.open_identity(answer.certificate, AUTHORITY, START)[:2] == ("ada", "researcher")


def test_a_certificate_ends_to_the_second_and_then_only_renews():
    hub = Hub()
    made = hub.enrol()
    hub.clock.time = START + DAY - 1
    hub.enrolments.open("arran")
    hub.clock.time = START + DAY + 1
    with pytest.raises(CryptoError, match="expired"):
        hub.enrolments.open("arran")
    assert same(hub.enrolments.open_for_renewal("arran"), made.connection)
    hub.enrolments.renew("arran", renewal())
    hub.enrolments.open("arran")


def test_after_the_grace_it_takes_an_invite():
    hub = Hub()
    made = hub.enrol()
    hub.clock.time = START + DAY + GRACE_SECONDS + 1
    with pytest.raises(CryptoError, match="expired"):
        check(hub, made.connection, created=hub.clock.time)
    with pytest.raises(CryptoError, match="expired"):
        hub.enrolments.renew("arran", renewal())
    hub.enrol(document=made.document)
    assert same(hub.enrolments.signer("arran"), made.document)
    hub.enrolments.open("arran")


def test_a_certificate_of_the_future_is_refused():
    hub = Hub()
    hub.enrol()
    hub.clock.time = START - HOUR
    with pytest.raises(CryptoError, match="not valid before"):
        hub.enrolments.open("arran")


def test_who_was_revoked_neither_works_nor_renews():
    hub = Hub()
    made = hub.enrol()
    hub.registry.revoke("arran")
    assert hub.enrolments.revoked() == {"arran"}
    for refused in (hub.enrolments.open, hub.enrolments.open_for_renewal, hub.enrolments.signer):
        with pytest.raises(SignatureError):
            refused("arran")
    with pytest.raises(SignatureError):
        hub.enrolments.renew("arran", renewal())
    with pytest.raises(SignatureError):
        check(hub, made.connection)


def test_a_revocation_between_is_not_undone_by_a_renewal():
    hub = Hub()
    hub.enrol()
    replace = hub.registry.replace

    def revoked_first(identity, *, before):
        hub.registry.revoke("arran")
        replace(identity, before=before)

    hub.registry.replace = revoked_first
    with pytest.raises(SignatureError):
        hub.enrolments.renew("arran", renewal())
    assert hub.enrolments.revoked() == {"arran"}


def test_of_two_renewals_at_once_one_holds_and_the_other_hears_of_it():
    hub = Hub()
    hub.enrol()
    replace, first = hub.registry.replace, signing.generate()

    def other_first(identity, *, before):
        hub.registry.replace = replace
        hub.enrolments.renew("arran", renewal(key=first))
        replace(identity, before=before)

    hub.registry.replace = other_first
    with pytest.raises(ConflictError):
        hub.enrolments.renew("arran", renewal())
    assert same(hub.enrolments.open("arran")[1], first)


def test_a_row_of_another_authority_or_name_opens_nothing():
    hub, other = Hub(), Hub(authority_key=OTHER_KEY, authority=OTHER)
    other.enrol()
    hub.registry.add_identity(other.registry.identity("arran"))
    with pytest.raises(CryptoError, match="not issued"):
        hub.enrolments.open("arran")
    hub.enrol("bute")
    row = hub.registry.identity("bute")
    hub.registry.add_identity(messages.Identity("skye", "site", row.certificate))
    with pytest.raises(SignatureError, match="another site's"):
        hub.enrolments.open("skye")


def test_while_one_authority_takes_over_both_are_trusted_and_one_issues():
    hub = Hub()
    hub.enrol()
    hub.enrolments.trust(AUTHORITY_KEY, AUTHORITY + OTHER)
    answer = hub.enrolments.renew("arran", renewal())
    certificate.open_identity(answer.certificate, AUTHORITY, START)
    assert answer.authority == AUTHORITY + OTHER
    hub.enrolments.trust(OTHER_KEY, AUTHORITY + OTHER)
    hub.enrolments.open("arran")
    answer = hub.enrolments.renew("arran", renewal())
    certificate.open_identity(answer.certificate, OTHER, START)
    with pytest.raises(CryptoError, match="not issued"):
        certificate.open_identity(answer.certificate, AUTHORITY, START)
    hub.enrolments.trust(OTHER_KEY, OTHER)
    hub.enrolments.open("arran")


def test_a_retired_authority_opens_nothing_that_was_opened_before():
    hub = Hub()
    hub.enrol()
    hub.enrolments.open("arran")
    hub.enrolments.trust(OTHER_KEY, OTHER)
    with pytest.raises(CryptoError, match="not issued"):
        hub.enrolments.open("arran")


def test_a_renewal_is_signed_by_the_present_key():
    hub = Hub()
    made = hub.enrol()
    assert check(hub, made.connection) == "arran"
    for wrong in (made.document, signing.generate()):
        with pytest.raises(SignatureError):
            check(hub, wrong, nonce="m" * 16)


def test_a_renewal_counts_once_and_only_near_its_time_and_start():
    hub = Hub()
    made = hub.enrol()
    check(hub, made.connection)
    with pytest.raises(StaleRequestError, match="received before"):
        check(hub, made.connection)
    with pytest.raises(StaleRequestError, match="behind"):
        check(hub, made.connection, nonce="m" * 16, created=START - 600)
    with pytest.raises(WrongChallengeError):
        check(hub, made.connection, nonce="o" * 16, tag="another-start")


def test_a_renewals_body_and_address_are_under_the_signature():
    hub = Hub()
    made = hub.enrol()
    headers = signed(made.connection, b"body")
    with pytest.raises(DigestMismatchError):
        hub.renewals.check("POST", "/v1/renewals", headers, hashlib.sha256(b"other").digest())
    elsewhere = signed(made.connection, b"body", nonce="m" * 16, target="/v1/studies")
    with pytest.raises(SignatureError):
        hub.renewals.check("POST", "/v1/renewals", elsewhere, hashlib.sha256(b"body").digest())


@settings(max_examples=60)
@given(st.binary(max_size=200) | st.just(b"-----BEGIN CERTIFICATE REQUEST-----\n" + b"A" * 20000))
def test_bytes_that_are_no_request_are_refused_and_nothing_changes(data):
    hub = Hub()
    hub.enrol()
    before = hub.registry.identity("arran")
    with pytest.raises(WardroundError):
        hub.enrolments.renew("arran", Renewal(data))
    assert hub.registry.identity("arran") == before


def test_a_request_with_a_foreign_signature_is_refused():
    hub = Hub()
    hub.enrol()
    pem = certificate.request("arran", signing.generate())
    der = bytearray(base64.b64decode(b"".join(pem.splitlines()[1:-1])))
    der[-1] ^= 1
    text = base64.encodebytes(bytes(der)).decode()
    forged = f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n".encode()
    with pytest.raises(CryptoError):
        hub.enrolments.renew("arran", Renewal(forged))
