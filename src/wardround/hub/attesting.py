"""A hub's attestation: what its machine proves to nodes, what nodes prove to it, and the keys of runs.

    proofs of this hub    over its present TLS key, which is another after each renewal of its certificate
    proofs of nodes       over the key that signs a node's requests; worth nothing once that is another
    keys of a run         released while it is open, destroyed when it ends, and at a start where that was cut off

There is one where the settings name collateral, or say that this machine is a confidential one. A plan is refused when
it is proposed if it demands what this hub cannot check or prove, and nothing is taken for it later.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.requests import Request

from wardround.attestation import nvidia_machine
from wardround.attestation.collateral import Bundle
from wardround.config import HubConfig, secret
from wardround.crypto import jose, signing
from wardround.enclave import hub_check
from wardround.enclave.collateral_file import CollateralFile, officers_of
from wardround.enclave.tsm import KernelReports
from wardround.errors import AttestationError, CodecError, ConfigError, ForbiddenError, NotFoundError, WardroundError
from wardround.hub.broker_routes import Desk
from wardround.ids import RunId, SiteId, StudyId, digest_name, study_of
from wardround.ports import Clock, Entropy, Vault
from wardround.protocol.attested import Enclaves
from wardround.protocol.plan import Plan
from wardround.protocol.run import Run
from wardround.services.attestation_events import Appraise, AttestationEvent
from wardround.services.attestations import Attestations, Quote
from wardround.services.audit_trail import Recorder
from wardround.services.hub_records import attestation_entry
from wardround.services.key_release import IssueToken, KeyRelease, signed_by
from wardround.storage.vault import SealedVault
from wardround.system import SystemClock, SystemEntropy, private_folder, write_private

__all__ = ["ADMITTED", "Attesting", "check_plan", "logged", "open_attesting", "recorded"]

ADMITTED = "wardround.admitted"
"""Where a request's scope has the site that its route has authenticated and the policies have let through."""
_log = structlog.get_logger("wardround.hub")


