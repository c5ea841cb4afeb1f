"""FHIR's ways of exchange on real sockets: against a server of the tests' own, as it should be and as it should not."""

import contextlib
import datetime as dt
import gzip
import http.client
import ipaddress
import json
import socket
import ssl
import threading
import time

import fhir_server
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from wardround.errors import ClinicalError, ConfigError, CryptoError, UnavailableError, WardroundError
from wardround.harmonization.events import Scope
from wardround.sources import fhir_bulk, fhir_listener, fhir_notifications, fhir_search
from wardround.sources.fhir_bulk import FhirBulkSettings
from wardround.sources.fhir_http import Clock
from wardround.sources.fhir_listener import Listener
from wardround.sources.fhir_notifications import FhirNotificationsSettings
from wardround.sources.fhir_search import FhirSearchSettings
from wardround.sources.fhir_server import ServerSettings
from wardround.sources.fhir_token import TokenSettings
from wardround.sources.site import Site

pytestmark = pytest.mark.processes

ALL = Scope()
SINCE = Scope(since_us=1_750_000_000_000_000)  # 2025-06-15
PATIENTS = [
    {"resourceType": "Patient", "id": f"p{number}", "birthDate": "1950-02-03", "gender": "female"}
    | {"meta": {"lastUpdated": "2020-01-01T00:00:00Z"}}
    for number in range(7)
]


def observation(number, *, updated="2025-12-01T00:00:00Z", code="2160-0"):
    return {
        "resourceType": "Observation",
        "id": f"o{number}",
        "meta": {"lastUpdated": updated},
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "subject": {"reference": f"Patient/p{number % 7}"},
        "effectiveDateTime": f"2025-11-{number % 28 + 1:02}T08:00:00Z",
        "issued": f"2025-11-{number % 28 + 1:02}T09:00:00Z",
        "valueQuantity": {"value": number, "unit": "mg/dL", "system": "http://unitsofmeasure.org", "code": "mg/dL"},
    }


RESOURCES = {"Patient": PATIENTS, "Observation": [observation(number) for number in range(40)]}


class Waiting:
    """A clock that goes on by what was waited for, and does not wait."""

    def __init__(self):
        self.slept = []
        self.clock = Clock(now=lambda: time.monotonic() + sum(self.slept), sleep=self.slept.append)


@pytest.fixture
def waiting():
    return Waiting()


@pytest.fixture
def server():
    with fhir_server.FhirServer(RESOURCES) as started:
        yield started


def pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def client(folder, key):
    (folder / "client.pem").write_bytes(pem(key))
    return TokenSettings(client="node", key="file:client.pem", key_id="k1")


def bulk(server, folder, waiting, *, token=None, ca="", hosts=(), **settings):
    where = ServerSettings(base=server.base, token=token, ca=ca, file_hosts=hosts, timeout_seconds=5.0)
    made = FhirBulkSettings(name="ehr", server=where, **({"types": ("Patient", "Observation")} | settings))
    return fhir_bulk.open_source(made, Site(folder=folder, timezone="Europe/Berlin"), clock=waiting.clock)


def search(server, folder, waiting, *, token=None, **settings):
    where = ServerSettings(base=server.base, token=token, timeout_seconds=5.0)
    made = FhirSearchSettings(name="ehr", server=where, **({"types": ("Patient", "Observation")} | settings))
    return fhir_search.open_source(made, Site(folder=folder, timezone="Europe/Berlin"), clock=waiting.clock)


def rows(source, scope=ALL):
    return [row for batch in source.batches(scope) for row in batch.to_pylist()]


def creatinines(found):
    return [row for row in found if row["code"] == "2160-0"]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("level", "group", "path"),
    [("patient", "", "Patient/$export"), ("group", "g-1", "Group/g-1/$export"), ("system", "", "$export")],
)
def test_an_export_is_asked_for_waited_for_read_and_deleted(server, tmp_path, waiting, method, level, group, path):
    source = bulk(server, tmp_path, waiting, method=method, level=level, group=group)
    found = rows(source)
    assert len(creatinines(found)) == 40
    assert {row["patient"] for row in found} == {f"p{number}" for number in range(7)}
    assert source.report.read == 47
    assert source.report.refused == {}
    assert server.paths(method)[0] == f"/r4/{path}"
    assert server.jobs["j0"]["deleted"]
    assert server.jobs["j0"]["asked"]["_type"] == ["Patient,Observation"]
    assert waiting.slept == [1.0, 1.0]
    assert source.report.snapshot["time of export 'all'"] == "2026-01-02T03:04:05Z"


def test_reading_again_gives_the_same_rows(server, tmp_path, waiting):
    source = bulk(server, tmp_path, waiting)
    assert rows(source) == rows(source)
    assert source.report.read == 47


def test_since_leaves_out_what_is_old_but_never_patients(server, tmp_path, waiting):
    server.resources = RESOURCES | {
        "Observation": [observation(1, updated="2019-01-01T00:00:00Z"), observation(2)],
    }
    found = rows(bulk(server, tmp_path, waiting), SINCE)
    assert len({row["patient"] for row in found if row["system"] == "patient"}) == 7
    assert len(creatinines(found)) == 1
    assert [job["asked"].get("_since") for job in server.jobs.values()] == [None, ["2025-06-14T15:06:40Z"]]
    assert all(job["deleted"] for job in server.jobs.values())


