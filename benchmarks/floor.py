"""The bare transport: the same bytes over the same TLS stack, stored and read back, and nothing else.

Server: Granian, ASGI, HTTP/1.1, TLS 1.3, as in the hub. Clients: processes with http.client, as in a node.
One pass: every client downloads the model into a file and reads it back while uploading it; the server
stores each upload durably and then reads all of them back once.
"""

import asyncio
import http.client
import multiprocessing
import os
import sys
import time
from pathlib import Path

from wardround.crypto import certificate

__all__ = ["measure"]

_PIECE = 1024 * 1024


def measure(folder: Path, size: int, clients: int, passes: int) -> list[float]:
    """Seconds of each pass for `clients` clients and `size` bytes each way."""
    folder.mkdir()
    key, authority = certificate.create_authority("floor", time.time())
    tls_key, tls = certificate.issue_server(key, authority, ["127.0.0.1"], time.time(), 86400.0)
    for name, data in (("tls.key", tls_key), ("tls.crt", tls), ("authority.crt", authority)):
        (folder / name).write_bytes(data)
    with (folder / "model").open("wb") as file:
        for _ in range(0, size, _PIECE):
            file.write(os.urandom(_PIECE))
        file.truncate(size)
    spawn = multiprocessing.get_context("spawn")
    port = _free_port()
    server = spawn.Process(target=_serve, args=(folder, port), daemon=True)
    server.start()
    spans = []
    try:
        barrier, done = spawn.Barrier(clients + 1), spawn.Barrier(clients + 1)
        workers = [
            spawn.Process(target=_client, args=(folder, port, size, index, passes, barrier, done), daemon=True)
            for index in range(clients)
        ]
        for worker in workers:
            worker.start()
        for _ in range(passes):
            barrier.wait()
            started = time.perf_counter()
            done.wait()
            _read_back([folder / f"upload-{index}" for index in range(clients)])
            spans.append(time.perf_counter() - started)
        for worker in workers:
            worker.join()
    finally:
        server.terminate()
        server.join()
    return spans


def _serve(folder: Path, port: int) -> None:
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings
    from granian.server.embed import Server

    async def app(scope, receive, send):  # type: ignore[no-untyped-def]
        if scope["type"] != "http":
            return
        if scope["method"] == "GET":
            size = (folder / "model").stat().st_size
            await send(
                {"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(size).encode())]}
            )
            with (folder / "model").open("rb", buffering=0) as file:
                while piece := file.read(_PIECE):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            return
        with (folder / scope["path"].strip("/")).open("wb", buffering=_PIECE) as file:
            while True:
                message = await receive()
                file.write(message.get("body", b""))
                if not message.get("more_body"):
                    break
            file.flush()
            os.fsync(file.fileno())
        await send({"type": "http.response.start", "status": 201, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def main() -> None:
        server = Server(
            app,
            address="127.0.0.1",
            port=port,
            interface=Interfaces.ASGI,
            http=HTTPModes.http1,
            websockets=False,
            log_enabled=False,
            backpressure=1024,
            http1_settings=HTTP1Settings(max_buffer_size=512 * 1024),
            ssl_cert=folder / "tls.crt",
            ssl_key=folder / "tls.key",
        )
        await server.serve()

    asyncio.run(main())


def _client(folder, port, size, index, passes, barrier, done):  # type: ignore[no-untyped-def]
    from wardround.transport.connection import tls_context

    context = tls_context((folder / "authority.crt").read_bytes())
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, blocksize=_PIECE)
    for _ in range(100):
        try:
            connection.connect()
            break
        except OSError:
            time.sleep(0.1)
    for _ in range(passes):
        barrier.wait()
        path = folder / f"client-{index}"
        connection.request("GET", "/model")
        response = connection.getresponse()
        with path.open("wb") as file:
            while piece := response.read(_PIECE):
                file.write(piece)
        buffer = memoryview(bytearray(_PIECE))
        with path.open("rb", buffering=0) as file:
            connection.putrequest("PUT", f"/upload-{index}")
            connection.putheader("content-length", str(size))
            connection.endheaders()
            while count := file.readinto(buffer):
                connection.send(buffer[:count])
        connection.getresponse().read()
        done.wait()
        path.unlink()
    sys.exit(0)


def _read_back(paths: list[Path]) -> None:
    buffer = memoryview(bytearray(_PIECE))
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
