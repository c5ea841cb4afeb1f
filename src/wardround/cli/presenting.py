"""Who gives a command: the login that is kept on this machine, renewed, proven and checked.

`present` is for a command in a hub's or node's folder; `proof_headers` for a request to a hub. Both prove
the same key over the same token; the checks are `wardround.services.people`.
"""

import getpass
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from wardround.cli import sessions
from wardround.cli.places import Place, open_place, place_name
from wardround.cli.sessions import Session
from wardround.crypto import dpop, jose
from wardround.errors import ConfigError, LoginError

if TYPE_CHECKING:
    from wardround.services.issuer import Tokens
    from wardround.services.people import Person
    from wardround.services.sign_in import Authentication
    from wardround.transport.http import HttpHub
    from wardround.transport.oidc import Granted, RelyingParty

__all__ = [
    "keep_granted",
    "keep_tokens",
    "log_in_anew",
    "permitted",
    "present",
    "proof_headers",
    "proven",
    "relying_party",
    "speaks_for",
    "stand_in",
]

_RENEW_SECONDS = 30.0


def present(folder: Path, action: str, *, about: str = "", person: str | None = None) -> "Person":
    """The person who gives a command in this folder, logged in as the action takes it.

    Args:
        folder: A hub's or a node's.
        action: In one word: approve, refuse, withdraw, budget, release, revoke, …
        about: What it is done to, such as a study's digest; covered by the proof.
        person: A name that was given at the command line; only where people are not checked.

    Raises:
        LoginError: Nobody is logged in here, or not as they must be.
        StepUpError: The login is too old or too weak for the action.
        ConfigError: A name was given, and people are known by their logins here.
    """
    from wardround.services.people import Person, require

    with open_place(folder) as place:
        if place.desk is None:
            name = person or getpass.getuser()
            return Person(name, "", name, frozenset(), place.site, "", (), 0.0, "")
        if person is not None:
            raise ConfigError("people are known by their logins here (people.toml): leave --person out")
        found, now = proven(place, action, about), time.time()
        require(found, action, now, place.desk.settings.step_up)
        return found


def permitted(folder: Path, action: str, kind: str, name: str, *, person: str | None = None) -> str:
    """Who gives a command about something of a site's own, once their login and the site's policies permit it.

    Args:
        folder: A node's.
        action: Such as grant_budget, rotate_key, delete, approve_code.
        kind: What sort of thing it is done to: Budget, Key, Package, ….
        name: Which one; covered by the proof.
        person: A name that was given at the command line; only where people are not checked.

    Raises:
        PolicyError: The site's policies do not permit it. And as `present` does.
    """
    from wardround.node import setup
    from wardround.services.circumstances import shown

    who = present(folder, action.replace("_", "-"), about=name, person=person)
    setup.open_authorizing(folder).own(who, action, kind, name, time.time())
    return shown(who)


def proven(place: Place, action: str, about: str = "") -> "Person":
    """Whose login is kept for this place; neither its age nor its strength is looked at.

    Raises:
        LoginError: Nobody's, or it does not hold any more.
    """
    if place.desk is None:
        raise LoginError('people are not checked here: provider is "none" in people.toml')
    session = _renewed(place)
    address = "/".join(part for part in (place.address, action, about) if part)
    now, key = time.time(), _key(session)
    proof = dpop.prove(key, "CLI", address, jti=secrets.token_urlsafe(16), now=now, token=session.access_token)
    return place.desk.logins.verify(session.access_token, proof, "CLI", address, now)


def proof_headers(url: str, method: str, address: str) -> dict[str, str]:
    """The headers that say to the hub at `url` who sends a request of this method to `address`, its full URL.

    Raises:
        LoginError: Nobody is logged in to this hub.
    """
    session = sessions.load(url)
    key = _key(session)
    if session.expires - time.time() < _RENEW_SECONDS:
        session = keep_granted(session, relying_party(session).refresh(session.refresh_token, key))
    proof = dpop.prove(key, method, address, jti=secrets.token_urlsafe(16), now=time.time(), token=session.access_token)
    return {"authorization": f"DPoP {session.access_token}", "dpop": proof}


