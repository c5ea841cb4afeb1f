"""The pages on which people log in: plain HTML that works by keyboard and without scripts, but for passkeys.

No style, script or image comes from anywhere else, and none is inline. Whatever comes from outside is
escaped. The script moves bytes between the page and ``navigator.credentials``; it decides nothing.
"""

from collections.abc import Sequence
from html import escape

from wardround.services.first_login import Offer

__all__ = ["SCRIPT", "STYLE", "codes_page", "factors_page", "first_page", "login_page", "message_page"]

STYLE = """\
:root { color-scheme: light dark; font: 100%/1.5 system-ui, sans-serif; }
body { max-width: 36rem; margin: 2rem auto; padding: 0 1rem; }
label { display: block; margin-top: 1rem; font-weight: 600; }
input { font: inherit; width: 100%; box-sizing: border-box; padding: 0.5rem; }
button { font: inherit; margin-top: 1rem; padding: 0.6rem 1.2rem; min-height: 2.75rem; cursor: pointer; }
:focus-visible { outline: 3px solid; outline-offset: 2px; }
[role="alert"] { border-left: 0.4rem solid; padding-left: 0.8rem; }
code { overflow-wrap: anywhere; }
"""

SCRIPT = """\
"use strict";
const bytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
const text = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)))
  .replace(/\\+/g, "-").replace(/\\//g, "_").replace(/=+$/, "");
const say = (words) => {
  const place = document.getElementById("said");
  place.setAttribute("role", "alert");
  place.textContent = words;
};
const ask = async (address, body) => {
  const answer = await fetch(address, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.detail || "the login failed");
  return found;
};
const packed = (made) => {
  const response = { clientDataJSON: text(made.response.clientDataJSON) };
  for (const name of ["attestationObject", "authenticatorData", "signature", "userHandle"]) {
    if (made.response[name]) response[name] = text(made.response[name]);
  }
  return { id: made.id, rawId: text(made.rawId), type: made.type, response };
};
const logIn = async (base) => {
  const options = await ask(base + "passkey/request", {});
  options.challenge = bytes(options.challenge);
  const made = await navigator.credentials.get({ publicKey: options });
  const found = await ask(base + "passkey/log-in", packed(made));
  if (found.next) location.assign(found.next); else say("Done. You may close this page.");
};
const create = async (base) => {
  const options = await ask(base + "first/passkey/options", {});
  options.challenge = bytes(options.challenge);
  options.user.id = bytes(options.user.id);
  for (const one of options.excludeCredentials || []) one.id = bytes(one.id);
  const made = await navigator.credentials.create({ publicKey: options });
  const found = await ask(base + "first/passkey", packed(made));
  say("The passkey is made. Write these recovery codes down; they are not shown again: " + found.codes.join("  "));
};
for (const [name, act] of [["passkey", logIn], ["create", create]]) {
  const button = document.getElementById(name);
  if (button) {
    button.hidden = !window.PublicKeyCredential;
    button.addEventListener("click", () => act(button.dataset.base).catch((error) => say(error.message)));
  }
}
"""


def login_page(base: str, *, said: str = "", with_password: bool = True) -> str:
    """Log in: with a passkey, or with password and code. `base` is where the page's addresses begin."""
    form = f"""
<h2>With a password and a code</h2>
<form method="post" action="{escape(base)}sign-in">
<label for="name">Name</label><input id="name" name="name" autocomplete="username" required>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>
<label for="code">Code of your authenticator app, or a recovery code</label>
<input id="code" name="code" autocomplete="one-time-code" required>
<button>Log in</button>
</form>
<p><a href="{escape(base)}first">I have a code for a first login</a></p>"""
    passkey = f'<button id="passkey" type="button" data-base="{escape(base)}" hidden>Log in with a passkey</button>'
    return _page("Log in", base, f"{passkey}{form if with_password else ''}", said)


def first_page(base: str, *, said: str = "") -> str:
    """Begin a first login with the code that an operator handed over."""
    form = f"""
<form method="post" action="{escape(base)}first">
<label for="name">Name</label><input id="name" name="name" autocomplete="username" required>
<label for="code">Code for the first login</label><input id="code" name="code" autocomplete="off" required>
<button>Go on</button>
</form>"""
    return _page("First login", base, form, said)


def factors_page(base: str, offer: Offer, *, said: str = "", with_password: bool = True) -> str:
    """Choose how to log in from now on."""
    form = f"""
<h2>Or a password and an authenticator app</h2>
<p>Give your app this secret: <code>{escape(offer.spelled)}</code></p>
<p>Or this address: <code>{escape(offer.address)}</code></p>
<form method="post" action="{escape(base)}first/password">
<label for="password">A new password, at least 12 characters</label>
<input id="password" name="password" type="password" autocomplete="new-password" minlength="12" required>
<label for="code">The code that the app shows now</label>
<input id="code" name="code" inputmode="numeric" autocomplete="one-time-code" required>
<button>Keep them</button>
</form>"""
    passkey = f'<button id="create" type="button" data-base="{escape(base)}" hidden>Make a passkey</button>'
    words = f"<p>Account: {escape(offer.name)}</p><h2>A passkey</h2><p>Best, where this device has one.</p>"
    return _page("Choose how to log in", base, f"{words}{passkey}{form if with_password else ''}", said)


def codes_page(base: str, codes: Sequence[str]) -> str:
    """Recovery codes, this once."""
    items = "".join(f"<li><code>{escape(code)}</code></li>" for code in codes)
    words = "<p>Each of these codes replaces your app once. Write them down: they are not shown again.</p>"
    return _page("Recovery codes", base, f"{words}<ul>{items}</ul><p>Now log in from the program that asked.</p>", "")


def message_page(base: str, title: str, words: str) -> str:
    """A page that only says something."""
    return _page(title, base, f"<p>{escape(words)}</p>", "")


def _page(title: str, base: str, body: str, said: str) -> str:
    alert = f'<p id="said" role="alert">{escape(said)}</p>' if said else '<p id="said"></p>'
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)} - Wardround</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="stylesheet" href="{escape(base)}page.css"><script src="{escape(base)}page.js" defer></script>'
        f"</head><body><main><h1>{escape(title)}</h1>{alert}{body}</main></body></html>\n"
    )
