"""Passkeys: WebAuthn ceremonies for making one and for logging in with one.

The challenge is drawn here, kept for two minutes under the browser's or page's own secret (`binding`),
and taken away by the first answer, right or wrong. User verification is required, so that a passkey is two
factors in one: the device, and what unlocks it. The relying party's id and origin are the settings', not
the request's. A counter that does not grow shows a copied authenticator, and is refused.

Attestation is not asked for: any authenticator will do; a certified one is not told from another. ``hwk``
therefore says no more than that the credential's own flags call it bound to one device.

References:
    Web Authentication Level 3, sections 6.1.1, 7.1 and 7.2. RFC 8176, amr values.
"""

import base64
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import webauthn
from cryptography.exceptions import UnsupportedAlgorithm
from webauthn.helpers import parse_attestation_object
from webauthn.helpers.cose import COSEAlgorithmIdentifier
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AttestationConveyancePreference,
    AuthenticatorSelectionCriteria,
    CredentialDeviceType,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from wardround.errors import LoginError
from wardround.ports import Entropy
from wardround.services.accounts import Account, AccountBook, Passkey
from wardround.services.login_records import LoginRecord, unrecorded, written
from wardround.services.pending import Pending
from wardround.services.people import PASSKEY_ACR
from wardround.services.sign_in import Authentication

__all__ = ["MAX_PASSKEYS", "Passkeys", "RelyingParty", "authentication"]

MAX_PASSKEYS = 8
CHALLENGE_SECONDS = 120.0
_CHALLENGE_BYTES = 32
_ALGORITHMS = [
    COSEAlgorithmIdentifier.ECDSA_SHA_256,
    COSEAlgorithmIdentifier.EDDSA,
    COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256,
]
_FORMATS = frozenset({"none", "packed"})
# Whatever hostile bytes make the library stumble over is a failed ceremony, and nothing worse.
_FAILED = (
    WebAuthnException,
    UnsupportedAlgorithm,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    AssertionError,
)


@dataclass(frozen=True, slots=True)
class RelyingParty:
    """For whom passkeys are: a host's name, and the origin of the page."""

    id: str
    origin: str
    name: str = "Wardround"


