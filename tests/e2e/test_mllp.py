"""The listener, with real connections: acknowledged is kept, whatever happens; strangers and nonsense get nowhere."""

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hl7.client import MLLPClient

from wardround.errors import ConfigError, StorageFullError
from wardround.harmonization.events import Scope
from wardround.sources.hl7_source import Hl7Settings, open_source
from wardround.sources.intake import Intake
from wardround.sources.mllp import ListenerSettings, Tally, serve
from wardround.sources.site import Site

pytestmark = pytest.mark.processes
KEY = bytes(range(32))
MESSAGE = (
    "MSH|^~\\&|LAB|HOSP|EHR|HOSP|20240301120000||ORU^R01|{0}|P|2.5\r"
    "PID|1||7^^^HOSP^MR\rOBR|1||F{0}|x|||20240301\rOBX|1|NM|1^x^L||{0}|mg|||||F\r"
)
LISTENER = """
import sys, threading
from pathlib import Path
from wardround.sources.intake import Intake
from wardround.sources.mllp import ListenerSettings, serve
intake = Intake(Path(sys.argv[1]), bytes(range(32)), segment_bytes=20_000)
serve(ListenerSettings(port=0), intake, threading.Event(), ready=lambda host, port: print(port, flush=True))
"""


@contextlib.contextmanager
def listening(keeping, *, folder=None, **settings):
    stop, ready, address, tally = threading.Event(), threading.Event(), [], Tally()

    def tell(host, port):
        address.append(port)
        ready.set()

    thread = threading.Thread(
        target=serve,
        args=(ListenerSettings(port=0, **settings), keeping, stop),
        kwargs={"ready": tell, "tally": tally, "folder": folder},
    )
    thread.start()
    try:
        assert ready.wait(10)
        yield address[0], tally
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def connected(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.settimeout(10)
    return connection


def framed(text):
    return b"\x0b" + (text.encode() if isinstance(text, str) else text) + b"\x1c\r"


def replies(connection, count):
    """As many answers as are asked for, or those before the listener closes."""
    held = b""
    while held.count(b"\x1c\r") < count:
        data = connection.recv(65_536)
        if not data:
            break
        held += data
    return [one.lstrip(b"\x0b") for one in held.split(b"\x1c\r") if one]


def code(reply):
    return reply.split(b"MSA|")[1][:2].decode()


def test_python_hl7s_client_is_answered_and_its_messages_become_events(tmp_path):
    intake = Intake(tmp_path / "intake", KEY)
    with listening(intake) as (port, tally), MLLPClient("127.0.0.1", port) as client:
        for number in range(5):
            reply = client.send_message(MESSAGE.format(number))
            assert code(reply) == "AA"
            assert f"MSA|AA|{number}\r".encode() in reply
    intake.close()
    assert tally.counts() == {"connections": 1, "messages kept": 5}
    site = Site(tmp_path, "UTC", {"K": KEY.hex()})
    source = open_source(Hl7Settings(name="lab", intake="intake", key="env:K"), site)
    rows = [row for batch in source.batches(Scope()) for row in batch.to_pylist()]
    assert [row["number"] for row in rows] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_pieces_of_frames_several_at_once_and_garbage_between(tmp_path):
    intake = Intake(tmp_path, KEY)
    with listening(intake) as (port, tally), connected(port) as connection:
        whole = framed(MESSAGE.format(1))
        for at in range(0, len(whole), 7):
            connection.sendall(whole[at : at + 7])
        assert len(replies(connection, 1)) == 1
        connection.sendall(b"noise" + framed(MESSAGE.format(2)) + b"\r\n" + framed(MESSAGE.format(3)))
        assert [code(reply) for reply in replies(connection, 2)] == ["AA", "AA"]
        connection.sendall(b"\x0bhalf a message" + framed(MESSAGE.format(4)))
        assert len(replies(connection, 1)) == 1
    assert [b"|%d|P|" % number in message for number, message in enumerate(intake.messages(), 1)] == [True] * 4
    counts = tally.counts()
    assert (counts["messages kept"], counts["bytes outside of frames"], counts["half frames"]) == (4, 5, 1)


def test_half_a_frame_is_neither_kept_nor_acknowledged(tmp_path):
    intake = Intake(tmp_path, KEY)
    with listening(intake) as (port, tally), connected(port) as connection:
        connection.sendall(framed(MESSAGE.format(1))[:-1])
        connection.shutdown(socket.SHUT_WR)
        assert replies(connection, 1) == []
    assert list(intake.messages()) == []
    assert tally.counts()["half frames"] == 1


def test_what_is_not_acceptable_is_answered_and_not_kept(tmp_path):
    intake = Intake(tmp_path, KEY)
    with listening(intake) as (port, tally), connected(port) as connection:
        for text, answer in (
            ("Miller|7", "AE"),
            (MESSAGE.format(1).replace("|P|2.5", "|P|3.0"), "AR"),
            (MESSAGE.format(2).replace("|P|2.5", "|P|2.5|||AL|||KLINGON"), "CE"),
            (MESSAGE.format(3).replace("|P|2.5", "|P|2.5|||AL"), "CA"),
        ):
            connection.sendall(framed(text))
            (reply,) = replies(connection, 1)
            assert code(reply) == answer
            assert b"Miller" not in reply
    assert len(list(intake.messages())) == 1
    assert tally.counts()["messages unacceptable"] == 2


class Full:
    def __init__(self):
        self.asked = 0

    def append(self, message):
        self.asked += 1
        raise StorageFullError("full")


@pytest.mark.parametrize(("enhanced", "answer"), [("", "AR"), ("|||AL", "CE")])
def test_what_cannot_be_kept_is_not_acknowledged(enhanced, answer):
    keeping = Full()
    with listening(keeping) as (port, tally), connected(port) as connection:
        connection.sendall(framed(MESSAGE.format(1).replace("|P|2.5", f"|P|2.5{enhanced}")))
        assert [code(reply) for reply in replies(connection, 1)] == [answer]
    assert keeping.asked == 1
    assert tally.counts() == {"connections": 1, "messages not kept": 1}


class Held:
    """Keeps nothing before it may."""

    def __init__(self):
        self.may, self.began = threading.Event(), threading.Event()

    def append(self, message):
        self.began.set()
        assert self.may.wait(10)


def test_no_acknowledgement_goes_out_before_the_message_is_kept():
    keeping = Held()
    with listening(keeping) as (port, _), connected(port) as connection:
        connection.sendall(framed(MESSAGE.format(1)))
        assert keeping.began.wait(10)
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        keeping.may.set()
        connection.settimeout(10)
        assert code(replies(connection, 1)[0]) == "AA"


def test_strangers_are_turned_away_and_so_are_too_many(tmp_path):
    intake = Intake(tmp_path, KEY)
    with listening(intake, peers=("10.0.0.0/8",)) as (port, tally), connected(port) as connection:
        assert connection.recv(1) == b""
    assert tally.counts() == {"connections of other peers": 1}
    with listening(intake, connections=1) as (port, tally), connected(port) as first:
        first.sendall(framed(MESSAGE.format(1)))
        assert replies(first, 1)
        with connected(port) as second:
            assert second.recv(1) == b""
    assert tally.counts()["connections beyond the limit"] == 1


@pytest.mark.parametrize(
    ("data", "settings", "count"),
    [
        (b"\x0b" + b"x" * 5000, {"frame_bytes": 1000}, "connections that broke a rule"),
        (b"g" * 100_000, {}, "connections that broke a rule"),
        (b"\x0bslow", {"frame_seconds": 0.2}, "connections that broke a rule"),
        (b"", {"idle_seconds": 0.2}, "connections that said nothing"),
    ],
    ids=["too long", "garbage", "too slow", "idle"],
)
def test_connections_that_take_too_much_are_closed(tmp_path, data, settings, count):
    with listening(Intake(tmp_path, KEY), **settings) as (port, tally), connected(port) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""
        until = time.monotonic() + 5
        while count not in tally.counts() and time.monotonic() < until:
            time.sleep(0.02)
        assert tally.counts()[count] == 1


def test_many_senders_at_once_lose_nothing(tmp_path):
    intake = Intake(tmp_path, KEY)

    def send(port, sender):
        with MLLPClient("127.0.0.1", port) as client:
            for number in range(40):
                assert code(client.send_message(MESSAGE.format(sender * 1000 + number))) == "AA"

    with listening(intake) as (port, tally):
        threads = [threading.Thread(target=send, args=(port, sender)) for sender in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert tally.counts()["messages kept"] == 320
    found = [int(message.split(b"|")[9]) for message in intake.messages()]
    assert sorted(found) == sorted(sender * 1000 + number for sender in range(8) for number in range(40))
    for sender in range(8):
        own = [number for number in found if number // 1000 == sender]
        assert own == sorted(own)


@pytest.mark.parametrize("seconds", [0.15, 0.4, 0.7])
def test_a_killed_listener_has_kept_every_message_that_it_acknowledged(tmp_path, seconds):
    folder = tmp_path / "intake"
    for start in range(2):
        process = subprocess.Popen([sys.executable, "-c", LISTENER, str(folder)], stdout=subprocess.PIPE, text=True)
        try:
            port = int(process.stdout.readline())
            acknowledged, sent = [], []

            def send(sender, port=port, start=start, acknowledged=acknowledged, sent=sent):
                with contextlib.suppress(ConnectionError, TimeoutError, OSError), connected(port) as connection:
                    for number in range(100_000):
                        control = f"{start}-{sender}-{number}"
                        sent.append(control)
                        connection.sendall(framed(MESSAGE.format(control)))
                        if not (reply := replies(connection, 1)):
                            return
                        assert code(reply[0]) == "AA"
                        acknowledged.append(control)

            threads = [threading.Thread(target=send, args=(sender,)) for sender in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(seconds)
            os.kill(process.pid, signal.SIGKILL)
            for thread in threads:
                thread.join(20)
        finally:
            process.kill()
            process.wait(10)
            process.stdout.close()
        intake = Intake(folder, KEY)
        found = [message.split(b"|")[9].decode() for message in intake.messages()]
        assert acknowledged
        assert set(acknowledged) <= set(found)
        assert {one for one in found if one.startswith(f"{start}-")} <= set(sent)
        assert intake.damaged == 0
        assert len(found) == len(set(found))


def certificate(folder, name):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + encoded)
    return path


def test_with_tls_only_senders_whose_certificates_are_known_are_heard(tmp_path):
    listener, sender, stranger = (certificate(tmp_path, name) for name in ("listener", "sender", "stranger"))
    intake = Intake(tmp_path / "intake", KEY)
    tls = {"certificate": listener.name, "client_authority": sender.name}
    with listening(intake, folder=tmp_path, **tls) as (port, tally):
        for shown, is_heard in ((sender, True), (stranger, False), (None, False)):
            context = ssl.create_default_context(cafile=str(listener))
            if shown:
                context.load_cert_chain(shown)
            with (
                contextlib.suppress(OSError),
                connected(port) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
            ):
                connection.sendall(framed(MESSAGE.format(1)))
                assert bool(replies(connection, 1)) == is_heard
        with contextlib.suppress(OSError), connected(port) as plain:
            plain.sendall(framed(MESSAGE.format(2)))
            assert b"MSA" not in plain.recv(100)
    assert len(list(intake.messages())) == 1
    assert tally.counts()["messages kept"] == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"peers": ()},
        {"peers": ("10.0.0.1/8",)},
        {"peers": ("hospital",)},
        {"host": "192.0.2.1"},
        {"certificate": "nothing.pem"},
        {"private_key": "key.pem"},
        {"client_authority": "authority.pem"},
    ],
    ids=range(7),
)
def test_settings_that_cannot_be_are_refused(tmp_path, settings):
    with pytest.raises(ConfigError):
        serve(ListenerSettings(port=0, **settings), Full(), threading.Event(), folder=tmp_path)


def test_a_taken_port_is_told(tmp_path):
    with listening(Full()) as (port, _), pytest.raises(ConfigError, match=str(port)):
        serve(ListenerSettings(port=port), Full(), threading.Event())
