"""Routes on which people log in at a hub: pages, the embedded issuer's addresses, and who a login is of.

    GET  /.well-known/openid-configuration   /people/keys          what programs need to know
    GET  /people/authorize                                          a program asks for a login: the page
    POST /people/sign-in   /people/passkey/request   /…/log-in     a person answers it
    GET  /people/first     POST /people/first …                     a first login with an operator's code
    POST /people/token     /people/revoke                           programs, with DPoP
    GET  /people/me                                                 who the token is of, with DPoP

A page's challenge and question are bound to a cookie that scripts cannot read and other sites cannot send.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from wardround.crypto import dpop
from wardround.errors import CodecError, CryptoError, LoginError, NotFoundError, StepUpError, WardroundError
from wardround.hub.people import HubPeople
from wardround.hub.problem import problem_of, response
from wardround.services import login_page, people
from wardround.services.desk import LocalPeople
from wardround.services.issuer import CLIENT
from wardround.services.people import Person

__all__ = ["MAX_BODY", "person_of", "refusal", "routes"]

MAX_BODY = 65536
_BASE = "/people/"
_COOKIE = "__Host-wardround-login"
_LOGIN_ALGORITHMS = " ".join(dpop.ALGORITHMS)

Get = Callable[[Request], HubPeople | None]
Handler = Callable[[Request, HubPeople, bytes], Awaitable[Response]]


def routes(get: Get) -> list[Route]:
    """The routes; `get` gives the hub's people for a request, None where nobody is checked."""

    def at(path: str, handler: Handler, method: str = "GET") -> Route:
        return Route(path, _answering(get, handler), methods=[method])

    return [
        at("/.well-known/openid-configuration", _configuration),
        at("/people/keys", _keys),
        at("/people/provider", _provider),
        at("/people/page.css", _style),
        at("/people/page.js", _script),
        at("/people/authorize", _authorize),
        at("/people/sign-in", _sign_in, "POST"),
        at("/people/passkey/request", _passkey_request, "POST"),
        at("/people/passkey/log-in", _passkey_log_in, "POST"),
        at("/people/first", _first),
        at("/people/first", _first_begin, "POST"),
        at("/people/first/password", _first_password, "POST"),
        at("/people/first/passkey/options", _first_options, "POST"),
        at("/people/first/passkey", _first_passkey, "POST"),
        at("/people/token", _token, "POST"),
        at("/people/revoke", _revoke, "POST"),
        at("/people/me", _me),
    ]


async def person_of(request: Request, hub: HubPeople, *, action: str = "show") -> Person:
    """The person who sends this request, logged in as `action` takes it.

    Raises:
        LoginError: No token, no proof, or something about them is not as it must be.
        StepUpError: The login is too old or too weak for the action.
    """
    scheme, _, access = _once(request, "authorization").partition(" ")
    if scheme.lower() != "dpop" or not access:
        raise LoginError("log in first: this takes an access token and a DPoP proof (wardround login)")
    url, now = f"{hub.url.rstrip('/')}{request.url.path}", hub.clock.now()
    proof = _once(request, "dpop")
    person = await run_in_threadpool(hub.desk.logins.verify, access, proof, request.method, url, now)
    people.require(person, action, now, hub.desk.settings.step_up)
    return person


def refusal(error: WardroundError, hub: HubPeople) -> Response:
    """The answer to a person's request that failed: 401 with a challenge where another login would help."""
    found = response(problem_of(error, now=hub.clock.now()))
    if isinstance(error, LoginError):
        found.status_code = 401
        words = f'DPoP error="invalid_token", algs="{_LOGIN_ALGORITHMS}"'
        step_up = isinstance(error, StepUpError)
        found.headers["www-authenticate"] = people.challenge(hub.desk.settings.step_up) if step_up else words
    return found


