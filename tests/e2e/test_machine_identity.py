"""Who a machine is, over real sockets: handshakes, renewals, revocations, and proxies that alter what passes."""

import http.server
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID
from federation import Federation, Followed, Process, declare, free_port, records, until, wardround_command, write_csv
from wire import Wire

from wardround.crypto import certificate, signing
from wardround.errors import CodecError, CryptoError, NotFoundError, SignatureError, UnavailableError, WardroundError
from wardround.hub import setup as hub_setup
from wardround.node import setup as node_setup
from wardround.protocol.messages import Renewal, TaskRequest
from wardround.transport import connection, credential, renewing
from wardround.transport.http import HttpHub

pytestmark = pytest.mark.processes
DAY = 86400.0


class World:
    """A hub with a site that is enrolled, and the hub's authority in the test's hands."""

    def __init__(self, place: Path, **settings: object) -> None:
        self.place = place
        self.federation = Federation(place)
        configure(self.federation.hub_folder, **settings)
        self.federation.start_hub()
        self.folder = self.federation.enrol_site("arran")
        self.authority_key = (self.federation.hub_folder / "keys" / "authority.key").read_bytes()
        self.authority = self.federation.authority

    def port(self, *, public: bool = False) -> int:
        url = self.federation.url_public if public else self.federation.url
        return int(url.rpartition(":")[2])

    def issue(self, key: signing.PrivateKey, name: str = "arran", role: str = "site", **changes: Any) -> bytes:
        arguments = {"now": time.time(), "lifetime_seconds": DAY, **changes}
        return certificate.certify(key.public_key(), name, role, self.authority_key, self.authority, **arguments)


def configure(folder: Path, **settings: object) -> None:
    path = folder / "hub.toml"
    lines = [line for line in path.read_text().splitlines() if line.split(" =")[0] not in settings]
    path.write_text("\n".join([*lines, *(f"{name} = {json.dumps(value)}" for name, value in settings.items())]) + "\n")


@contextmanager
def opened(place: Path, **settings: object) -> Iterator[World]:
    world = World(place, **settings)
    try:
        yield world
        log = world.federation.hub.text()
        assert "Traceback" not in log, log
        assert "request failed" not in log, log
    finally:
        world.federation.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with opened(tmp_path_factory.mktemp("identity")) as made:
        yield made


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A hub behind a proxy that ends TLS."""
    with opened(tmp_path_factory.mktemp("behind"), client_certificates="proxy") as made:
        yield made


# Handshakes.


def shake(port: int, authority: bytes, held: Path | None, *, most: ssl.TLSVersion | None = None) -> str:
    """The TLS version that is spoken, once the server has answered a request; raises what refuses it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority.decode())
    if most is not None:
        context.maximum_version = most
    if held is not None:
        context.load_cert_chain(held)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10.0) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        tls.sendall(b"GET /healthz HTTP/1.1\r\nhost: hub\r\nconnection: close\r\n\r\n")
        assert tls.recv(4096).startswith(b"HTTP/1.1 200")
        return tls.version() or ""


def written(tmp_path: Path, key: signing.PrivateKey, issued: bytes) -> Path:
    path = tmp_path / "held.pem"
    credential.replace_private(path, signing.private_pem(key) + issued)
    return path


REFUSED = r"(?i)alert|certificate|reset|eof|broken"


@pytest.mark.parametrize("public", [False, True])
def test_both_doors_speak_tls_1_3_and_nothing_older(world: World, public: bool) -> None:
    held = world.folder / "keys" / "connection.pem"
    assert shake(world.port(public=public), world.authority, held) == "TLSv1.3"
    with pytest.raises(OSError, match=r"(?i)alert|version|protocol"):
        shake(world.port(public=public), world.authority, held, most=ssl.TLSVersion.TLSv1_2)


def test_machines_without_a_certificate_do_not_get_in(world: World) -> None:
    with pytest.raises(OSError, match=REFUSED):
        shake(world.port(), world.authority, None)
    assert shake(world.port(public=True), world.authority, None) == "TLSv1.3"


