"""A node's page for passkeys: on this machine's loopback, under a secret path, for one ceremony, then gone.

A node has no listening port, and a passkey needs a browser. The page answers on ``http://localhost:PORT``,
where browsers allow passkeys without TLS, and only under a path that nobody else knows.
"""

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from wardround.cli.places import Place, open_place
from wardround.errors import CodecError, ConfigError, LoginError, WardroundError
from wardround.services import login_page
from wardround.services.first_login import Finished
from wardround.services.sign_in import Authentication
from wardround.system import SystemClock
from wardround.transport.loopback import Answer, Asked, Loopback

if TYPE_CHECKING:
    from wardround.services.desk import LocalPeople

__all__ = ["SECONDS", "first_login", "log_in"]

SECONDS = 180.0
Post = Callable[[Mapping[str, Any]], tuple[str, bool]]


def log_in(folder: Path, opened: Callable[[str], None]) -> Authentication:
    """Log in with a passkey; `opened` is told the page's address.

    Raises:
        LoginError: Nobody did in time, or the passkey was not accepted.
    """
    done: list[Authentication] = []

    def posts(local: "LocalPeople", binding: str) -> dict[str, Post]:
        def answer(made: Mapping[str, Any]) -> tuple[str, bool]:
            done.append(local.passkeys.log_in(binding, made, SystemClock().now()))
            return "{}", True

        return {
            "passkey/request": lambda _: (local.passkeys.request(binding, SystemClock().now()), False),
            "passkey/log-in": answer,
        }

    _serve(folder, opened, posts, lambda base: login_page.login_page(base, with_password=False))
    return done[0]


def first_login(folder: Path, name: str, code: str, opened: Callable[[str], None]) -> Finished:
    """Make a first passkey with an operator's code; `opened` is told the page's address.

    Raises:
        LoginError: The code is not good, nobody finished in time, or the passkey was not accepted.
    """
    done: list[Finished] = []
    offers = []

    def posts(local: "LocalPeople", binding: str) -> dict[str, Post]:
        offers.append(local.first_logins.begin(name, code, binding, SystemClock().now()))

        def answer(made: Mapping[str, Any]) -> tuple[str, bool]:
            done.append(local.first_logins.finish_with_passkey(binding, made, SystemClock().now()))
            return msgspec.json.encode({"codes": done[0].codes}).decode(), True

        options = local.first_logins.passkey_options
        return {
            "first/passkey/options": lambda _: (options(binding, SystemClock().now()), False),
            "first/passkey": answer,
        }

    _serve(folder, opened, posts, lambda base: login_page.factors_page(base, offers[0], with_password=False))
    return done[0]


def _serve(
    folder: Path,
    opened: Callable[[str], None],
    posts: Callable[["LocalPeople", str], dict[str, Post]],
    page: Callable[[str], str],
) -> None:
    binding, path = secrets.token_urlsafe(32), f"/{secrets.token_urlsafe(24)}/"
    with Loopback() as listener:
        origin = f"http://localhost:{listener.port}"
        with open_place(folder, origin=origin) as place:
            routes = posts(_local(place), binding)
            shown = {
                "": ("text/html; charset=utf-8", page(path)),
                "page.css": ("text/css; charset=utf-8", login_page.STYLE),
                "page.js": ("text/javascript; charset=utf-8", login_page.SCRIPT),
            }

            def handle(asked: Asked) -> Answer:
                name = asked.path.removeprefix(path) if asked.path.startswith(path) else None
                if asked.method == "GET" and name in shown:
                    kind, text = shown[name]
                    return Answer(200, kind, text.encode())
                if name not in routes or asked.method != "POST" or asked.origin != origin:
                    return Answer(404, "text/plain; charset=utf-8", b"Nothing is here.")
                return _posted(routes[name], asked.body)

            opened(f"{origin}{path}")
            listener.serve(handle, SECONDS)


def _posted(act: Post, body: bytes) -> Answer:
    try:
        text, last = act(_object(body))
    except WardroundError as error:
        said = msgspec.json.encode({"detail": str(error)})
        return Answer(401 if isinstance(error, LoginError) else 400, "application/json", said)
    return Answer(200, "application/json", text.encode(), last=last)


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise CodecError("the body is not a JSON object") from None


def _local(place: Place) -> "LocalPeople":
    if place.desk is None or place.desk.local is None:
        raise ConfigError('passkeys are kept here only with provider = "local" in people.toml')
    if not place.site:
        raise ConfigError("a hub's passkeys belong to its own address: run wardround login https://…")
    return place.desk.local
