"""`wardround login`, `logout` and `whoami`: a person's login at a hub or a node."""

import time
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wardround.cli.output import as_json, show

if TYPE_CHECKING:
    from wardround.cli.places import Place
    from wardround.cli.sessions import Session
    from wardround.services.people import Person
    from wardround.transport.oidc import RelyingParty

__all__ = ["login", "logout", "whoami"]

_SECONDS = 300.0
_place = click.argument("place", envvar="WARDROUND_FOLDER")


@click.command()
@_place
@click.option("--passkey", is_flag=True, help="At a node's folder: with a passkey, in the browser.")
@click.option("--first", is_flag=True, help="A first login, with the code that `wardround people add` printed.")
@click.option("--name", default=None, help="Account name [default: asked for].")
@click.option("--browser/--no-browser", default=True, help="Open the page, or only print its address.")
@click.option("--authority", type=click.Path(exists=True, dir_okay=False), help="The hub's authority.crt, for a URL.")
@click.option("--provider-authority", type=click.Path(exists=True, dir_okay=False), help="That of its provider.")
@as_json
def login(
    place: str,
    passkey: bool,
    first: bool,
    name: str | None,
    browser: bool,
    authority: str | None,
    provider_authority: str | None,
    json_: bool,
) -> None:
    """Log in to PLACE: a hub's or node's folder on this machine, or a hub's https address.

    The token is bound to a key that is made here; both are kept in a private file until `wardround logout`.
    """
    from wardround.cli.places import settings_of

    if place.startswith(("https://", "http://")):
        session = _at_address(place, browser, _text(authority), _text(provider_authority))
        show(json_, {"place": place, "name": session.name}, f"{session.name} is logged in to {place}.")
        return
    folder = Path(place)
    if settings_of(folder).provider == "oidc":
        session = _at_provider(folder, browser)
    elif first:
        session = _first(folder, name or click.prompt("Name"), browser, passkey=passkey)
    else:
        session = _at_folder(folder, name, browser, passkey=passkey)
    show(json_, {"place": session.place, "name": session.name}, f"{session.name} is logged in to {place}.")


@click.command()
@_place
@as_json
def logout(place: str, json_: bool) -> None:
    """End the login at PLACE, for its tokens too, and forget it on this machine."""
    from wardround.cli import sessions
    from wardround.cli.places import open_place, place_name
    from wardround.errors import LoginError, UnavailableError

    is_address = place.startswith("https://")
    kept = place if is_address else place_name(Path(place))
    try:
        session = sessions.load(kept)
        if is_address:
            _end_at_address(session)
        else:
            with open_place(Path(place)) as opened:
                _end_at_folder(opened, session)
    except (LoginError, UnavailableError) as error:
        click.echo(f"wardround: not ended at the other side: {error}", err=True)
    finally:
        sessions.forget(kept)
    show(json_, {"place": place}, f"Logged out of {place}.")


@click.command()
@_place
@as_json
def whoami(place: str, json_: bool) -> None:
    """Say who is logged in at PLACE, since when and how, as the other side sees it."""
    from wardround.cli.places import open_place
    from wardround.cli.presenting import proven

    if place.startswith("https://"):
        found = _asked(place)
    else:
        with open_place(Path(place)) as opened:
            found = proven(opened, "whoami")
    roles, age = ", ".join(sorted(found.roles)) or "no role", (time.time() - found.auth_time) / 60
    methods = ", ".join(found.amr) or "no method named"
    words = f"{found.name} ({found.subject}): {roles}{f' of {found.site}' if found.site else ''}\n"
    show(json_, found, f"{words}Logged in {age:.0f} minutes ago with {methods}; issued by {found.issuer}.")


def _at_folder(folder: Path, name: str | None, browser: bool, *, passkey: bool) -> "Session":
    from wardround.cli import passkey_page, presenting
    from wardround.cli.places import open_place

    if passkey:
        return presenting.log_in_anew(folder, passkey_page.log_in(folder, _opener(browser)))
    who = name or click.prompt("Name")
    password = click.prompt("Password", hide_input=True)
    code = click.prompt("Code of your app, or a recovery code")
    with open_place(folder) as place:
        local, now = _local(place), time.time()
        if len(code.replace("-", "").replace(" ", "")) > 8:
            fresh = local.sign_in.recover(who, password, code, now)
            click.echo(f"Your app's secret is void. Choose new factors with this code: {fresh}", err=True)
            place_words = f"wardround login {folder} --first --name {who}"
            raise click.ClickException(f"not logged in yet; run: {place_words}")
        done = local.sign_in.with_code(who, password, code, now)
    return presenting.log_in_anew(folder, done)