def test_a_batch_that_nobody_asks_for_any_more_deletes_the_export(server, tmp_path, waiting):
    batches = bulk(server, tmp_path, waiting).batches(ALL)
    next(batches)
    batches.close()
    assert server.jobs["j0"]["deleted"]


def test_a_server_that_is_busy_is_asked_again_as_it_says(server, tmp_path, waiting):
    busy = {"/r4/Patient/$export": 2, "/r4/jobs/j0": 2, "/r4/files/j0/Patient": 2}

    def fault(_, request):
        if busy.get(request.path, 0) and request.method == "GET":
            busy[request.path] -= 1
            request.answer(429 if busy[request.path] else 503, Retry_After="7")
            return True
        return False

    server.faults.append(fault)
    assert len(creatinines(rows(bulk(server, tmp_path, waiting)))) == 40
    assert waiting.slept.count(7.0) == 6


@pytest.mark.parametrize("status", [400, 403, 404, 405, 500, 501])
def test_a_server_that_cannot_delete_is_remarked(server, tmp_path, waiting, status):
    def fault(_, request):
        if request.method == "DELETE":
            request.answer(status)
        return request.method == "DELETE"

    server.faults.append(fault)
    source = bulk(server, tmp_path, waiting)
    assert len(creatinines(rows(source))) == 40
    assert source.report.noted.get("export that the server could not be made to delete", 0) == (status != 404)


@pytest.mark.parametrize("status", [200, 400, 404, 422, 501])
def test_a_server_that_begins_no_export_is_told_so(server, tmp_path, waiting, status):
    def fault(_, request):
        request.answer(status, {"resourceType": "OperationOutcome", "issue": [{"diagnostics": "Patient Mueller"}]})
        return True

    server.faults.append(fault)
    with pytest.raises(ClinicalError, match=str(status)) as caught:
        rows(bulk(server, tmp_path, waiting))
    assert "Mueller" not in str(caught.value)
    assert len(server.requests) == 1


def test_an_export_that_takes_too_long_is_given_up_and_deleted(server, tmp_path, waiting):
    server.polls = 10**6
    with pytest.raises(UnavailableError, match=r"no complete export in 60 s \(it said \d+ %\)"):
        rows(bulk(server, tmp_path, waiting, patience_seconds=60.0))
    assert server.jobs["j0"]["deleted"]
    assert len(server.requests) < 100


def test_a_server_that_asks_to_come_back_in_a_century_is_given_up(server, tmp_path, waiting):
    def fault(_, request):
        if request.path.startswith("/r4/jobs/") and request.method == "GET":
            request.answer(202, Retry_After="999999999")
            return True
        return False

    server.faults.append(fault)
    with pytest.raises(UnavailableError):
        rows(bulk(server, tmp_path, waiting))
    assert sum(waiting.slept) < 1000


def test_an_export_that_fails_at_the_server_is_an_error_without_its_text(server, tmp_path, waiting):
    def fault(_, request):
        if request.path == "/r4/jobs/j0" and request.method == "GET":
            outcome = {"resourceType": "OperationOutcome", "issue": [{"diagnostics": "Patient Mueller"}]}
            request.answer(500, outcome)
            return True
        return False

    server.faults.append(fault)
    with pytest.raises(UnavailableError) as caught:
        rows(bulk(server, tmp_path, waiting))
    assert "Mueller" not in str(caught.value)
    assert server.jobs["j0"]["deleted"]


def test_errors_and_deletions_that_the_server_reports_are_counted(server, tmp_path, waiting):
    outcome = {"resourceType": "OperationOutcome", "issue": [{"severity": "error"}, {"severity": "warning"}]}
    gone = {"resourceType": "Bundle", "entry": [{"request": {"method": "DELETE", "url": "Patient/p9"}}] * 3}

    def fault(_, request):
        if request.path.endswith("/errors"):
            request.answer(200, fhir_server.ndjson([outcome, outcome]) + b"{broken\n", kind=fhir_server.NDJSON)
        elif request.path.endswith("/deleted"):
            request.answer(200, fhir_server.ndjson([gone]), kind=fhir_server.NDJSON)
        return request.path.endswith(("/errors", "/deleted"))

    server.faults.append(fault)
    server.manifest = {
        "error": [{"type": "OperationOutcome", "url": f"{server.base}/files/errors"}],
        "deleted": [{"type": "Bundle", "url": f"{server.base}/files/deleted"}],
    }
    source = bulk(server, tmp_path, waiting)
    rows(source)
    assert source.report.refused["error that the server reports of its export"] == 2
    assert source.report.refused["malformed line of the export's own reports"] == 1
    assert source.report.noted["remark that the server makes of its export"] == 2
    assert source.report.noted["resource deleted at the server"] == 3


def test_a_file_that_holds_less_than_the_manifest_says_is_told(server, tmp_path, waiting):
    server.manifest = {"output": [{"type": "Patient", "url": f"{server.base}/files/j0/Patient", "count": 9}]}
    source = bulk(server, tmp_path, waiting)
    rows(source)
    assert source.report.refused == {"resource missing from its file": 2}


def test_a_type_that_was_not_asked_for_is_not_fetched(server, tmp_path, waiting):
    server.manifest = {"output": [{"type": "Binary", "url": f"{server.base}/files/j0/Binary"}]}
    source = bulk(server, tmp_path, waiting)
    assert rows(source) == []
    assert source.report.refused == {"file of a type that was not asked for": 1}
    assert "/r4/files/j0/Binary" not in server.paths()