class Attesting:
    """All of one hub's attestation. May be shared by threads.

    Args:
        clock: Seconds since 1970-01-01 UTC.
        entropy: For nonces, and keys of runs.
        vault: Keeps the keys of runs.
        plan_of: A study's plan; raises `NotFoundError`.
        run_of: A run's state; raises `NotFoundError`.
        key_of: The key that signs a site's requests at present.
        tls_key: This hub's TLS key at present, SubjectPublicKeyInfo in DER.
        bundle: The collateral by which nodes are checked; None: nodes prove nothing here.
        quote: Makes this machine's evidence; None: it is no confidential machine.
        issue: Writes attestation results.
        record: Is told what happens, before it takes effect.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        entropy: Entropy,
        vault: Vault,
        plan_of: Callable[[str], Plan],
        run_of: Callable[[RunId], Run],
        key_of: Callable[[SiteId], signing.PublicKey],
        tls_key: Callable[[], bytes],
        bundle: Callable[[], Bundle] | None,
        quote: Quote | None,
        issue: IssueToken,
        record: Callable[[AttestationEvent], None],
    ) -> None:
        self._clock, self._entropy, self._vault, self._record = clock, entropy, vault, record
        self._plan_of, self._run_of, self._key_of, self._tls_key = plan_of, run_of, key_of, tls_key
        self._bundle, self._quote = bundle, quote
        self._lock, self._reading = threading.Lock(), threading.local()
        self._proved: dict[tuple[str, str], bytes] = {}
        self._unclosed: set[RunId] = set()
        self._keys = KeyRelease(
            vault, clock, entropy, demands=self._of_run, appraise=self._appraise(), issue=issue, record=record
        )
        self._sites = self._attestations(None, b"")
        self._desk = Desk(
            self._keys, self._sites, _admitted, clock, ThreadPoolExecutor(2, thread_name_prefix="attestation")
        )
        self._prover = self._desk, b""

    def desk(self, request: Request) -> Desk:
        """What a request to one of the routes is answered by."""
        return self.prover() if request.url.path == "/v1/attestations/hub" else self._desk

    def prover(self) -> Desk:
        """The desk that proves this hub by the TLS key that it has now."""
        if self._quote is None:
            return self._desk
        key = self._tls_key()
        with self._lock:
            if self._prover[1] != key:
                self._prover = replace(self._desk, attestations=self._attestations(self._quote, key)), key
            return self._prover[0]

    def check_plan(self, plan: Plan) -> None:
        """Refuse a plan that demands what this hub cannot check or prove.

        Raises:
            CodecError: Says which part of `enclaves`.
        """
        check_plan(plan, checks_nodes=self._bundle is not None, proves_itself=self._quote is not None)

    def require(self, site: SiteId, run: RunId) -> None:
        """Raise unless what `site` sends for `run` may be taken now.

        Raises:
            AttestationError: The plan demands a proof, and there is none that counts, or it is about another key.
            NotFoundError: There is no such study.
        """
        self._sites.require(site, run)
        study = study_of(run)
        enclaves = self._demands(study)
        if enclaves is None or enclaves.nodes is None:
            return
        with self._lock:
            proved = self._proved.get((site, study))
        if proved != _spki(self._key_of(site)):
            raise AttestationError(f"{site} signs with another key than the one that it proved itself by: attest again")

    def is_attested(self, site: SiteId) -> bool:
        """Whether a site has a proof that counts now, for whatever study."""
        return self._sites.is_attested(site)

    def run_changed(self, run: Run) -> None:
        """Destroy the keys of a run that has ended; where that fails, try again at the next change and at a start."""
        if run.is_ended and self._plan_of(run.terms.study).enclaves is not None:
            self._unclosed.add(run.terms.run)
        for one in sorted(self._unclosed):
            self._close(one)

    def start(self) -> None:
        """Destroy keys of runs that ended while this hub did not see it to the end."""
        found = {name.split("/")[1] for name in self._vault.names("key-release/")}
        for run in sorted(map(RunId, found)):
            with suppress(NotFoundError):
                if not self._run_of(run).is_ended:
                    continue
            self._close(run)

    def _close(self, run: RunId) -> None:
        # Whatever lies in the vault, `_of_run` opens no run that has ended.
        try:
            self._keys.close_run(run)
        except WardroundError as error:
            self._unclosed.add(run)
            _log.error("keys of an ended run are not destroyed yet", run=run, code=error.code)
        else:
            self._unclosed.discard(run)

    def _of_run(self, run: RunId, site: SiteId) -> Enclaves | None:
        state = self._run_of(run)
        if site not in state.sites:
            raise ForbiddenError(f"{site} is not of this run")
        return None if state.is_ended else self._plan_of(state.terms.study).enclaves

    def _demands(self, study: StudyId) -> Enclaves | None:
        return self._plan_of(study).enclaves

    def _attestations(self, quote: Quote | None, tls_key: bytes) -> Attestations:
        return Attestations(
            self._clock,
            self._entropy,
            demands=self._demands,
            appraise=self._appraise(),
            key_of=self._key,
            record=self._told,
            quote=quote,
            spki=tls_key,
        )

    def _key(self, site: SiteId) -> bytes:
        found = _spki(self._key_of(site))
        self._reading.key = found
        return found

    def _told(self, event: AttestationEvent) -> None:
        self._record(event)
        if event.what == "attested":
            # Said in the thread that has just appraised the evidence over the key that `_key` gave it.
            with self._lock:
                self._proved[event.site, event.subject] = self._reading.key

    def _appraise(self) -> Appraise:
        bundle = self._bundle or _no_collateral
        return lambda evidence, devices, reference, **expected: nvidia_machine.appraise(
            evidence, devices, reference, bundle(), **expected
        )


def check_plan(plan: Plan, *, checks_nodes: bool, proves_itself: bool) -> None:
    """Refuse a plan that demands what a hub cannot check or prove, however it came.

    Raises:
        CodecError: Says which part of `enclaves`.
    """
    if plan.enclaves is None:
        return
    if not checks_nodes and not proves_itself:
        raise CodecError("enclaves: this hub is not set up for attestation; ask its operator, or leave them out")
    if plan.enclaves.nodes is not None and not checks_nodes:
        raise CodecError("enclaves.nodes: this hub has no collateral to check nodes by; ask its operator")
    if plan.enclaves.hub is not None and not proves_itself:
        raise CodecError("enclaves.hub: this hub does not run in a confidential machine; ask its operator")


def open_attesting(
    folder: Path,
    config: HubConfig,
    *,
    plan_of: Callable[[str], Plan],
    run_of: Callable[[RunId], Run],
    key_of: Callable[[SiteId], signing.PublicKey],
    vault: Vault | None = None,
    record: Callable[[AttestationEvent], None] | None = None,
) -> Attesting | None:
    """The attestation of the hub in `folder`; None where its settings ask for none.

    Args:
        folder: The hub's.
        config: Its settings.
        plan_of: As in `Attesting`.
        run_of: As in `Attesting`.
        key_of: As in `Attesting`.
        vault: The hub's; without one, its file ``state/hub-vault.sqlite`` is opened.
        record: Writes the audit log; without one, events go to the log only.

    Raises:
        ConfigError: A setting is wrong, or a key cannot be used.
    """
    if not config.collateral and not config.confidential:
        return None
    clock, entropy = SystemClock(), SystemEntropy()
    kept = vault if vault is not None else _vault(folder, entropy)
    bundle = None
    if config.collateral:
        officers = officers_of(config.collateral_officers, config.collateral_quorum)
        path = folder / config.collateral
        bundle = CollateralFile(path, officers, config.collateral_quorum, clock=clock, vault=kept).bundle
    elif config.collateral_officers:
        raise ConfigError("collateral_officers are named and no collateral: set collateral to the bundle's file")
    made = Attesting(
        clock=clock,
        entropy=entropy,
        vault=kept,
        plan_of=plan_of,
        run_of=run_of,
        key_of=key_of,
        tls_key=lambda: _tls_key(folder / config.tls_certificate),
        bundle=bundle,
        quote=KernelReports().evidence if config.confidential else None,
        issue=signed_by(_signing_key(folder, config), build=metadata.version("wardround")),
        record=record or logged,
    )
    made.start()
    return made


def logged(event: AttestationEvent) -> None:
    """Say in the log what happened; the audit log is told by whoever gives `record`."""
    _log.info("attestation", what=event.what, run=event.subject, site=event.site, reason=event.reason)


def recorded(recorder: Recorder) -> Callable[[AttestationEvent], None]:
    """Write into the audit log what happened, and say it in the log."""

    def record(event: AttestationEvent) -> None:
        entry, study, run = attestation_entry(event), None, None
        with suppress(CodecError):
            run = RunId(event.subject) if "." in event.subject else None
            study = study_of(run) if run is not None else StudyId(digest_name(event.subject))
        if entry is not None:
            actor = SiteId(event.site) if event.site else None
            recorder.record(entry, actor=actor, study=study, run=run if study is not None else None)
        logged(event)

    return record


def _admitted(request: Request, _: bytes) -> SiteId:
    site = request.scope.get(ADMITTED)
    if not site:
        raise ForbiddenError("this request was not put to the policies")
    return SiteId(site)


def _no_collateral() -> Bundle:
    raise AttestationError("this hub has no collateral to check evidence by; its operator sets collateral")


def _spki(key: signing.PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _tls_key(path: Path) -> bytes:
    try:
        served = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        raise ConfigError(f"{path.name} cannot be read as a certificate") from None
    return hub_check.key_of(served.public_bytes(Encoding.DER))


def _vault(folder: Path, entropy: Entropy) -> Vault:
    key = folder / "keys" / "state.key"
    if not key.exists():
        with suppress(ConfigError):  # Of two processes at once, the first one's counts.
            write_private(key, entropy.draw(32))
    return SealedVault(
        private_folder(folder / "state") / "hub-vault.sqlite", secret("file:keys/state.key", folder, os.environ)
    )


def _signing_key(folder: Path, config: HubConfig) -> jose.SigningKey:
    scheme, _, name = config.attestation_key.partition(":")
    if scheme == "file" and not (folder / name).exists():
        with suppress(ConfigError):
            write_private(folder / name, jose.private_pem(ec.generate_private_key(ec.SECP256R1())))
    return jose.load_private(secret(config.attestation_key, folder, os.environ))