@pytest.mark.parametrize(
    "wrong",
    ["expired", "not yet valid", "another authority's", "a document's", "self-signed", "the server's", "the authority"],
)
def test_a_certificate_that_is_not_for_this_does_not_get_in(world: World, tmp_path: Path, wrong: str) -> None:
    key, now, hub = signing.generate(), time.time(), world.federation.hub_folder
    good = written(tmp_path, key, world.issue(key))
    assert shake(world.port(), world.authority, good) == "TLSv1.3"
    if wrong == "expired":
        held = written(tmp_path, key, world.issue(key, now=now - 200, lifetime_seconds=60.0))
    elif wrong == "not yet valid":
        held = written(tmp_path, key, world.issue(key, now=now + 3600))
    elif wrong == "a document's":
        held = written(tmp_path, key, world.issue(key, purpose="document"))
    elif wrong == "another authority's":
        made = certificate.create_authority("Wardround hub", now)
        held = written(tmp_path, key, certificate.certify(key.public_key(), "arran", "site", *made, now, DAY))
    elif wrong == "self-signed":
        held = written(tmp_path, key, self_signed(key))
    else:
        place, name = (hub, "tls") if wrong == "the server's" else (hub, "authority")
        held = tmp_path / "other.pem"
        credential.replace_private(
            held, (hub / "keys" / f"{name}.key").read_bytes() + (place / f"{name}.crt").read_bytes()
        )
    with pytest.raises(OSError, match=REFUSED):
        shake(world.port(), world.authority, held)


def self_signed(key: signing.PrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "arran")])
    pattern = x509.load_pem_x509_certificate(certificate.create_authority("x", time.time())[1])
    builder = x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
    builder = builder.serial_number(1).not_valid_before(pattern.not_valid_before_utc)
    signed = builder.not_valid_after(pattern.not_valid_after_utc).sign(key, None)
    return signed.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("held", ["a site's", "another authority's", "an expired"])
def test_a_certificate_that_is_no_hubs_is_no_hub(world: World, tmp_path: Path, held: str) -> None:
    now, pair = time.time(), (world.authority_key, world.authority)
    if held == "a site's":
        key = signing.generate()
        path = written(tmp_path, key, world.issue(key))
    else:
        if held == "another authority's":
            pair = certificate.create_authority("Wardround hub", now)
            private, issued = certificate.issue_server(*pair, ["127.0.0.1"], now, DAY)
        else:
            private, issued = certificate.issue_server(*pair, ["127.0.0.1"], now - 200, 60.0)
        path = tmp_path / "server.pem"
        credential.replace_private(path, private + issued)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept_one, args=(listener, context), daemon=True).start()
        with pytest.raises(CryptoError, match="not valid"):
            connection.clock_offset(f"https://127.0.0.1:{listener.getsockname()[1]}", world.authority)


def accept_one(listener: socket.socket, context: ssl.SSLContext) -> None:
    near, _ = listener.accept()
    with near:
        try:
            context.wrap_socket(near, server_side=True).close()
        except OSError:
            return


# What the public door lets through, and to whom a signature belongs.


def test_the_public_door_has_the_public_addresses_only(world: World) -> None:
    wire = Wire(world.federation.url_public, world.folder, "arran")
    for target, status in {"/healthz": 200, "/v1/authority": 200, "/v1/signer": 200, "/metrics": 404}.items():
        assert wire.raw("GET", target, b"", {}).status == status
    for target in ("/v1/studies", "/v1/tasks", "/v1/identities/arran", "/v1/authority/", "//v1/studies"):
        answer = wire.raw("GET", target, b"", wire.sign("GET", target))
        assert answer.status == 404, target


def test_the_connections_certificate_lends_nobody_its_name(world: World) -> None:
    """The handshake is arran's, the signature says bute: only the signature counts, and bute's key is not there."""
    world.federation.enrol_site("bute")
    wire = Wire(world.federation.url, world.folder, "bute")
    wire.challenge = "none"
    answer = wire.raw("GET", "/v1/studies", b"", wire.sign("GET", "/v1/studies"))
    assert (answer.status, answer.code) == (401, "crypto/signature")


def test_a_site_does_not_speak_as_a_researcher(world: World) -> None:
    wire = Wire(world.federation.url, world.folder, "arran")
    wire.meet()
    assert wire.post("/v1/studies", {}).code == "protocol/forbidden"