@pytest.mark.parametrize("listed", [True, False])
def test_files_on_another_host_are_fetched_only_if_it_is_allowed_and_never_with_the_token(tmp_path, waiting, listed):
    key = ec.generate_private_key(ec.SECP384R1())
    with (
        fhir_server.FhirServer(RESOURCES, public_key=key.public_key()) as server,
        fhir_server.FhirServer(RESOURCES) as other,
    ):
        other.jobs["j0"] = {"asked": {}}
        url = f"{other.base}/files/j0/Patient"
        server.manifest = {"output": [{"type": "Patient", "url": url}], "requiresAccessToken": False}
        hosts = (other.origin,) if listed else ()
        source = bulk(server, tmp_path, waiting, token=client(tmp_path, key), hosts=hosts)
        if listed:
            assert len({row["patient"] for row in rows(source)}) == 7
            assert all("authorization" not in request.headers for request in other.requests)
        else:
            with pytest.raises(ClinicalError, match="does not allow"):
                rows(source)
            assert other.requests == []
        assert server.jobs["j0"]["deleted"]
        server.manifest["requiresAccessToken"] = True
        with pytest.raises(ClinicalError, match="token"):
            rows(source)


@pytest.mark.parametrize(
    "url",
    [
        "https://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "http://example.org/x.ndjson",
        "//127.0.0.1:1/x",
        "https://127.0.0.1:x/",
        "ftp://127.0.0.1/x",
        "http://user:secret@127.0.0.1:{port}/r4/files/j0/Patient",
        "http://127.0.0.1:{port}/r4/files/j0/Patient#x",
        "http://127.0.0.1:{port}\\@evil/",
        "http://127.0.0.1:{port}/a b",
        "http://127.0.0.1:{port}.evil.example/x",
        "",
    ],
)
def test_a_manifest_cannot_make_the_node_dial_elsewhere(server, tmp_path, waiting, url):
    port = server.origin.rpartition(":")[2]
    server.manifest = {"output": [{"type": "Patient", "url": url.replace("{port}", port)}]}
    with pytest.raises(ClinicalError) as caught:
        rows(bulk(server, tmp_path, waiting))
    assert "secret" not in str(caught.value)
    assert not [path for path in server.paths() if "files" in path]
    assert server.jobs["j0"]["deleted"]


def test_a_status_address_elsewhere_is_not_asked(server, tmp_path, waiting):
    with fhir_server.FhirServer({}) as other:

        def fault(_, request):
            if request.path.endswith("$export"):
                request.answer(202, Content_Location=f"{other.base}/jobs/j0")
                return True
            return False

        server.faults.append(fault)
        with pytest.raises(ClinicalError, match="not its own"):
            rows(bulk(server, tmp_path, waiting))
        assert other.requests == []


@pytest.mark.parametrize("path", ["$export", "/jobs/j0", "/files/j0/Patient"])
@pytest.mark.parametrize("status", [302, 307])
def test_a_redirection_is_not_followed(server, tmp_path, waiting, path, status):
    with fhir_server.FhirServer(RESOURCES) as other:

        def fault(_, request):
            if request.path.endswith(path) and request.method == "GET":
                request.answer(status, Location=f"{other.base}/x")
                return True
            return False

        server.faults.append(fault)
        with pytest.raises(ClinicalError, match="redirection"):
            rows(bulk(server, tmp_path, waiting))
        assert other.requests == []