def _first(folder: Path, name: str, browser: bool, *, passkey: bool) -> "Session":
    from wardround.cli import passkey_page, presenting
    from wardround.cli.places import open_place

    code = click.prompt("Code for the first login")
    if passkey:
        finished = passkey_page.first_login(folder, name, code, _opener(browser))
    else:
        with open_place(folder) as place:
            local = _local(place)
            page = local.first_logins.page()
            offer = local.first_logins.begin(name, code, page, time.time())
            click.echo(f"Give your authenticator app this secret: {offer.spelled}\nor this: {offer.address}", err=True)
            password = click.prompt("A new password, at least 12 characters", hide_input=True, confirmation_prompt=True)
            shown = click.prompt("The code that the app shows now")
            finished = local.first_logins.finish_with_password(page, password, shown, time.time())
    codes = "\n".join(f"  {one}" for one in finished.codes)
    click.echo(f"Recovery codes, each good once, not shown again:\n{codes}", err=True)
    return presenting.log_in_anew(folder, finished.done)


def _at_provider(folder: Path, browser: bool) -> "Session":
    from wardround.cli.places import open_place, place_name
    from wardround.errors import ConfigError

    with open_place(folder) as place:
        if place.provider is None or place.desk is None:
            raise ConfigError("people.provider is not oidc here")
        acr = " ".join(one for one in place.desk.settings.step_up.acr if not one.startswith("urn:wardround:"))
        return _by_browser(place.provider, browser, place_name(folder), acr=acr)


def _at_address(url: str, browser: bool, authority: str, provider_authority: str) -> "Session":
    from wardround.transport import oidc

    party = oidc.at_hub(url, authority, provider_authority=provider_authority)
    kept = {"authority": authority, "provider_authority": provider_authority}
    return _by_browser(party, browser, url, kept=kept)


def _by_browser(
    party: "RelyingParty", browser: bool, place: str, *, acr: str = "", kept: dict[str, str] | None = None
) -> "Session":
    from cryptography.hazmat.primitives.asymmetric import ec

    from wardround.cli import presenting
    from wardround.cli.sessions import Session
    from wardround.crypto import jose
    from wardround.transport.loopback import Loopback, redirect

    key = ec.generate_private_key(ec.SECP256R1())
    with Loopback() as listener:
        question = party.question(f"http://127.0.0.1:{listener.port}/callback", key, fresh=True, acr=acr)
        _opener(browser)(question.address)
        granted = party.redeem(question, redirect(listener, _SECONDS), key)
    given = granted.identity.get("name") or granted.identity.get("sub", "")
    name = "".join(letter for letter in str(given) if letter.isprintable())[:200]
    session = Session(place, name, jose.private_pem(key).decode(), "", "", 0.0, **(kept or {}))
    return presenting.keep_granted(session, granted)


def _end_at_folder(place: "Place", session: "Session") -> None:
    from wardround.cli.presenting import proven
    from wardround.crypto import jose

    key = jose.load_private(session.key.encode())
    if place.desk is None:
        return
    if place.desk.local is not None:
        place.desk.local.issuer.end(session.refresh_token, jose.thumbprint(jose.public_jwk(key)), time.time())
        return
    found = proven(place, "whoami")
    place.desk.endings.end_session(found.issuer, found.session, time.time())
    if place.provider is not None:
        place.provider.revoke(session.refresh_token, key)


def _end_at_address(session: "Session") -> None:
    from wardround.cli.presenting import relying_party
    from wardround.crypto import jose

    relying_party(session).revoke(session.refresh_token, jose.load_private(session.key.encode()))


def _asked(url: str) -> "Person":
    import msgspec

    from wardround.cli import presenting, sessions
    from wardround.errors import LoginError
    from wardround.services.people import Person
    from wardround.transport import oidc

    address = f"{url.rstrip('/')}/people/me"
    headers = presenting.proof_headers(url, "GET", address)
    hub = oidc.RelyingParty(url, "wardround", authority=sessions.load(url).authority)
    status, _, body = hub.call("GET", address, headers, b"")
    if status != 200:
        raise LoginError(f"the hub does not take this login (status {status}); run: wardround login {url}")
    return msgspec.json.decode(body, type=Person)


def _local(place: "Place") -> Any:
    from wardround.errors import ConfigError

    if place.desk is None or place.desk.local is None:
        raise ConfigError('no accounts are kept here; put provider = "local" into people.toml')
    return place.desk.local


def _opener(browser: bool) -> Any:
    def tell(address: str) -> None:
        click.echo(f"Log in on this page:\n  {address}", err=True)
        if browser:
            webbrowser.open(address)

    return tell


def _text(file: str | None) -> str:
    return Path(file).read_text() if file else ""
