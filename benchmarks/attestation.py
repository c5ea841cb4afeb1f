"""What verifying a processor's evidence costs: ``python -m benchmarks.attestation``, beside the bare signatures.

The floor is what no verifier can do without: for SEV-SNP one P-384 and three RSA-4096-PSS signatures, made by
`cryptography` over the same bytes. Evidence is genuine and found through ``WARDROUND_ATTESTATION``.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from wardround.attestation import amd_certificate
from wardround.attestation.appraisal import appraise
from wardround.attestation.collateral import AmdCollateral, Bundle
from wardround.attestation.evidence import Evidence, unverified_report_data
from wardround.attestation.reference import (
    IntelTcb,
    ReferenceValues,
    SgxReference,
    SnpReference,
    SnpTcb,
    TdxReference,
)

__all__ = ["attestation"]

_FOLDER = Path(os.environ.get("WARDROUND_ATTESTATION", Path(__file__).resolve().parents[2] / "shared" / "attestation"))
_BOUND_SECONDS = 0.010
_DAY_SECONDS = 86400
_TCB = IntelTcb(
    statuses=("UpToDate", "ConfigurationAndSWHardeningNeeded"), allow=("dynamic-platform", "cached-keys", "smt")
)


def attestation(repeats: int = 200) -> dict[str, float]:
    """Seconds for one verification, median and 99th percentile, per kind of evidence."""
    found: dict[str, float] = {}
    for name, work in (("snp", _snp()), ("snp floor", _snp_floor()), ("tdx", _tdx()), ("sgx", _sgx())):
        times = sorted(_seconds(work) for _ in range(repeats))
        found[f"{name} median"] = statistics.median(times)
        found[f"{name} p99"] = times[int(0.99 * (repeats - 1))]
    found["snp over floor"] = found["snp median"] / found["snp floor median"]
    return found


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _milan() -> tuple[bytes, bytes, bytes, bytes]:
    folder = _FOLDER / "sev-snp" / "virtee-sev"
    report = bytes.fromhex((folder / "report_milan.hex").read_text().strip())
    ask, ark = amd_certificate.load_pem((folder / "cert_chain_milan").read_bytes())
    return report, (folder / "vcek_milan.der").read_bytes(), ask, ark


def _snp() -> Callable[[], object]:
    report, vcek, ask, ark = _milan()
    now = 1_767_225_600.0
    bundle = Bundle(
        consortium="benchmark", number=1, valid_from=int(now), valid_until=int(now) + _DAY_SECONDS,
        amd=(AmdCollateral(product="Milan", ark=ark, ask=ask),),
    )  # fmt: skip
    reference = SnpReference(
        measurements=(report[0x90:0xC0].hex(),), allow=("smt", "no-revocation-list"),
        minimum_tcb={"Milan": SnpTcb(bootloader=3, tee=0, snp=8, microcode=115)},
    )  # fmt: skip
    evidence = Evidence(kind="snp", report=report, certificates=(vcek,))
    return _work(evidence, ReferenceValues(name="benchmark", snp=reference), bundle, now)


def _snp_floor() -> Callable[[], object]:
    report, *ders = _milan()
    vcek, ask, ark = (amd_certificate.load(der) for der in ders)
    key, issuer, root = amd_certificate.p384_key(vcek), amd_certificate.rsa_key(ask), amd_certificate.rsa_key(ark)
    r, s = (int.from_bytes(report[at : at + 72], "little") for at in (0x2A0, 0x2E8))
    signature = encode_dss_signature(r, s)

    def work() -> None:
        key.verify(signature, report[:0x2A0], ec.ECDSA(hashes.SHA384()))
        for certificate, by in ((vcek, issuer), (ask, root), (ark, root)):
            amd_certificate.verify_pss(by, certificate.signature, certificate.signed, "certificate")

    return work


def _tdx() -> Callable[[], object]:
    quote = (_FOLDER / "tdx/phala/tdx_quote").read_bytes()
    body = quote[48 : 48 + 584]

    def at(offset: int, size: int = 48) -> tuple[str]:
        return (body[offset : offset + size].hex(),)

    reference = TdxReference(
        mrtd=at(136), mrseam=at(16), td_attributes=at(120, 8), xfam=at(128, 8), rtmr0=at(328), rtmr1=at(376),
        rtmr2=at(424), rtmr3=at(472), tcb=_TCB,
    )  # fmt: skip
    values = ReferenceValues(name="benchmark", tdx=reference)
    return _work(Evidence(kind="tdx", report=quote), values, *_intel("tdx/phala/tdx_quote_collateral.json"))


def _sgx() -> Callable[[], object]:
    quote = (_FOLDER / "sgx/phala/sgx_quote").read_bytes()
    body = quote[48 : 48 + 384]
    reference = SgxReference(
        mrenclave=(body[64:96].hex(),), mrsigner=(body[128:160].hex(),), isv_prod_id=0, minimum_isv_svn=0, tcb=_TCB
    )
    values = ReferenceValues(name="benchmark", sgx=reference)
    return _work(Evidence(kind="sgx", report=quote), values, *_intel("sgx/phala/sgx_quote_collateral.json"))


def _intel(name: str) -> tuple[Bundle, float]:
    text = (_FOLDER / name).read_text()
    start = datetime.fromisoformat(json.loads(json.loads(text)["tcb_info"])["issueDate"]).timestamp()
    bundle = Bundle(
        consortium="benchmark",
        number=1,
        valid_from=int(start),
        valid_until=int(start) + 20 * _DAY_SECONDS,
        intel=(text,),
    )
    return bundle, start + _DAY_SECONDS


def _work(evidence: Evidence, values: ReferenceValues, bundle: Bundle, now: float) -> Callable[[], object]:
    expected = unverified_report_data(evidence)
    return lambda: appraise(evidence, values, bundle, expected_report_data=expected, now=now)


if __name__ == "__main__":
    measured = attestation()
    for label, value in measured.items():
        print(f"{label:20} {value:8.2f}" if "over" in label else f"{label:20} {1000 * value:8.2f} ms")
    sys.exit(any(measured[f"{kind} median"] > _BOUND_SECONDS for kind in ("snp", "tdx", "sgx")))