def test_an_endless_manifest_and_an_endless_list_of_files_are_refused(server, tmp_path, waiting):
    server.manifest = {"output": [{"type": "Patient", "url": "x"}] * 10_001}
    with pytest.raises(ClinicalError, match="more than 10000 files"):
        rows(bulk(server, tmp_path, waiting))
    server.manifest = {"link": [{"relation": "next", "url": f"{server.base}/jobs/j0"}]}
    with pytest.raises(ClinicalError, match="further manifest"):
        rows(bulk(server, tmp_path, waiting))

    def fault(_, request):
        if "/jobs/" not in request.path or request.method != "GET":
            return False
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        with contextlib.suppress(OSError):
            request.handler.wfile.write(head)
            while True:
                request.handler.wfile.write(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
        return True

    server.faults.append(fault)
    with pytest.raises(ClinicalError, match="more than 67108864 bytes"):
        rows(bulk(server, tmp_path, waiting))


@pytest.mark.parametrize("kind", ["text/html", "application/json", "application/zip", "text/plain; charset=utf-8"])
def test_a_file_of_another_kind_is_refused(server, tmp_path, waiting, kind):
    def fault(_, request):
        if "/files/" in request.path:
            request.answer(200, fhir_server.ndjson(PATIENTS), kind=kind)
            return True
        return False

    server.faults.append(fault)
    with pytest.raises(ClinicalError, match="another kind"):
        rows(bulk(server, tmp_path, waiting))


def test_a_file_is_taken_gzipped(server, tmp_path, waiting):
    def fault(_, request):
        if "/files/" in request.path:
            body = gzip.compress(fhir_server.ndjson(RESOURCES[request.path.rpartition("/")[2]]))
            request.answer(200, body, kind=fhir_server.NDJSON, Content_Encoding="gzip")
            return True
        return False

    server.faults.append(fault)
    assert len(creatinines(rows(bulk(server, tmp_path, waiting)))) == 40


def test_a_gzip_bomb_ends_at_the_limit(server, tmp_path, waiting):
    bomb = gzip.compress(b" " * 50_000_000)

    def fault(_, request):
        if "/files/" in request.path:
            request.answer(200, bomb, kind=fhir_server.NDJSON, Content_Encoding="gzip")
            return True
        return False

    server.faults.append(fault)
    with pytest.raises(ClinicalError):
        rows(bulk(server, tmp_path, waiting, most_bytes=1_000_000))


def test_a_file_without_an_end_is_refused_at_the_limit(server, tmp_path, waiting):
    def fault(_, request):
        if "/files/" not in request.path:
            return False
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {fhir_server.NDJSON}\r\nTransfer-Encoding: chunked\r\n\r\n"
        line = fhir_server.ndjson([PATIENTS[0]])
        with contextlib.suppress(OSError):
            request.handler.wfile.write(head.encode())
            while True:
                request.handler.wfile.write(f"{len(line) * 1000:x}\r\n".encode() + line * 1000 + b"\r\n")
        return True

    server.faults.append(fault)
    with pytest.raises(ClinicalError, match="more than 2000000 bytes"):
        rows(bulk(server, tmp_path, waiting, most_bytes=2_000_000))


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip"])
def test_another_encoding_is_refused(server, tmp_path, waiting, encoding):
    def fault(_, request):
        if "/files/" in request.path:
            request.answer(200, b"x", kind=fhir_server.NDJSON, Content_Encoding=encoding)
            return True
        return False

    server.faults.append(fault)
    with pytest.raises(ClinicalError, match="encodes"):
        rows(bulk(server, tmp_path, waiting))


def broken(times, *, change=b"", path="/files/j0/Observation", chunked=False):
    """A fault: so many times a file breaks off, each time a little later; `change` is its first byte from then on."""
    left = [times]

    def fault(_, request):
        if not request.path.endswith(path):
            return False
        body = fhir_server.ndjson(RESOURCES["Observation"])
        if left[0] == 0:
            if not change:
                return False
            request.answer(200, change + body[1:], kind=fhir_server.NDJSON)
            return True
        left[0] -= 1
        part = body[: 3000 - 500 * left[0]]
        if chunked:
            head, part = "Transfer-Encoding: chunked", f"{len(part):x}\r\n".encode() + part + b"\r\n"
        else:
            head = f"Content-Length: {len(body)}"
        request.raw(f"HTTP/1.1 200 OK\r\nContent-Type: {fhir_server.NDJSON}\r\n{head}\r\n\r\n".encode(), part)
        return True

    return fault


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("times", [1, 3, 5])
def test_a_download_that_breaks_off_goes_on_where_it_was(server, tmp_path, waiting, times, chunked):
    server.faults.append(broken(times, chunked=chunked))
    source = bulk(server, tmp_path, waiting)
    found = creatinines(rows(source))
    assert sorted(row["number"] for row in found) == [float(number) for number in range(40)]
    assert source.report.refused == {}


def test_a_download_that_always_breaks_off_is_given_up(server, tmp_path, waiting):
    server.faults.append(broken(6))
    with pytest.raises(UnavailableError, match="6 attempts"):
        rows(bulk(server, tmp_path, waiting))
    assert server.jobs["j0"]["deleted"]


def test_a_file_that_is_another_one_the_second_time_is_refused(server, tmp_path, waiting):
    server.faults.append(broken(1, change=b" "))
    with pytest.raises(ClinicalError, match="another one"):
        rows(bulk(server, tmp_path, waiting))


def test_an_answer_that_does_not_say_where_it_ends_is_refused(server, tmp_path, waiting):
    def fault(_, request):
        if "/files/" not in request.path:
            return False
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {fhir_server.NDJSON}\r\nConnection: close\r\n\r\n"
        request.raw(head.encode(), fhir_server.ndjson(PATIENTS)[:500])
        return True

    server.faults.append(fault)
    with pytest.raises(ClinicalError, match="where it ends"):
        rows(bulk(server, tmp_path, waiting))


@pytest.mark.parametrize("line", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100])
def test_a_head_without_an_end_is_hung_up_on(server, tmp_path, waiting, line):
    def fault(_, request):
        with contextlib.suppress(OSError):
            while True:
                request.handler.wfile.write(line[:30])
                time.sleep(0.01)
        return True

    server.faults.append(fault)
    source = bulk(server, tmp_path, waiting)
    source._server._wire._timeout = 0.2
    with pytest.raises((UnavailableError, ClinicalError), match=r"did not answer|where it ends"):
        rows(source)


def test_an_exports_files_share_one_limit(server, tmp_path, waiting):
    urls = [{"type": "Patient", "url": f"{server.base}/files/j0/Patient?{number}"} for number in range(9)]
    server.manifest = {"output": urls}
    assert len(rows(bulk(server, tmp_path, waiting, most_bytes=20_000))) > 0
    with pytest.raises(ClinicalError, match="bytes"):
        rows(bulk(server, tmp_path, waiting, most_bytes=3_000))


def test_a_line_that_the_server_cut_short_is_counted(server, tmp_path, waiting):
    def fault(_, request):
        if request.path.endswith("/Patient"):
            request.answer(200, fhir_server.ndjson(PATIENTS)[:-20], kind=fhir_server.NDJSON)
            return True
        return False

    server.faults.append(fault)
    source = bulk(server, tmp_path, waiting, types=("Patient",))
    assert len({row["patient"] for row in rows(source)}) == 6
    assert sum(source.report.refused.values()) >= 1