def speaks_for(hub: "HttpHub", url: str) -> None:
    """Let whoever is logged in at the hub of this address give the commands that `hub` sends; nobody, if nobody is."""
    try:
        sessions.load(url)
    except LoginError:
        return

    def headers(method: str, address: str) -> tuple[str, str]:
        made = proof_headers(url, method, address)
        return made["authorization"], made["dpop"]

    hub.person = headers


def log_in_anew(folder: Path, done: "Authentication") -> Session:
    """Begin and keep a session of the embedded issuer for somebody who has just logged in at this folder.

    Raises:
        ConfigError: This folder keeps no accounts.
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), time.time()
    with open_place(folder) as place:
        if place.desk is None or place.desk.local is None:
            raise ConfigError("no accounts are kept in this folder: people.provider is not local")
        tokens = place.desk.local.issuer.start(done, jose.thumbprint(jose.public_jwk(key)), now)
    session = Session(place_name(folder), done.name, jose.private_pem(key).decode(), "", "", 0.0)
    return keep_tokens(session, tokens, now)


def keep_tokens(session: Session, tokens: "Tokens", now: float) -> Session:
    """Keep what the embedded issuer gave."""
    changed = msgspec.structs.replace(
        session,
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        expires=now + tokens.expires_in,
    )
    sessions.save(changed)
    return changed


def keep_granted(session: Session, granted: "Granted") -> Session:
    """Keep what a provider gave over the network."""
    changed = msgspec.structs.replace(
        session,
        access_token=granted.access_token,
        refresh_token=granted.refresh_token,
        expires=granted.expires,
    )
    sessions.save(changed)
    return changed


def _renewed(place: Place) -> Session:
    session, now = sessions.load(place.name), time.time()
    if session.expires - now >= _RENEW_SECONDS:
        return session
    ended = LoginError(f"the login has ended; run: wardround login {place.name}")
    if not session.refresh_token or place.desk is None:
        raise ended
    key = _key(session)
    if place.desk.local is not None:
        form = {"grant_type": "refresh_token", "refresh_token": session.refresh_token}
        thumbprint = jose.thumbprint(jose.public_jwk(key))
        return keep_tokens(session, place.desk.local.issuer.exchange(form, thumbprint, now), now)
    if place.provider is None:
        raise ended
    return keep_granted(session, place.provider.refresh(session.refresh_token, key))


def relying_party(session: Session) -> "RelyingParty":
    """The client for a login at a hub's address."""
    from wardround.transport import oidc

    return oidc.at_hub(session.place, session.authority, provider_authority=session.provider_authority)


def _key(session: Session) -> jose.SigningKey:
    return jose.load_private(session.key.encode())


def stand_in(folder: Path, name: str, roles: tuple[str, ...]) -> Session:
    """Make a local account and log in to it with a password and a TOTP secret that nobody keeps.

    For demonstrations and tests of what stands behind a login: the account, its session and every check are real.

    Raises:
        ConfigError: This folder keeps no accounts, or has one of this name.
    """
    import pyotp

    with open_place(folder) as place:
        if place.desk is None or place.desk.local is None:
            raise ConfigError("no accounts are kept in this folder: people.provider is not local")
        local, now = place.desk.local, time.time()
        code, page = local.book.add(name, roles, site=local.site, now=now), local.first_logins.page()
        offer = local.first_logins.begin(name, code, page, now)
        shown = pyotp.TOTP(offer.spelled).at(now)
        # Later than the account: what an account's making ends is every login up to then.
        finished = local.first_logins.finish_with_password(page, secrets.token_urlsafe(24), shown, time.time())
    return log_in_anew(folder, finished.done)