def _answering(get: Get, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        hub = get(request)
        if hub is None:
            return response(problem_of(NotFoundError("this hub checks no logins: its people.provider is none"), now=0))
        try:
            _check_origin(request, hub)
            found = await handler(request, hub, await _body(request))
        except WardroundError as error:
            found = refusal(error, hub)
        return _guarded(found)

    return answer


async def _configuration(_: Request, hub: HubPeople, __: bytes) -> Response:
    """OpenID Connect Discovery 1.0, section 3; RFC 8414; RFC 9449, section 5.1; RFC 9207, section 3."""
    _local(hub)
    base = hub.url.rstrip("/") + _BASE
    return _json(
        {
            "issuer": hub.url,
            "authorization_endpoint": f"{base}authorize",
            "token_endpoint": f"{base}token",
            "jwks_uri": f"{base}keys",
            "revocation_endpoint": f"{base}revoke",
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "dpop_signing_alg_values_supported": list(dpop.ALGORITHMS),
            "acr_values_supported": [people.PASSKEY_ACR, people.TWO_FACTOR_ACR],
            "authorization_response_iss_parameter_supported": True,
            "scopes_supported": ["openid"],
        }
    )


async def _provider(_: Request, hub: HubPeople, __: bytes) -> Response:
    """Where a person's program is to log in: here, or at the hospital's provider."""
    settings = hub.desk.settings
    local = hub.desk.local is not None
    return _json(
        {
            "issuer": hub.desk.issuer,
            "client": CLIENT if local else settings.client,
            "audience": hub.desk.audience,
            "scope": "openid" if local else settings.scope,
        }
    )


async def _keys(_: Request, hub: HubPeople, __: bytes) -> Response:
    return _json({"keys": _local(hub).issuer.keys()})


async def _style(_: Request, __: HubPeople, ___: bytes) -> Response:
    return Response(login_page.STYLE, media_type="text/css")


async def _script(_: Request, __: HubPeople, ___: bytes) -> Response:
    return Response(login_page.SCRIPT, media_type="text/javascript")


async def _authorize(request: Request, hub: HubPeople, _: bytes) -> Response:
    pairs = request.query_params.multi_items()
    # RFC 6749, section 3.1: a parameter comes once.
    if len({name for name, _ in pairs}) != len(pairs):
        raise LoginError("a field of the login comes more than once")
    try:
        name = _local(hub).issuer.ask(dict(pairs), hub.clock.now())
    except LoginError as error:
        # Never sent back: the address to send it to is one of the things that may be wrong.
        return HTMLResponse(login_page.message_page(_BASE, "This login cannot go on", str(error)), 400)
    page = HTMLResponse(login_page.login_page(_BASE))
    page.set_cookie(_COOKIE, name, max_age=600, secure=True, httponly=True, samesite="strict", path="/")
    return page


async def _sign_in(request: Request, hub: HubPeople, body: bytes) -> Response:
    local, now, form = _local(hub), hub.clock.now(), _form(body)
    question = _question(request, local, now)
    who = (form.get("name", ""), form.get("password", ""), form.get("code", ""))
    try:
        if _is_recovery(who[2]):
            code = await run_in_threadpool(local.sign_in.recover, *who, now)
            words = f"Your app's secret is void. Choose new factors at {hub.url}{_BASE}first with this code: {code}"
            return HTMLResponse(login_page.message_page(_BASE, "Choose new factors", words))
        done = await run_in_threadpool(local.sign_in.with_code, *who, now)
    except LoginError as error:
        return HTMLResponse(login_page.login_page(_BASE, said=str(error)), 401)
    return RedirectResponse(await run_in_threadpool(local.issuer.answer, question, done, now), 303)


async def _passkey_request(request: Request, hub: HubPeople, _: bytes) -> Response:
    local, now = _local(hub), hub.clock.now()
    return _packed(local.passkeys.request(_question(request, local, now), now))


async def _passkey_log_in(request: Request, hub: HubPeople, body: bytes) -> Response:
    local, now = _local(hub), hub.clock.now()
    question = _question(request, local, now)
    done = await run_in_threadpool(local.passkeys.log_in, question, _object(body), now)
    return _json({"next": local.issuer.answer(question, done, now)})


async def _first(_: Request, hub: HubPeople, __: bytes) -> Response:
    page, name = HTMLResponse(login_page.first_page(_BASE)), _local(hub).first_logins.page()
    page.set_cookie(_COOKIE, name, max_age=900, secure=True, httponly=True, samesite="strict", path="/")
    return page


async def _first_begin(request: Request, hub: HubPeople, body: bytes) -> Response:
    local, form = _local(hub), _form(body)
    name, code = form.get("name", ""), form.get("code", "")
    try:
        begin = local.first_logins.begin
        offer = await run_in_threadpool(begin, name, code, _binding(request), hub.clock.now())
    except LoginError as error:
        return HTMLResponse(login_page.first_page(_BASE, said=str(error)), 401)
    return HTMLResponse(login_page.factors_page(_BASE, offer))


async def _first_password(request: Request, hub: HubPeople, body: bytes) -> Response:
    local, form, binding = _local(hub), _form(body), _binding(request)
    now, finish = hub.clock.now(), local.first_logins.finish_with_password
    try:
        finished = await run_in_threadpool(finish, binding, form.get("password", ""), form.get("code", ""), now)
    except LoginError as error:
        offer = local.first_logins.offer(binding, now)
        return HTMLResponse(login_page.factors_page(_BASE, offer, said=str(error)), 401)
    return HTMLResponse(login_page.codes_page(_BASE, finished.codes))


async def _first_options(request: Request, hub: HubPeople, _: bytes) -> Response:
    options = _local(hub).first_logins.passkey_options
    return _packed(await run_in_threadpool(options, _binding(request), hub.clock.now()))


async def _first_passkey(request: Request, hub: HubPeople, body: bytes) -> Response:
    finish = _local(hub).first_logins.finish_with_passkey
    finished = await run_in_threadpool(finish, _binding(request), _object(body), hub.clock.now())
    return _json({"codes": finished.codes})


async def _token(request: Request, hub: HubPeople, body: bytes) -> Response:
    now = hub.clock.now()
    thumbprint = _proven(request, hub, "token", now)
    if isinstance(thumbprint, Response):
        return thumbprint
    try:
        tokens = await run_in_threadpool(_local(hub).issuer.exchange, _form(body), thumbprint, now)
    except LoginError as error:
        return _oauth("invalid_grant", str(error))
    return _json(tokens)


async def _revoke(request: Request, hub: HubPeople, body: bytes) -> Response:
    now = hub.clock.now()
    thumbprint = _proven(request, hub, "revoke", now)
    if isinstance(thumbprint, Response):
        return thumbprint
    with suppress(LoginError):  # RFC 7009, section 2.2: a token that is unknown is revoked already.
        await run_in_threadpool(_local(hub).issuer.end, _form(body).get("token", ""), thumbprint, now)
    return Response(status_code=200)


async def _me(request: Request, hub: HubPeople, _: bytes) -> Response:
    return _json(await person_of(request, hub))


def _proven(request: Request, hub: HubPeople, name: str, now: float) -> str | Response:
    """The thumbprint of the key that the request proves, or the refusal."""
    address = f"{hub.url.rstrip('/')}{_BASE}{name}"
    try:
        proof, nonce = dpop.check(_once(request, "dpop"), "POST", address, now=now)
    except (CryptoError, CodecError, LoginError) as error:
        return _oauth("invalid_dpop_proof", str(error))
    if dpop.check_nonce(hub.nonce_key, nonce, now):
        return proof.thumbprint
    # RFC 9449, section 8: a proof made before this moment was asked for is worth nothing.
    answer = _oauth("use_dpop_nonce", "the proof must carry the nonce of this answer")
    answer.headers["dpop-nonce"] = dpop.make_nonce(hub.nonce_key, now)
    return answer


def _question(request: Request, local: LocalPeople, now: float) -> str:
    name = request.cookies.get(_COOKIE, "")
    if not local.issuer.is_asked(name, now):
        raise LoginError("no program waits for this login any more: begin again with wardround login")
    return name


def _binding(request: Request) -> str:
    binding = request.cookies.get(_COOKIE, "")
    if not 40 <= len(binding) <= 64:
        raise LoginError("the page's cookie is missing: open the page again")
    return binding


def _local(hub: HubPeople) -> LocalPeople:
    if hub.desk.local is None:
        raise NotFoundError(f"people log in at {hub.desk.issuer}, not here")
    return hub.desk.local


def _is_recovery(code: str) -> bool:
    return len(code.replace("-", "").replace(" ", "")) > 8


def _check_origin(request: Request, hub: HubPeople) -> None:
    origin = request.headers.get("origin")
    if request.method != "POST" or origin is None:
        return
    here, there = urlsplit(hub.url), urlsplit(origin)
    if (here.scheme, here.hostname, here.port or 443) != (there.scheme, there.hostname, _port(there.netloc)):
        raise LoginError("the request comes from another site's page")


def _port(netloc: str) -> int:
    port = netloc.rpartition(":")[2]
    return int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 443


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise CodecError(f"a login's message may have at most {MAX_BODY} bytes")
    return bytes(body)


def _once(request: Request, name: str) -> str:
    found = request.headers.getlist(name)
    if len(found) != 1 or not found[0].isascii():
        raise LoginError(f"the request must have the header {name} once")
    return found[0]


def _form(body: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=32)
    except ValueError:
        raise CodecError("the body is not a form") from None
    if len({name for name, _ in pairs}) != len(pairs):
        raise CodecError("a field of the form comes more than once")
    return dict(pairs)


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise CodecError("the body is not a JSON object") from None


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _packed(text: str) -> Response:
    return Response(text, media_type="application/json")


def _oauth(error: str, words: str) -> Response:
    """RFC 6749, section 5.2."""
    status = 401 if error == "use_dpop_nonce" else 400
    return Response(
        msgspec.json.encode({"error": error, "error_description": words}), status, media_type="application/json"
    )


def _guarded(answer: Response) -> Response:
    answer.headers["content-security-policy"] = (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        # The last step of a login by form is a redirect to the program on the person's own machine.
        " form-action 'self' http://127.0.0.1:* http://[::1]:*; frame-ancestors 'none'; base-uri 'none'"
    )
    answer.headers["cache-control"] = "no-store"
    answer.headers["referrer-policy"] = "no-referrer"
    answer.headers["x-content-type-options"] = "nosniff"
    answer.headers["x-frame-options"] = "DENY"
    answer.headers["cross-origin-opener-policy"] = "same-origin"
    return answer