def test_a_server_that_drips_is_given_up(server, tmp_path):
    slept = []
    ticks = iter(range(10**9))
    clock = Clock(now=lambda: 20.0 * next(ticks), sleep=slept.append)

    def fault(_, request):
        if not request.path.endswith("$export"):
            return False
        request.handler.wfile.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(100):
                request.handler.wfile.write(b" ")
                request.handler.wfile.flush()
                time.sleep(0.01)
        return True

    server.faults.append(fault)
    source = bulk(server, tmp_path, Waiting())
    source._server.clock = source._server._wire.clock = clock
    with pytest.raises(UnavailableError, match="TimeoutError"):
        rows(source)


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)])
def test_the_assertion_opens_a_server_that_verifies_it(tmp_path, waiting, key):
    with fhir_server.FhirServer(RESOURCES, public_key=key.public_key()) as server:
        source = bulk(server, tmp_path, waiting, token=client(tmp_path, key))
        assert len(creatinines(rows(source))) == 40
        assert server.paths().count("/token") == 1
        assert all("authorization" not in one.headers for one in server.requests if one.path == "/token")


def test_a_token_that_has_expired_is_renewed_in_the_midst_of_an_export(tmp_path, waiting):
    key = ec.generate_private_key(ec.SECP384R1())
    with fhir_server.FhirServer(RESOURCES, public_key=key.public_key()) as server:

        def fault(_, request):
            if request.path.endswith(("/jobs/j0", "/files/j0/Observation")) and server.requests[-2].path != "/token":
                server.tokens.clear()
            return False

        server.faults.append(fault)
        assert len(creatinines(rows(bulk(server, tmp_path, waiting, token=client(tmp_path, key))))) == 40
        assert server.paths().count("/token") > 2
        assert server.jobs["j0"]["deleted"]


def test_a_client_that_the_server_does_not_know_is_told_so_and_no_secret(tmp_path, waiting):
    key, other = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    with fhir_server.FhirServer(RESOURCES, public_key=other.public_key()) as server:

        def fault(_, request):
            if request.path == "/token":
                request.answer(401, {"error": "invalid_client", "error_description": request.body.decode()})
                return True
            return False

        server.faults.append(fault)
        with pytest.raises(ConfigError, match=r"refuses this client: invalid_client$"):
            rows(bulk(server, tmp_path, waiting, token=client(tmp_path, key)))


def test_a_server_that_refuses_every_token_is_not_asked_for_ever(tmp_path, waiting):
    key = ec.generate_private_key(ec.SECP384R1())
    with fhir_server.FhirServer(RESOURCES, public_key=key.public_key(), lifetime=0.0) as server:
        with pytest.raises(ConfigError, match="refuses this node"):
            rows(bulk(server, tmp_path, waiting, token=client(tmp_path, key)))
        assert len(server.requests) < 10


def test_a_server_cannot_send_the_assertion_to_an_endpoint_elsewhere(tmp_path, waiting):
    key = ec.generate_private_key(ec.SECP384R1())
    with fhir_server.FhirServer({}) as thief, fhir_server.FhirServer(RESOURCES, public_key=key.public_key()) as server:

        def fault(_, request):
            if request.path.endswith("smart-configuration"):
                request.answer(200, {"token_endpoint": f"{thief.origin}/token"})
                return True
            return False

        server.faults.append(fault)
        with pytest.raises(ConfigError, match="elsewhere"):
            rows(bulk(server, tmp_path, waiting, token=client(tmp_path, key)))
        assert thief.requests == []


def test_neither_token_nor_key_is_in_any_text(tmp_path, waiting):
    key = ec.generate_private_key(ec.SECP384R1())
    with fhir_server.FhirServer(RESOURCES, public_key=key.public_key()) as server:
        source = bulk(server, tmp_path, waiting, token=client(tmp_path, key))
        rows(source)
        texts = repr([source, source._server, source._server._token, source._server._wire, source.report])
        texts += repr(source.__dict__) + repr(source._settings)
        assert not [token for token in server.tokens if token in texts]
        assert "PRIVATE" not in texts


def test_fewer_scopes_than_asked_for_are_remarked(tmp_path, waiting):
    key = ec.generate_private_key(ec.SECP384R1())
    with fhir_server.FhirServer(RESOURCES, public_key=key.public_key()) as server:
        give = server.give_token

        def fewer(request):
            answer = request.answer
            request.answer = lambda status, body, **kind: answer(status, body | {"scope": "system/Patient.rs"}, **kind)
            give(request)

        server.give_token = fewer
        source = bulk(server, tmp_path, waiting, token=client(tmp_path, key))
        rows(source)
        assert source.report.noted["token with fewer scopes than asked for"] == 1


