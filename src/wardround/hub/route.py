"""An address of the hub: who may ask it is decided in one place, before its handler runs.

Every `Address` names the action that asking it is, and how to find what is acted on. `authorize` puts both to the
policies. There is no way to a handler around it: `routed` is the only maker of routes.

    request ─▶ signature ─▶ person's token ─▶ policies: machine, and person if there is one ─▶ log ─▶ handler
"""

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wardround.authorization.decide import Decision
from wardround.authorization.request import ANYONE, Machine, Principal, Resource
from wardround.authorization.request import Person as Named
from wardround.authorization.request import Request as Asked
from wardround.errors import CodecError, ForbiddenError, LoginError, NotFoundError, StepUpError, WardroundError
from wardround.hub.authentication import Caller, circumstances_of, credentials
from wardround.hub.state import About, HubState
from wardround.protocol import messages
from wardround.services.circumstances import LoggedIn, named

__all__ = [
    "HUB",
    "Address",
    "Subject",
    "admit",
    "authorize",
    "body_of",
    "opened",
    "permit",
    "routed",
    "signed",
    "streamed",
    "target_of",
]

_KINDS = {"site": "node"}

NamesAction = Callable[[Request, bytes], str]
Handler = Callable[[Request, HubState, Caller, bytes], Awaitable[Response]]
StreamHandler = Callable[[Request, HubState, Caller], Awaitable[Response]]
OpenHandler = Callable[[Request, HubState], Awaitable[Response]]
Answering = Callable[[Callable[[Request, HubState], Awaitable[Response]]], Callable[[Request], Awaitable[Response]]]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a request is about: a `kind` of resource, and how the one is found.

    Where that reads the database, and so is done off the event loop, `name_in` says under which name `find` keeps it
    in the hub's `abouts`: the next request is decided at once.
    """

    kind: str
    find: Callable[[HubState, Caller | None, Request, bytes], About]
    name_in: Callable[[Request, bytes], str] | None = None


HUB = Subject("Hub", lambda _state, _caller, _request, _body: (Resource("Hub", "hub"), {}))
"""What belongs to nobody in particular."""


@dataclass(frozen=True, slots=True)
class Address:
    """A method and path, the action that asking it is (or what tells it from the request), and who handles it."""

    method: str
    path: str
    action: str | NamesAction
    handle: Callable[["Address", Request, HubState], Awaitable[Response]]
    subject: Subject


def signed(
    method: str,
    path: str,
    action: str | NamesAction,
    handler: Handler,
    subject: Subject = HUB,
) -> Address:
    """An address whose whole body is read, bounded, and covered by the caller's signature."""

    async def handle(address: Address, request: Request, state: HubState) -> Response:
        body = await body_of(request)
        digest = hashlib.sha256(body).digest()
        caller = state.authentication.check(request.method, target_of(request), request.headers, content=digest)
        await authorize(address, request, state, caller, body)
        return await handler(request, state, caller, body)

    return Address(method, path, action, handle, subject)


def streamed(method: str, path: str, action: str | NamesAction, handler: StreamHandler, subject: Subject) -> Address:
    """An address whose body comes as a stream; the signature covers the digest of the whole blob."""

    async def handle(address: Address, request: Request, state: HubState) -> Response:
        caller = state.authentication.check(request.method, target_of(request), request.headers, content=None)
        await authorize(address, request, state, caller, b"")
        return await handler(request, state, caller)

    return Address(method, path, action, handle, subject)


def opened(
    method: str,
    path: str,
    action: str | NamesAction,
    handler: OpenHandler,
    subject: Subject = HUB,
) -> Address:
    """An address for whoever asks; what they send is for the handler to judge."""

    async def handle(address: Address, request: Request, state: HubState) -> Response:
        await authorize(address, request, state, None, b"")
        return await handler(request, state)

    return Address(method, path, action, handle, subject)


def routed(addresses: Iterable[Address], answering: Answering) -> list[Route]:
    """The routes of `addresses`; `answering` turns errors into answers."""
    return [
        Route(one.path, answering(partial(one.handle, one)), methods=[one.method], name=f"{one.method} {one.path}")
        for one in addresses
    ]


