"""What TLS, signature, policy and audit add to a request, beside a bare web server with neither, in one run.

    hub        a signed request that finds nothing to do, to a hub in its own process: TLS 1.3, signature, policies
    tls        the same bytes to a bare Starlette application on granian, over the same TLS
    bare       the same bytes to the same application without TLS

The three are asked in turns, over connections that stay open. ``added`` is hub less bare, at the median. What the parts
take is measured by themselves, in this process. An audit log that the hub writes is in ``hub``; `requests` takes one to
time by itself as well.
"""

import base64
import gc
import http.client
import secrets
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import msgspec

from benchmarks.federation import federation
from wardround.authorization import shipped
from wardround.authorization.decide import Decision
from wardround.authorization.request import Machine, Request, Resource
from wardround.crypto import http_signature, signing
from wardround.node import setup as node
from wardround.protocol.messages import TaskRequest

__all__ = ["decisions", "requests"]

_WARM = 50
_ASKED = TaskRequest((), 0.0)
_BODY = msgspec.msgpack.encode(_ASKED)


def requests(times: int = 800, *, on_decision: Callable[[Decision], None] | None = None) -> dict[str, float]:
    """Seconds per request: medians and 99th percentiles, and what the parts take."""
    with ExitStack() as stack:
        running = stack.enter_context(federation(1))
        keys = running.place / "hub"
        tls = ("--ssl", str(keys / "tls.crt"), str(keys / "keys" / "tls.key"))
        opened = node.open_node(running.place / "site-00")
        stack.callback(opened.hub.close)
        stack.callback(opened.vault.close)
        bare = stack.enter_context(_bare(running.place / "bare.log"))
        secured = stack.enter_context(_bare(running.place / "tls.log", *tls))
        ways: dict[str, Callable[[], object]] = {
            "hub": lambda: opened.hub.next_task(_ASKED),
            "tls": lambda: _ask(secured),
            "bare": lambda: _ask(bare),
        }
        spans = _in_turns(ways, times)
    found = {name: median(several) for name, several in spans.items()}
    found |= {f"{name}_p99": sorted(several)[int(len(several) * 0.99)] for name, several in spans.items()}
    parts = {f"part_{name}": seconds for name, seconds in _parts(on_decision).items()}
    return found | parts | {"added": found["hub"] - found["bare"], "added_by_tls": found["tls"] - found["bare"]}


def decisions(times: int = 5000) -> dict[str, float]:
    """Seconds per decision, new and known, with few and with many participants, and to load the policies."""
    started = time.perf_counter()
    authorizer = shipped.hub()
    loading = time.perf_counter() - started
    found: dict[str, float] = {"load": loading}
    for sites in (4, 50, 1000):
        names = tuple(f"site-{i:04d}" for i in range(sites))
        run = Resource("Run", "a" * 64 + ".1", study="a" * 64, participants=names, researcher="ada")
        node, count = Machine(names[-1], "node", names[-1]), times // (1 + sites // 100)
        # Another number of rounds each time: the same request again is answered from memory.
        new = [Request(node, "contribute", run, {"purpose": "x", "rounds": rounds}) for rounds in range(count)]
        assert all(authorizer.decide(asked).allowed for asked in new[:3])
        spans = sorted(_timed(lambda asked=asked: authorizer.decide(asked)) for asked in new[3:])
        known = [_timed(lambda asked=new[-1]: authorizer.decide(asked)) for _ in range(count)]
        found |= {f"median_{sites}": median(spans), f"p99_{sites}": spans[int(len(spans) * 0.99)]}
        found[f"known_{sites}"] = median(known)
    return found


def _in_turns(ways: dict[str, Callable[[], object]], times: int) -> dict[str, list[float]]:
    spans: dict[str, list[float]] = {name: [] for name in ways}
    gc.collect()
    for turn in range(times + _WARM):
        for name, way in ways.items():
            seconds = _timed(way)
            if turn >= _WARM:
                spans[name].append(seconds)
    return spans


def _parts(on_decision: Callable[[Decision], None] | None) -> dict[str, float]:
    key = signing.generate()
    authorizer = shipped.hub()
    asked = Request(Machine("arran", "node", "arran"), "take_task", Resource("Site", "arran", owner="arran"))
    decision = authorizer.decide(asked)
    assert decision.allowed
    digest = secrets.token_bytes(32)

    def sign() -> dict[str, str]:
        nonce = base64.urlsafe_b64encode(secrets.token_bytes(18)).decode()
        return http_signature.sign(
            method="POST",
            target="/v1/tasks",
            digest=digest,
            created=int(time.time()),
            nonce=nonce,
            tag="x",
            keyid="arran",
            key=key,
            whole=False,
            content_range="",
        )

    headers = sign()
    parts: dict[str, Callable[[], object]] = {
        "sign": sign,
        "verify": lambda: http_signature.parse("POST", "/v1/tasks", headers).verify(key.public_key()),
        "decide_again": lambda: authorizer.decide(asked),
    }
    if on_decision is not None:
        parts["audit"] = lambda: on_decision(decision)
    return {name: median(_timed(part) for _ in range(1000)) for name, part in parts.items()}


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _ask(connection: http.client.HTTPConnection) -> None:
    connection.request("POST", "/v1/tasks", body=_BODY, headers={"content-type": "application/msgpack"})
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 204, answer.status


@contextmanager
def _bare(log: Path, *tls: str) -> Iterator[http.client.HTTPConnection]:
    """A connection to a bare server, which is a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.requests", str(port), *tls]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield _connected(port, is_tls=bool(tls))
        finally:
            process.terminate()
            process.wait(10.0)


def _connected(port: int, *, is_tls: bool) -> http.client.HTTPConnection:
    deadline = time.monotonic() + 20.0
    while True:
        if is_tls:
            # Who answers does not matter here, only what it costs.
            context = ssl._create_unverified_context()
            connection: http.client.HTTPConnection = http.client.HTTPSConnection("127.0.0.1", port, context=context)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", port)
        try:
            connection.connect()
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return connection


def _serve(port: int, certificate: str = "", key: str = "") -> None:
    """The bare server: an application with one route that reads a body and answers nothing."""
    import asyncio

    from granian.constants import HTTPModes, Interfaces
    from granian.log import LogLevels
    from granian.server.embed import Server
    from starlette.applications import Starlette
    from starlette.requests import Request as Received
    from starlette.responses import Response
    from starlette.routing import Route

    async def answer(request: Received) -> Response:
        await request.body()
        return Response(status_code=204)

    server = Server(
        Starlette(routes=[Route("/v1/tasks", answer, methods=["POST"])]),
        address="127.0.0.1",
        port=port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        log_access=False,
        log_level=LogLevels.error,
        **({"ssl_cert": Path(certificate), "ssl_key": Path(key)} if certificate else {}),
    )
    asyncio.run(server.serve())


if __name__ == "__main__":
    _serve(int(sys.argv[1]), *sys.argv[3:])