def certificate(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "server.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM) + pem(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


def test_tls_is_verified_against_the_hospitals_authority(tmp_path, waiting):
    with fhir_server.FhirServer(RESOURCES, context=certificate(tmp_path)) as server:
        assert len(creatinines(rows(bulk(server, tmp_path, waiting, ca="server.pem")))) == 40
        with pytest.raises(CryptoError, match="certificate is not valid"):
            rows(bulk(server, tmp_path, waiting))


def test_a_search_goes_through_all_pages(server, tmp_path, waiting):
    source = search(server, tmp_path, waiting, page=6)
    found = rows(source)
    assert len(creatinines(found)) == 40
    assert len({row["patient"] for row in found if row["system"] == "patient"}) == 7
    assert source.report.refused == {}
    assert server.paths() == ["/r4/Patient"] * 2 + ["/r4/Observation"] * 7
    assert source.report.snapshot["last update"] == "2025-12-01T00:00:00Z"


def test_search_and_export_give_the_same_events(server, tmp_path, waiting):
    def known(source):
        return sorted(
            (row["patient"], row["system"], row["code"], row["time_us"] or 0, row["number"] or 0.0)
            for row in rows(source)
        )

    assert known(search(server, tmp_path, waiting, page=6)) == known(bulk(server, tmp_path, waiting))


def test_codes_and_times_are_left_to_the_server_where_that_is_safe(server, tmp_path, waiting):
    panel = observation(98, code="85354-9")
    panel["component"] = [{"code": {"coding": [{"system": "http://loinc.org", "code": "8480-6"}]}}]
    panel["component"][0]["valueQuantity"] = {"value": 120, "unit": "mm[Hg]"}
    server.resources = RESOURCES | {"Observation": [observation(1), observation(2, code="718-7"), panel]}
    scope = Scope(codes={"loinc": frozenset({"8480-6", "718-7"})}, since_us=SINCE.since_us)
    found = rows(search(server, tmp_path, waiting), scope)
    assert {row["code"] for row in found if row["system"] == "loinc"} == {"8480-6", "718-7"}
    asked = [request.query for request in server.requests]
    assert "_lastUpdated" not in asked[0]
    assert asked[1]["_lastUpdated"] == ["ge2025-06-14T15:06:40Z"]
    assert "http://loinc.org|8480-6" in asked[1]["combo-code"][0]


def test_a_server_that_refuses_combo_code_is_asked_without(server, tmp_path, waiting):
    def fault(_, request):
        if "combo-code" in request.query:
            request.answer(400, {"resourceType": "OperationOutcome"})
            return True
        return False

    server.faults.append(fault)
    source = search(server, tmp_path, waiting)
    assert len(creatinines(rows(source, Scope(codes={"loinc": frozenset({"2160-0"})})))) == 40
    assert source.report.noted["server that does not know combo-code"] == 1


def pages(link, *, entries=1, kind="searchset", resource="Bundle"):
    """A fault: each page names the next by `link` (a function of the page's number)."""
    count = [0]

    def fault(_, request):
        if request.path != "/r4/Patient":
            return False
        count[0] += 1
        entry = [{"resource": PATIENTS[0] | {"id": f"x{count[0]}"}}] * entries
        body = {"resourceType": resource, "type": kind, "entry": entry}
        body["link"] = [{"relation": "next", "url": link(count[0])}]
        request.answer(200, body)
        return True

    return fault


@pytest.mark.parametrize(
    ("link", "entries", "most"),
    [
        (lambda _: "Patient?page=1", 1, 3),
        (lambda number: f"Patient?page={number % 3}", 1, 5),
        (lambda number: f"Patient?page={number}", 0, 102),
        (lambda number: f"Patient?page={number}", 1, 50),
    ],
    ids=["itself", "a ring", "empty pages", "new pages for ever"],
)
def test_pages_without_end_come_to_one(server, tmp_path, waiting, link, entries, most):
    server.faults.append(pages(link, entries=entries))
    with pytest.raises(ClinicalError, match=r"do not come to an end|more than 50 pages"):
        rows(search(server, tmp_path, waiting, most_pages=50 if most == 50 else 1000, types=("Patient",)))
    assert len(server.requests) <= most


@pytest.mark.parametrize(
    "link", ["https://evil.example/x", "//evil.example/x", "http://127.0.0.1:1/r4/Patient", "javascript:x", "\\\\evil"]
)
def test_a_next_page_elsewhere_is_not_asked_for(server, tmp_path, waiting, link):
    server.faults.append(pages(lambda _: link))
    with pytest.raises(ClinicalError, match="not its own"):
        rows(search(server, tmp_path, waiting, types=("Patient",)))
    assert len(server.requests) == 1


@pytest.mark.parametrize(("kind", "resource"), [("history", "Bundle"), ("searchset", "Patient")])
def test_what_is_no_searchset_is_refused(server, tmp_path, waiting, kind, resource):
    server.faults.append(pages(lambda _: "x", kind=kind, resource=resource))
    with pytest.raises(ClinicalError, match="no searchset"):
        rows(search(server, tmp_path, waiting, types=("Patient",)))


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"[" * 100_000, b'{"resourceType":"Bundle"', b"\xff\xfe"])
def test_a_page_that_is_no_json_is_refused_without_being_shown(server, tmp_path, waiting, body):
    def fault(_, request):
        request.answer(200, body)
        return True

    server.faults.append(fault)
    with pytest.raises(ClinicalError, match="not the JSON") as caught:
        rows(search(server, tmp_path, waiting))
    assert "log in" not in str(caught.value)