async def authorize(address: Address, request: Request, state: HubState, caller: Caller | None, body: bytes) -> None:
    """Raise unless the policies permit this, for the machine and for the person behind it.

    Raises:
        ForbiddenError: They do not.
        StepUpError: They would after a newer or stronger login.
        LoginError: A person's token came along and does not count.
    """
    person = None
    # At an open address a token is for the handler: nothing that is open takes one.
    if caller is not None and (found := credentials(request.headers)) is not None:
        if state.people is None:
            raise LoginError("people do not log in at this hub; send the request without a token")
        url = f"{state.public_url}{request.url.path}"
        person = await state.threads(state.people.verify, *found, request.method, url, state.clock.now())
    judge = partial(_judge, address.action, address.subject, request, state, caller, person, body)
    decisions, refusal = judge() if _is_at_hand(address.subject, request, state, body) else await state.threads(judge)
    if _are_recorded(state, decisions):
        await state.threads(_record, state, decisions)
    if refusal is not None:
        raise refusal


def admit(request: Request, state: HubState, action: str, subject: Subject, body: bytes) -> Caller:
    """The sender of a signed request, once the policies permit it; for routes that are made elsewhere.

    Such a route takes no person's token: its ``authorization`` header is its own.

    Raises:
        CryptoError: The request is not properly signed.
        ForbiddenError: The policies do not permit it.
    """
    digest = hashlib.sha256(body).digest()
    caller = state.authentication.check(request.method, target_of(request), request.headers, content=digest)
    permit(request, state, caller, action, subject, body)
    return caller


def permit(
    request: Request, state: HubState, caller: Caller | None, action: str, subject: Subject = HUB, body: bytes = b""
) -> None:
    """Raise unless the policies permit this to a caller whose signature was checked elsewhere, or to anyone.

    Raises:
        ForbiddenError: They do not.
    """
    decisions, refusal = _judge(action, subject, request, state, caller, None, body)
    _record(state, decisions)
    if refusal is not None:
        raise refusal


def _judge(
    names: str | NamesAction,
    subject: Subject,
    request: Request,
    state: HubState,
    caller: Caller | None,
    person: LoggedIn | None,
    body: bytes,
) -> tuple[list[Decision], WardroundError | None]:
    """What the policies say of the machine, and of the person if there is one, and why the request is refused if so."""
    absent: CodecError | NotFoundError | None = None
    action = names if isinstance(names, str) else names(request, body)
    try:
        resource, known = subject.find(state, caller, request, body)
    except (CodecError, NotFoundError) as error:
        # Who may never do this is told so, whatever they sent; anyone else is told what is wrong with it.
        absent, resource, known = error, Resource(subject.kind, ""), {}
    known = known | circumstances_of(state, caller, person)
    decisions = []
    for principal in _principals(caller, person):
        asked = Asked(principal, action, resource, known)
        decision = state.authorizer.decide(asked)
        if absent is not None and (decision.step_up or not decision.reasons):
            # What there is nothing of is permitted to nobody; only a forbid says something then.
            continue
        decisions.append(decision)
        if not decision.allowed:
            return decisions, _refusal(decision, asked)
    return decisions, absent


def _is_at_hand(subject: Subject, request: Request, state: HubState, body: bytes) -> bool:
    try:
        return subject.name_in is None or (subject.kind, subject.name_in(request, body)) in state.abouts
    except CodecError:
        return False


def _are_recorded(state: HubState, decisions: Iterable[Decision]) -> bool:
    return state.on_decision is not None and not all(map(state.is_routine, decisions))


def _record(state: HubState, decisions: Iterable[Decision]) -> None:
    if state.on_decision is not None:
        for decision in decisions:
            state.on_decision(decision)


def _principals(caller: Caller | None, person: LoggedIn | None) -> Iterable[Principal]:
    if caller is None:
        yield ANYONE
        return
    yield Machine(caller.name, _KINDS.get(caller.role, caller.role), caller.name if caller.role == "site" else "")
    if person is not None:
        yield named(person)


def _refusal(decision: Decision, asked: Asked) -> ForbiddenError | StepUpError:
    if decision.step_up:
        return StepUpError(f"{decision.action} takes a login with a second factor that is at most 15 minutes old")
    name = asked.principal.name if isinstance(asked.principal, Machine | Named) else "anyone"
    kind = f"a {asked.principal.kind} " if isinstance(asked.principal, Machine) else ""
    what, resource = "", asked.resource
    if resource.study and name not in (*resource.participants, resource.researcher):
        what = f": the study does not name {name}"
    return ForbiddenError(f"this hub's policies do not permit {kind}{name} to {decision.action} here{what}")


async def body_of(request: Request) -> bytes:
    """A message's whole body, bounded.

    Raises:
        CodecError: It is larger than a message may be.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > messages.MAX_MESSAGE_BYTES:
            raise CodecError(f"a message may have at most {messages.MAX_MESSAGE_BYTES} bytes")
    return bytes(body)


def target_of(request: Request) -> str:
    """The path and query that a signature is over."""
    query = request.url.query
    return f"{request.url.path}?{query}" if query else request.url.path