# Revocation.


def test_a_held_request_of_whoever_is_revoked_ends_with_a_refusal(world: World) -> None:
    folder = world.federation.enrol_site("gone")
    wire = Wire(world.federation.url, folder, "gone")
    wire.meet()
    found: list[Any] = []
    body = msgspec.msgpack.encode(TaskRequest((), 40.0))
    asking = threading.Thread(target=lambda: found.append(wire.call("POST", "/v1/tasks", body)), daemon=True)
    asking.start()
    time.sleep(1.0)
    assert not found
    assert wardround_command("hub", "revoke", "gone", world.federation.hub_folder).returncode == 0
    asking.join(5.0)  # It was to be held for forty seconds.
    assert found
    assert (found[0].status, found[0].code) == (401, "crypto/signature")
    assert wire.call("GET", "/v1/studies").code == "crypto/signature"
    hub = HttpHub(
        world.federation.url_public,
        name="gone",
        credential=credential.load(folder / "keys" / "connection.pem"),
        authority=world.authority,
    )
    with pytest.raises(SignatureError):
        hub.renew(Renewal(certificate.request("gone", signing.generate())))
    hub.close()


# Renewal.


def hub_of(world: World, folder: Path, *, public: bool = False) -> HttpHub:
    url = world.federation.url_public if public else world.federation.url
    held = credential.load(folder / "keys" / "connection.pem")
    return HttpHub(url, name=folder.name, credential=held, authority=world.authority)


def test_an_answer_to_a_renewal_that_is_lost_is_survived(world: World) -> None:
    folder = world.federation.enrol_site("skye")
    place = node_setup.place_of(folder, node_setup.load_config(folder))
    hub, before = hub_of(world, folder), place.connection.read_bytes()
    hub.studies()
    waiting = credential.stage(place.connection)
    asking = hub_of(world, folder, public=True)
    asking.renew(Renewal(certificate.request("skye", waiting)))  # The hub has switched, and its answer is lost here.
    assert place.connection.read_bytes() == before
    hub.studies()
    fresh = hub_of(world, folder)
    fresh.studies()
    held = renewing.renew(place)
    assert place.connection.read_bytes() != before
    assert signing.private_pem(held.key) == signing.private_pem(waiting)
    assert not place.connection.with_suffix(".next").exists()
    hub.studies()
    for one in (hub, asking, fresh):
        one.close()


def test_another_process_rotates_the_key_and_who_is_connected_goes_on(world: World) -> None:
    folder = world.federation.enrol_site("islay")
    hub = hub_of(world, folder)
    hub.studies()
    before = (folder / "keys" / "connection.pem").read_bytes()
    done = wardround_command("node", "rotate-key", folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "keys" / "connection.pem").read_bytes() != before
    hub.studies()
    hub.close()
    old = tuple(place for place in (folder / "keys").iterdir() if place.name.startswith("."))
    assert old == ()


def test_a_stolen_key_is_worth_nothing_once_it_was_rotated(world: World, tmp_path: Path) -> None:
    folder = world.federation.enrol_site("jura")
    stolen = tmp_path / "stolen.pem"
    credential.replace_private(stolen, (folder / "keys" / "connection.pem").read_bytes())
    node_setup.rotate_key(folder)
    thief = HttpHub(world.federation.url, name="jura", credential=credential.load(stolen), authority=world.authority)
    with pytest.raises(SignatureError):
        thief.studies()
    thief.close()


def test_a_new_invite_gives_a_site_another_connection_and_leaves_its_documents(world: World) -> None:
    folder = world.federation.enrol_site("mull")
    document = (folder / "keys" / "node.key").read_bytes()
    hub_setup.revoke(world.federation.hub_folder, "mull")
    with pytest.raises(SignatureError):
        node_setup.rotate_key(folder)
    node_setup.rotate_key(folder, world.federation.invite("mull"))
    hub = hub_of(world, folder)
    hub.studies()
    hub.close()
    assert (folder / "keys" / "node.key").read_bytes() == document
    with pytest.raises(WardroundError, match="for mull, not for"):
        node_setup.rotate_key(world.folder, world.federation.invite("mull"))