@pytest.mark.parametrize(("total", "refused", "noted"), [(7, 0, 0), (9, 2, 0), (None, 0, 1)])
def test_a_server_that_stops_after_a_full_page_is_noticed(server, tmp_path, waiting, total, refused, noted):
    def fault(_, request):
        assert request.query["_total"] == ["accurate"]
        body = {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": one} for one in PATIENTS]}
        request.answer(200, body | ({} if total is None else {"total": total}))
        return True

    server.faults.append(fault)
    source = search(server, tmp_path, waiting, types=("Patient",), page=7)
    rows(source)
    assert source.report.refused.get("resource missing from the pages of its search", 0) == refused
    assert source.report.noted.get("search that may go on where the server says that it ends", 0) == noted


def test_entries_that_nobody_asked_for_are_refused_and_missing_ones_counted(server, tmp_path, waiting):
    def fault(_, request):
        if request.path != "/r4/Patient":
            return False
        entry = [
            {"resource": PATIENTS[0]},
            {"resource": {"resourceType": "Binary", "id": "b"}},
            {"resource": PATIENTS[1], "search": {"mode": "include"}},
            {"resource": {"resourceType": "OperationOutcome"}, "search": {"mode": "outcome"}},
        ]
        request.answer(200, {"resourceType": "Bundle", "type": "searchset", "total": 5, "entry": entry})
        return True

    server.faults.append(fault)
    source = search(server, tmp_path, waiting, types=("Patient",))
    assert {row["patient"] for row in rows(source)} == {"p0"}
    assert source.report.refused == {
        "resource of a type that was not asked for": 1,
        "resource missing from the pages of its search": 3,
    }
    assert source.report.noted["remark that the server makes of a search"] == 1


SECRET = "Bearer 0123456789abcdef"


@pytest.fixture
def notified(server, tmp_path):
    """A listener, and what it takes to read from it and to send to it."""
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "key").write_text("ab" * 32)
    settings = FhirNotificationsSettings(
        name="push",
        intake="intake",
        intake_key="file:key",
        secret="file:secret",
        listen="127.0.0.1:0",
        server=ServerSettings(base=server.base),
    )
    site = Site(folder=tmp_path, timezone="Europe/Berlin")
    inbox = fhir_notifications.open_inbox(settings, site)
    listener = Listener(settings, site, inbox)
    threading.Thread(target=listener.serve, daemon=True).start()

    def send(method="POST", path="/fhir", body=b"", **headers):
        data = body if isinstance(body, bytes) else json.dumps(body, indent=1).encode()
        connection = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=10)
        sent = {"authorization": SECRET, "content-type": "application/fhir+json", **headers}
        with contextlib.closing(connection):
            connection.request(method, path, body=data, headers={k: v for k, v in sent.items() if v is not None})
            return connection.getresponse().status

    def read(scope=ALL):
        source = fhir_notifications.open_source(settings, site)
        return rows(source, scope), source.report

    yield send, read
    listener.close()


def notification(*entries, kind="event-notification", focus=()):
    parts = [{"name": "focus", "valueReference": {"reference": one}} for one in focus]
    status = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "subscription", "valueReference": {"reference": "Subscription/1"}},
            {"name": "type", "valueCode": kind},
            {"name": "notification-event", "part": [{"name": "event-number", "valueString": "1"}, *parts]},
        ],
    }
    return {"resourceType": "Bundle", "type": "history", "entry": [{"resource": status}, *entries]}


def test_what_was_acknowledged_is_read(notified):
    send, read = notified
    assert send(body=PATIENTS[0]) == 200
    assert send("PUT", "/fhir/Observation/o7", observation(7)) == 200
    whole = {"fullUrl": "urn:uuid:1", "resource": observation(8), "request": {"method": "PUT", "url": "Observation/o8"}}
    assert send(body=notification(whole)) == 200
    assert send(body=notification(focus=["Observation/o9"])) == 200
    found, report = read()
    assert sorted(row["number"] for row in creatinines(found)) == [7.0, 8.0, 9.0]
    assert report.refused == {}
    assert read()[0] == found


def test_a_handshake_is_answered_and_nothing_kept(notified):
    send, read = notified
    assert send(body=notification(kind="handshake")) == 200
    assert send(body=notification(kind="heartbeat")) == 200
    status = {"resourceType": "SubscriptionStatus", "type": "handshake"}
    assert (
        send(body={"resourceType": "Bundle", "type": "subscription-notification", "entry": [{"resource": status}]})
        == 200
    )
    found, report = read()
    assert found == []
    assert report.snapshot["notified resources"] == "0"


def test_a_deletion_stands_over_what_came_before_and_not_over_what_comes_after(notified):
    send, read = notified
    assert send(body=observation(1)) == 200
    assert send(body=observation(2)) == 200
    assert send("DELETE", "/fhir/Observation/o1") == 200
    assert send(body=notification({"request": {"method": "DELETE", "url": "Observation/o2"}})) == 200
    assert send(body=observation(2)) == 200
    found, report = read()
    assert [row["number"] for row in creatinines(found)] == [2.0]
    assert report.noted["notification that a later one stands over"] == 2


def test_a_reference_is_fetched_once_from_the_mappings_server(notified, server):
    send, read = notified
    for _ in range(3):
        assert send(body=notification({"fullUrl": f"{server.base}/Observation/o3"})) == 200
    assert send(body=notification(focus=["Observation/gone"])) == 200
    found, report = read()
    assert [row["number"] for row in creatinines(found)] == [3.0]
    assert server.paths() == ["/r4/Observation/o3", "/r4/Observation/gone"]
    assert report.noted["resource that is gone from the server"] == 1


def test_another_resource_than_the_notified_one_is_refused(notified, server):
    send, read = notified
    assert send(body=notification(focus=["Observation/o3"])) == 200

    def fault(_, request):
        request.answer(200, observation(4))
        return True

    server.faults.append(fault)
    with pytest.raises(ClinicalError, match="another resource"):
        read()


@pytest.mark.parametrize(
    "place",
    [
        "https://evil.example/r4/Observation/o3",
        "Observation/../../x",
        "Observation/o3?x=1",
        "urn:uuid:1",
        "",
        "x" * 9000,
    ],
)
def test_a_reference_elsewhere_is_refused(notified, server, place):
    send, read = notified
    assert send(body=notification({"fullUrl": place})) == 422
    assert read()[0] == []
    assert server.requests == []