class Passkeys:
    """Ceremonies for the accounts of one hub or node. May be used by several threads."""

    def __init__(
        self, book: AccountBook, entropy: Entropy, party: RelyingParty, *, record: LoginRecord = unrecorded
    ) -> None:
        self._book, self._entropy, self._party, self._record = book, entropy, party, record
        self._challenges: Pending[tuple[str, bytes]] = Pending(CHALLENGE_SECONDS)

    def creation(self, account: Account, binding: str, now: float) -> str:
        """Options, as JSON, for ``navigator.credentials.create``.

        Raises:
            LoginError: The account has as many passkeys as it may have.
        """
        if len(account.passkeys) >= MAX_PASSKEYS:
            raise LoginError(f"an account has at most {MAX_PASSKEYS} passkeys; a reset takes all away")
        options = webauthn.generate_registration_options(
            rp_id=self._party.id,
            rp_name=self._party.name,
            user_id=account.handle,
            user_name=account.name,
            user_display_name=account.shown,
            challenge=self._challenge(f"create {account.name}", binding, now),
            attestation=AttestationConveyancePreference.NONE,
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.REQUIRED, user_verification=UserVerificationRequirement.REQUIRED
            ),
            exclude_credentials=[PublicKeyCredentialDescriptor(id=one.credential) for one in account.passkeys],
            supported_pub_key_algs=_ALGORITHMS,
        )
        return webauthn.options_to_json(options)

    def created(self, account: Account, binding: str, answer: Mapping[str, Any], now: float) -> Passkey:
        """The new passkey that a page's answer holds; the caller stores it.

        Raises:
            LoginError: The answer is not one to this page's challenge, or not as it must be.
        """
        challenge = self._taken(f"create {account.name}", binding, now)
        try:
            _check_format(answer)
            made = webauthn.verify_registration_response(
                credential=dict(answer),
                expected_challenge=challenge,
                expected_rp_id=self._party.id,
                expected_origin=self._party.origin,
                require_user_verification=True,
                supported_pub_key_algs=_ALGORITHMS,
            )
        except _FAILED as error:
            raise LoginError(f"the passkey was not made: {_reason(error)}") from None
        if any(hmac.compare_digest(one.credential, made.credential_id) for one in account.passkeys):
            raise LoginError("this passkey is known already")
        synced = made.credential_device_type != CredentialDeviceType.SINGLE_DEVICE
        return Passkey(made.credential_id, made.credential_public_key, made.sign_count, synced, now)

    def request(self, binding: str, now: float) -> str:
        """Options, as JSON, for ``navigator.credentials.get``; they name no account, so they tell of none."""
        options = webauthn.generate_authentication_options(
            rp_id=self._party.id,
            challenge=self._challenge("get", binding, now),
            user_verification=UserVerificationRequirement.REQUIRED,
        )
        return webauthn.options_to_json(options)

    def log_in(self, binding: str, answer: Mapping[str, Any], now: float) -> Authentication:
        """Who has answered this page's challenge with a passkey of theirs.

        Raises:
            LoginError: Nobody: another challenge, party or key, no user verification, or a counter that fell back.
        """
        with written(self._record, "passkey") as accepted:
            done = self._answered(binding, answer, now)
            accepted.append(done.name)
        return done

    def _answered(self, binding: str, answer: Mapping[str, Any], now: float) -> Authentication:
        challenge = self._taken("get", binding, now)
        account = self._book.by_handle(_handle(answer))
        found = [one for one in account.passkeys if _identifier(answer) == one.credential]
        if not found:
            raise LoginError("this passkey belongs to no account here")
        passkey = found[0]
        try:
            done = webauthn.verify_authentication_response(
                credential=dict(answer),
                expected_challenge=challenge,
                expected_rp_id=self._party.id,
                expected_origin=self._party.origin,
                credential_public_key=passkey.public_key,
                credential_current_sign_count=passkey.sign_count,
                require_user_verification=True,
            )
        except _FAILED as error:
            raise LoginError(f"the passkey was not accepted: {_reason(error)}") from None
        self._book.change(account.name, lambda now_: _counted(now_, passkey.credential, done.new_sign_count))
        return authentication(account.name, passkey, now)

    def _challenge(self, purpose: str, binding: str, now: float) -> bytes:
        challenge = self._entropy.draw(_CHALLENGE_BYTES)
        self._challenges.put(binding, (purpose, challenge), now)
        return challenge

    def _taken(self, purpose: str, binding: str, now: float) -> bytes:
        found = self._challenges.take(binding, now)
        if found is None or found[0] != purpose:
            raise LoginError("this page's challenge was answered before, or is too old: begin again")
        return found[1]


def authentication(name: str, passkey: Passkey, now: float) -> Authentication:
    """What a ceremony with this passkey has proven."""
    held = "swk" if passkey.synced else "hwk"
    return Authentication(name, PASSKEY_ACR, (held, "user", "mfa"), now)


def _counted(account: Account, credential: bytes, count: int) -> Account:
    # Checked again over what is stored by now: two answers with one counter at once count once.
    passkeys = []
    for one in account.passkeys:
        if one.credential != credential:
            passkeys.append(one)
            continue
        if count <= one.sign_count and (count or one.sign_count):
            raise LoginError("the passkey's counter did not grow: it may have been copied; ask for a reset")
        passkeys.append(msgspec.structs.replace(one, sign_count=count))
    if len(passkeys) != len(account.passkeys) or not any(one.credential == credential for one in passkeys):
        raise LoginError("this passkey belongs to no account here any more")
    return msgspec.structs.replace(account, passkeys=tuple(passkeys))


def _check_format(answer: Mapping[str, Any]) -> None:
    # Other formats bring certificates and structures that nothing here needs to read.
    statement = parse_attestation_object(_bytes(answer["response"]["attestationObject"]))
    if str(getattr(statement.fmt, "value", statement.fmt)) not in _FORMATS:
        raise LoginError("the passkey's attestation is of a kind that was not asked for")


def _handle(answer: Mapping[str, Any]) -> bytes:
    try:
        return _bytes(answer["response"]["userHandle"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise LoginError("the passkey names no account: it was not made for this page") from None


def _identifier(answer: Mapping[str, Any]) -> bytes:
    try:
        return _bytes(answer["rawId"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise LoginError("the answer names no passkey") from None


def _bytes(text: object) -> bytes:
    if not isinstance(text, str) or len(text) > 16384:
        raise ValueError("not base64url")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _reason(error: Exception) -> str:
    """What the library says where it speaks of the ceremony; of anything else, only that it could not be read."""
    return str(error)[:160] if isinstance(error, WebAuthnException) else "the answer could not be read"