def test_the_files_of_keys_are_their_owners_alone(world: World) -> None:
    for folder in (world.folder, world.federation.hub_folder):
        for path in (folder / "keys").iterdir():
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_node_renews_while_it_works_and_a_researcher_after_weeks(tmp_path: Path) -> None:
    """Certificates of six seconds stand for those of a day."""
    with opened(tmp_path, certificate_hours=6 / 3600) as world:
        federation = world.federation
        researcher = federation.enrol_researcher()
        for site in ("arran", "bute"):
            folder = federation.place / site if site == "arran" else federation.enrol_site(site)
            write_csv(folder, records(site))
            federation.start_node(site)
        serials = {serial(federation.place / "arran")}

        def renewed() -> bool:
            serials.add(serial(federation.place / "arran"))
            return len(serials) > 2

        until("two renewals", renewed, seconds=20.0)
        assert time.time() > credential.load(federation.place / "ada" / "keys" / "connection.pem").expires()
        assert researcher.hub.studies() == []  # Renewed on the way, in the time of grace.
        submitted = researcher.submit(declare(("arran", "bute")))
        federation.approve(submitted.study, ("arran", "bute"))
        run = Followed(researcher, researcher.status(submitted.study).runs[-1])
        run.completed()
        researcher.hub.close()
        assert not federation.nodes["arran"].lines("certificate not renewed")


def serial(folder: Path) -> int:
    data = (folder / "keys" / "connection.pem").read_bytes()
    return x509.load_pem_x509_certificate(certificate.split(data)[0]).serial_number


def test_a_node_says_loudly_that_it_cannot_renew_and_recovers(tmp_path: Path) -> None:
    with opened(tmp_path, certificate_hours=8 / 3600) as world:
        write_csv(world.folder, records("arran"))
        world.federation.start_node("arran")
        world.federation.hub.stop()
        node = world.federation.nodes["arran"]
        until("a warning", lambda: node.lines("certificate not renewed", "warning"), seconds=20.0)
        until("the end", lambda: node.lines("certificate has ended", "error"), seconds=30.0)
        world.federation.start_hub()
        until("renewed in the time of grace", lambda: node.lines("certificate renewed"), seconds=90.0)
        assert node.is_running()


def test_after_the_grace_it_takes_an_invite(tmp_path: Path) -> None:
    with opened(tmp_path, certificate_hours=5 / 3600, renewal_grace_days=0) as world:
        time.sleep(6.5)
        done = wardround_command("node", "rotate-key", world.folder)
        assert done.returncode != 0
        assert "expired" in done.stderr
        done = wardround_command("node", "rotate-key", world.folder, "--invite", world.federation.invite("arran"))
        assert done.returncode == 0, done.stderr


# The authority's own rotation.