@pytest.mark.parametrize(
    "secret", [None, "", "Bearer 0123456789abcdeg", SECRET + "x", SECRET[:-1], "bearer 0123456789abcdef"]
)
def test_without_the_secret_nothing_is_taken_in(notified, secret):
    send, read = notified
    assert send(body=PATIENTS[0], authorization=secret) == 401
    assert read()[0] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("POST", "/other", PATIENTS[0], {}, 404),
        ("POST", "/fhir/../etc", PATIENTS[0], {}, 404),
        ("POST", "/fhir/Patient/p0", PATIENTS[0], {}, 405),
        ("PUT", "/fhir", PATIENTS[0], {}, 405),
        ("PUT", "/fhir/Patient/p1", PATIENTS[0], {}, 422),
        ("POST", "/fhir", b"", {}, 422),
        ("POST", "/fhir", b"{", {}, 422),
        ("POST", "/fhir", b"[" * 50_000, {}, 422),
        ("POST", "/fhir", {"resourceType": "Patient"}, {}, 422),
        ("POST", "/fhir", {"resourceType": "Bundle", "type": "transaction", "entry": []}, {}, 422),
        ("POST", "/fhir", notification(), {}, 422),
        ("POST", "/fhir", PATIENTS[0], {"content-type": "application/fhir+xml"}, 415),
        ("POST", "/fhir", PATIENTS[0], {"content-encoding": "gzip"}, 415),
        ("POST", "/fhir", PATIENTS[0], {"transfer-encoding": "chunked"}, 411),
        ("POST", "/fhir", b"x", {"content-length": "99999999999"}, 413),
        ("POST", "/fhir", b"x", {"content-length": "-1"}, 411),
    ],
)
def test_what_cannot_be_kept_is_not_acknowledged(notified, method, path, body, headers, status):
    send, read = notified
    assert send(method, path, body, **headers) == status
    assert read()[0] == []


def test_a_method_that_is_not_known_is_answered_without_a_word(notified):
    send, _ = notified
    assert send("PATIENTMUELLER") == 501


def test_an_intake_that_fails_is_no_acknowledgement(server, tmp_path):
    class Full:
        damaged = 0

        def append(self, message):
            raise UnavailableError("the disk did not answer")

    (tmp_path / "secret").write_text(SECRET)
    settings = FhirNotificationsSettings(
        name="push", intake="x", intake_key="file:key", secret="file:secret", listen="127.0.0.1:0"
    )
    listener = Listener(settings, Site(folder=tmp_path), Full())
    threading.Thread(target=listener.serve, daemon=True).start()
    connection = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=10)
    headers = {"authorization": SECRET, "content-type": "application/fhir+json"}
    connection.request("POST", "/fhir", body=json.dumps(PATIENTS[0]), headers=headers)
    assert connection.getresponse().status == 503
    connection.close()
    listener.close()


def test_callers_that_say_nothing_are_bounded_in_number_and_time(tmp_path, monkeypatch):
    monkeypatch.setattr(fhir_listener, "_MOST_CONNECTIONS", 2)
    monkeypatch.setattr(fhir_listener, "_DEADLINE_SECONDS", 0.5)
    (tmp_path / "secret").write_text(SECRET)
    settings = FhirNotificationsSettings(
        name="push", intake="x", intake_key="file:key", secret="file:secret", listen="127.0.0.1:0"
    )
    listener = Listener(settings, Site(folder=tmp_path), None)
    threading.Thread(target=listener.serve, daemon=True).start()
    address = ("127.0.0.1", listener.port)
    idle = [socket.create_connection(address, timeout=10) for _ in range(2)]
    with socket.create_connection(address, timeout=10) as third:
        began = time.monotonic()
        assert third.recv(1) == b""  # At once: there is no place for it.
        assert time.monotonic() - began < 0.45
    for connection in idle:
        assert connection.recv(1) == b""  # Once their time is over.
        connection.close()
    listener.close()


def test_a_listener_for_other_machines_needs_tls_and_speaks_it(tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    certificate(tmp_path)
    common = {"name": "push", "intake": "x", "intake_key": "file:key", "secret": "file:secret"}
    with pytest.raises(ConfigError, match="certificate"):
        Listener(FhirNotificationsSettings(**common, listen="0.0.0.0:0"), Site(folder=tmp_path), None)
    settings = FhirNotificationsSettings(**common, listen="127.0.0.1:0", certificate="server.pem")
    listener = Listener(settings, Site(folder=tmp_path), None)
    threading.Thread(target=listener.serve, daemon=True).start()
    context = ssl.create_default_context(cafile=tmp_path / "server.pem")
    connection = http.client.HTTPSConnection("127.0.0.1", listener.port, context=context, timeout=10)
    connection.request("POST", "/fhir", body=b"{}")
    assert connection.getresponse().status == 401
    connection.close()
    listener.close()


def test_a_listener_can_be_closed_before_it_serves(tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    settings = FhirNotificationsSettings(
        name="push", intake="x", intake_key="file:key", secret="file:secret", listen="127.0.0.1:0"
    )
    listener = Listener(settings, Site(folder=tmp_path), None)
    listener.close()
    listener.serve()


def test_every_error_here_is_one_of_ours():
    assert all(issubclass(kind, WardroundError) for kind in (ClinicalError, ConfigError, CryptoError, UnavailableError))
