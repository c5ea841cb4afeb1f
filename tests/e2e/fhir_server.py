"""A small FHIR server of the tests' own: search with paging, Bulk Data export, SMART Backend Services; and its faults.

It is written from the specifications, apart from the code under test. Every request is recorded, with its headers. A
fault is a function that is asked first and may answer in the server's stead.
"""

import base64
import contextlib
import hashlib
import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils

Resources = dict[str, list[dict[str, Any]]]
NDJSON = "application/fhir+ndjson"


@dataclass
class Request:
    """What came in, and how to answer it."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    handler: BaseHTTPRequestHandler

    def answer(self, status, body=b"", *, kind="application/fhir+json", **headers):
        """A whole answer; a body that is no bytes is JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.handler.send_response_only(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.end_headers()
        self.handler.wfile.write(data)

    def raw(self, *parts):
        """Bytes as they are, and then the connection is closed."""
        with contextlib.suppress(OSError):
            for part in parts:
                self.handler.wfile.write(part)
        self.handler.close_connection = True


@dataclass
class FhirServer:
    """`resources` by type; `public_key` of the one client that may have a token, or None where nobody needs one."""

    resources: Resources
    public_key: Any = None
    polls: int = 2
    page: int = 1000
    lifetime: float = 300
    context: ssl.SSLContext | None = None
    faults: list[Callable[["FhirServer", Request], bool]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    tokens: dict[str, float] = field(default_factory=dict)
    assertions: set[str] = field(default_factory=set)
    manifest: dict[str, Any] = field(default_factory=dict)

    def __enter__(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                parts = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                query = parse_qs(parts.query, keep_blank_values=True)
                outer.take(Request(self.command, parts.path, query, headers, body, self))

            do_GET = do_POST = do_DELETE = handle_any  # noqa: N815, as http.server has it

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address):
                pass

        self.httpd = Server(("127.0.0.1", 0), Handler)
        scheme = "http"
        if self.context:
            scheme = "https"
            self.httpd.socket = self.context.wrap_socket(self.httpd.socket, server_side=True)
        self.origin = f"{scheme}://127.0.0.1:{self.httpd.server_address[1]}"
        self.base = f"{self.origin}/r4"
        threading.Thread(target=self.httpd.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.httpd.shutdown()
        self.httpd.server_close()

    def paths(self, method=None):
        """The paths that were asked for, in order."""
        return [one.path for one in self.requests if method in {None, one.method}]

    def take(self, request):
        self.requests.append(request)
        if any(fault(self, request) for fault in self.faults):
            return
        path = request.path.removeprefix("/r4")
        if path == "/.well-known/smart-configuration":
            request.answer(200, {"token_endpoint": f"{self.origin}/token"}, kind="application/json")
        elif path == "/token":
            self.give_token(request)
        elif self.public_key is not None and not self.knows(request):
            request.answer(401, {"resourceType": "OperationOutcome"})
        elif path.endswith("$export"):
            self.begin(request)
        elif path.startswith("/jobs/"):
            self.of_job(request, path.split("/")[2])
        elif path.startswith("/files/"):
            self.give_file(request, *path.split("/")[2:4])
        elif path.count("/") == 2:
            self.read(request, *path.split("/")[1:])
        else:
            self.search(request, path.strip("/"))

    def knows(self, request):
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        return self.tokens.get(token, 0.0) > time.time()

    def give_token(self, request):
        form = dict(parse_qsl(request.body.decode()))
        head, claims, signature = form["client_assertion"].split(".")
        header, said = json.loads(unpadded(head)), json.loads(unpadded(claims))
        verify(self.public_key, header["alg"], unpadded(signature), f"{head}.{claims}".encode())
        assert form["grant_type"] == "client_credentials"
        assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        assert header["typ"] == "JWT"
        assert said["aud"] == f"{self.origin}/token"
        assert 0 < said["exp"] - time.time() <= 300
        if (
            said["iss"] != said["sub"]
            or said["iss"] != "node"
            or header["kid"] != "k1"
            or said["jti"] in self.assertions
        ):
            request.answer(401, {"error": "invalid_client"}, kind="application/json")
            return
        self.assertions.add(said["jti"])
        token = hashlib.sha256(claims.encode()).hexdigest()
        self.tokens[token] = time.time() + self.lifetime
        granted = {"access_token": token, "token_type": "bearer", "expires_in": self.lifetime, "scope": form["scope"]}
        request.answer(200, granted, kind="application/json")

    def begin(self, request):
        assert request.headers["prefer"] == "respond-async"
        if request.method == "POST":
            asked = json.loads(request.body)
            found = {one["name"]: [one.get("valueString") or one.get("valueInstant")] for one in asked["parameter"]}
        else:
            found = request.query
        job = f"j{len(self.jobs)}"
        self.jobs[job] = {"asked": found, "polls": 0, "deleted": False}
        request.answer(202, Content_Location=f"{self.base}/jobs/{job}")

    def of_job(self, request, job):
        known = self.jobs[job]
        if request.method == "DELETE":
            known["deleted"] = True
            request.answer(202)
            return
        known["polls"] += 1
        if known["polls"] <= self.polls:
            request.answer(202, Retry_After="1", X_Progress=f"{known['polls'] * 10}% done")
            return
        asked = known["asked"]
        since = asked.get("_since", [""])[0]
        types = [kind for kind in asked["_type"][0].split(",") if self.since(kind, since)]
        output = [
            {"type": kind, "url": f"{self.base}/files/{job}/{kind}", "count": len(self.since(kind, since))}
            for kind in types
        ]
        manifest = {
            "transactionTime": "2026-01-02T03:04:05Z",
            "request": "…",
            "requiresAccessToken": self.public_key is not None,
            "output": output,
            "error": [],
        }
        request.answer(200, manifest | self.manifest, kind="application/json")

    def since(self, kind, since):
        return [one for one in self.resources.get(kind, []) if one.get("meta", {}).get("lastUpdated", "~") >= since]

    def give_file(self, request, job, kind):
        since = self.jobs[job]["asked"].get("_since", [""])[0]
        request.answer(200, ndjson(self.since(kind, since)), kind=NDJSON)

    def read(self, request, kind, identifier):
        found = [one for one in self.resources.get(kind, []) if one["id"] == identifier]
        request.answer(200, found[0]) if found else request.answer(404, {"resourceType": "OperationOutcome"})

    def search(self, request, kind):
        found = self.since(kind, request.query.get("_lastUpdated", ["ge"])[0].removeprefix("ge"))
        if codes := request.query.get("combo-code"):
            wanted = set(codes[0].split(","))
            found = [one for one in found if wanted & set(coded(one))]
        size = min(int(request.query["_count"][0]), self.page)
        start = int(request.query.get("_at", ["0"])[0])
        rest = "&".join(f"{name}={value[0]}" for name, value in request.query.items() if name != "_at")
        link = [{"relation": "self", "url": f"{self.base}/{kind}?{rest}"}]
        if start + size < len(found):
            link.append({"relation": "next", "url": f"{self.base}/{kind}?{rest}&_at={start + size}"})
        entry = [{"fullUrl": f"{self.base}/{kind}/{one['id']}", "resource": one} for one in found[start : start + size]]
        bundle = {"resourceType": "Bundle", "type": "searchset", "total": len(found), "link": link, "entry": entry}
        request.answer(200, json.dumps(bundle, indent=2).encode())


def coded(observation):
    """The tokens of an Observation and its components."""
    for one in [observation, *observation.get("component", [])]:
        for coding in one["code"]["coding"]:
            yield f"{coding['system']}|{coding['code']}"


def ndjson(resources):
    return b"".join(json.dumps(one).encode() + b"\n" for one in resources)


def unpadded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def verify(key, algorithm, signature, message):
    if isinstance(key, ec.EllipticCurvePublicKey):
        assert algorithm == "ES384"
        assert len(signature) == 96
        halves = int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")
        key.verify(utils.encode_dss_signature(*halves), message, ec.ECDSA(hashes.SHA384()))
    else:
        assert algorithm == "RS384"
        key.verify(signature, message, padding.PKCS1v15(), hashes.SHA384())