def test_one_authority_takes_over_from_another_while_all_go_on(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        hub_folder, folder = world.federation.hub_folder, world.folder
        place = node_setup.place_of(folder, node_setup.load_config(folder))
        assert step(hub_folder) == 0
        assert step(hub_folder) != 0  # Nobody has heard of the new one.
        follow(world, place, 2)
        assert step(hub_folder) == 0
        until("the new authority serves", lambda: serves_as(world) != issuer(world.authority), seconds=15.0)
        fresh = hub_of_place(world, place)
        fresh.studies()
        assert step(hub_folder) != 0  # Arran's certificate is still the old one's.
        follow(world, place, 2)
        assert step(hub_folder) == 0
        follow(world, place, 1)
        fresh.close()
        renewed = hub_of_place(world, place)
        renewed.studies()
        renewed.close()
        node_setup.enrol(tmp_path / "late", world.federation.invite("late"))
        after = hub_of_place(world, node_setup.place_of(tmp_path / "late", node_setup.load_config(tmp_path / "late")))
        after.studies()
        after.close()
        with pytest.raises(CryptoError):
            connection.clock_offset(world.federation.url_public, world.authority)


def step(folder: Path) -> int:
    return wardround_command("hub", "rotate-authority", folder).returncode


def follow(world: World, place: renewing.Place, authorities: int) -> None:
    """Renew until the hub tells of so many authorities."""

    def told() -> bool:
        time.sleep(1.0)  # Certificates count in seconds.
        renewing.renew(place)
        return len(certificate.split(place.authority.read_bytes())) == authorities

    until(f"{authorities} authorities", told, seconds=15.0)


def hub_of_place(world: World, place: renewing.Place) -> HttpHub:
    return HttpHub(
        world.federation.url,
        name=place.name,
        credential=credential.load(place.connection),
        authority=place.authority.read_bytes(),
    )


def issuer(pem: bytes) -> str:
    return x509.load_pem_x509_certificate(pem).issuer.rfc4514_string()


def serves_as(world: World) -> str:
    return issuer(ssl.get_server_certificate(("127.0.0.1", world.port(public=True))).encode())


# A proxy that ends TLS, and alters what passes.


class Meddler:
    """Between a client and a hub behind a proxy, with a certificate that the client trusts: the worst there is."""

    def __init__(self, world: World) -> None:
        self.port, self.world = free_port(), world
        self.ask: Callable[[dict[str, Any]], None] = lambda _: None
        self.reply: Callable[[dict[str, Any]], None] = lambda _: None
        meddler = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout: ClassVar[float] = 20.0

            def do(self) -> None:
                meddler.pass_on(self)

            def log_message(self, *_: object) -> None:
                pass

        for method in ("GET", "POST", "PUT"):
            setattr(Handler, f"do_{method}", Handler.do)
        hub = world.federation.hub_folder
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(hub / "tls.crt", hub / "keys" / "tls.key")
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def pass_on(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        asked: dict[str, Any] = {
            "method": handler.command,
            "target": handler.path,
            "headers": {name.lower(): value for name, value in handler.headers.items() if name.lower() != "host"},
            "body": body,
        }
        is_signed = "signature" in asked["headers"]
        if is_signed:
            self.ask(asked)
        asked["headers"].pop("content-length", None)
        host, port = connection.address(self.world.federation.url)
        onward = connection.connect_lazily(host, port, connection.tls_context(self.world.authority), 20.0)
        onward.request(asked["method"], asked["target"], body=asked["body"] or None, headers=asked["headers"])
        response = onward.getresponse()
        reply: dict[str, Any] = {
            "status": response.status,
            "headers": {name.lower(): value for name, value in response.getheaders()},
            "body": response.read(),
        }
        onward.close()
        if is_signed:
            self.reply(reply)
        handler.send_response_only(reply["status"])
        for name, value in reply["headers"].items():
            if name not in {"content-length", "transfer-encoding", "connection", "date"}:
                handler.send_header(name, value)
        handler.send_header("content-length", str(len(reply["body"])))
        handler.end_headers()
        handler.wfile.write(reply["body"])

    def hub(self) -> HttpHub:
        return HttpHub(
            f"https://127.0.0.1:{self.port}",
            name="arran",
            credential=credential.load(self.world.folder / "keys" / "connection.pem"),
            authority=self.world.authority,
        )

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def meddler(behind: World) -> Iterator[Meddler]:
    made = Meddler(behind)
    yield made
    made.close()


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:] if data else b"\x01"


def test_behind_an_honest_proxy_everything_works_without_client_certificates(meddler: Meddler) -> None:
    hub = meddler.hub()
    assert hub.studies() == []
    assert hub.next_task(TaskRequest((), 0.0)) is None
    hub.close()


def other(name: str, value: Callable[[str], str]) -> Callable[[dict[str, Any]], None]:
    def change(message: dict[str, Any]) -> None:
        message["headers"][name] = value(message["headers"][name])

    return change


ASKED: dict[str, Callable[[dict[str, Any]], None]] = {
    "the method": lambda asked: asked.update(method="GET", body=b""),
    "the path": lambda asked: asked.update(target="/v1/pairs"),
    "the query": lambda asked: asked.update(target=asked["target"] + "?after=1"),
    "the body": lambda asked: asked.update(body=flipped(asked["body"])),
    "no body": lambda asked: asked.update(body=b""),
    "the digest": other("content-digest", lambda value: value.replace(":", ":A", 1).replace("A=:", "=:")),
    "the name": other("signature-input", lambda value: value.replace('"arran"', '"bute"')),
    "the time": other("signature-input", lambda value: value.replace("created=1", "created=2")),
    "the signature": other("signature", lambda value: value.replace(":", ":A", 1)[: len(value) - 4] + "==:"),
    "no signature": lambda asked: asked["headers"].pop("signature-input"),
    "a token put in": lambda asked: asked["headers"].update(authorization="Bearer of.another.person"),
    "a proof put in": lambda asked: asked["headers"].update(dpop="a.b.c"),
    "a range put in": lambda asked: asked["headers"].update({"content-range": "bytes 0-1/2"}),
}


@pytest.mark.parametrize("what", ASKED)
def test_a_proxy_that_alters_a_request_is_noticed(meddler: Meddler, what: str) -> None:
    hub = meddler.hub()
    hub.studies()
    meddler.ask = ASKED[what]
    with pytest.raises((CryptoError, CodecError, NotFoundError, UnavailableError)):
        hub.next_task(TaskRequest((), 0.0))
    meddler.ask = lambda _: None
    assert hub.next_task(TaskRequest((), 0.0)) is None
    hub.close()


def bare(reply: dict[str, Any]) -> None:
    for name in ("signature", "signature-input", "content-digest"):
        reply["headers"].pop(name, None)


def by_another(reply: dict[str, Any]) -> None:
    """An answer of the proxy's own, signed by a key of its own."""
    from wardround.crypto import answer_signature

    reply["body"] = msgspec.msgpack.encode([{"study": "a" * 64}])
    key, bound = signing.generate(), ":" + "A" * 86 + "==:"
    reply["headers"] |= answer_signature.sign(
        status=200, content=reply["body"], request=bound, created=int(time.time()), keyid="a" * 64, key=key
    )


REPLIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "the body": lambda reply: reply.update(body=flipped(reply["body"])),
    "more body": lambda reply: reply.update(body=reply["body"] + b"\xc0"),
    "the status": lambda reply: reply.update(status=201),
    "a refusal made up": lambda reply: (reply.update(status=403, body=b'{"type":"protocol/forbidden"}'), bare(reply)),
    "no signature": bare,
    "the time": other("signature-input", lambda value: value.replace("created=1", "created=2")),
    "the key's name": other("signature-input", lambda value: value.replace('keyid="', 'keyid="0')),
    "the signature": other("signature", lambda value: value.replace(":", ":A", 1)),
    "an answer of its own": by_another,
}


@pytest.mark.parametrize("what", REPLIES)
def test_a_proxy_that_alters_an_answer_is_noticed(meddler: Meddler, what: str) -> None:
    hub = meddler.hub()
    hub.studies()
    meddler.reply = REPLIES[what]
    with pytest.raises(SignatureError):
        hub.studies()
    meddler.reply = lambda _: None
    assert hub.studies() == []
    hub.close()


def test_a_proxy_that_gives_an_old_answer_is_noticed(meddler: Meddler) -> None:
    hub, kept = meddler.hub(), []
    hub.studies()
    meddler.reply = lambda reply: kept.append(dict(reply))
    hub.studies()
    meddler.reply = lambda reply: reply.update(kept[0])
    with pytest.raises(SignatureError, match="altered or swapped"):
        hub.studies()
    hub.close()


def test_a_proxy_that_says_the_hub_is_down_only_makes_the_client_wait(meddler: Meddler) -> None:
    hub = meddler.hub()
    meddler.reply = lambda reply: (reply.update(status=503, body=b"busy"), bare(reply))
    with pytest.raises(UnavailableError):
        hub.studies()
    hub.close()


def test_a_client_without_a_certificate_is_named_what_is_missing(world: World, tmp_path: Path) -> None:
    key = credential.bare(signing.generate())
    hub = HttpHub(world.federation.url, name="arran", credential=key, authority=world.authority)
    with pytest.raises((CryptoError, UnavailableError)):
        hub.studies()
    hub.close()
    process = Process("doctor", world.folder, "--json", log=tmp_path / "doctor.log")
    process.start()
    until("the doctor", lambda: not process.is_running(), seconds=30.0)
    assert "TLS 1.3" in process.text()
    assert "more hours" in process.text()
