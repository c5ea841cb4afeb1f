"""Which study code a site's people have allowed, and what they compared it with.

Reviews are kept in the vault, which is sealed. Code may run here once as many different people as the
policy asks for have approved exactly its bytes; none of them may be the study's researcher, under whatever spelling.
Taking one approval back, or a refusal by anybody, stops the code at once.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from wardround.codec import canonical
from wardround.errors import CodecError, PolicyError
from wardround.ids import Digest, SiteId, digest_name
from wardround.ports import Clock, Vault
from wardround.protocol.policy import SitePolicy
from wardround.provenance import package as packages
from wardround.provenance.package import Package

__all__ = ["CodeReview", "Review", "Verdict"]

Verdict = Literal["approve", "refuse"]
_PERSON = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


class Review(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one person of a site said about one package.

    `name` and `version` are the package's own words, empty where it is sources alone; `scanned_at` is when known
    weaknesses were looked for, 0 where they were not; `reviewed_at` is in seconds since 1970-01-01 UTC.
    """

    site: SiteId
    package: Digest
    verdict: Verdict
    person: str
    researcher: SiteId
    name: str = ""
    version: str = ""
    scanned_at: float = 0.0
    reviewed_at: float = 0.0


class CodeReview:
    """One site's reviews of study code; `record` writes a review down before it counts."""

    def __init__(
        self,
        site: SiteId,
        *,
        vault: Vault,
        policy: SitePolicy,
        clock: Clock,
        record: Callable[[Digest, Verdict, str], None] = lambda *_: None,
    ) -> None:
        self._site, self._vault, self._policy, self._clock, self._record = site, vault, policy, clock, record

    def decide(
        self,
        data: bytes,
        package: Package,
        verdict: Verdict,
        *,
        person: str,
        researcher: SiteId,
        scanned_at: float = 0.0,
    ) -> Review:
        """Keep what a person said about an opened package; a later word of the same person replaces the earlier.

        Raises:
            PolicyError: The person is the researcher, or the site's policy does not allow approving this package.
            CodecError: The person's name is empty or not printable.
        """
        if not _PERSON.fullmatch(person) or not _folded(person):
            raise CodecError("a person's name has 1 to 200 printable characters")
        if canonical.digest(data) != package.digest:
            raise CodecError("these bytes are not the opened package's")
        if verdict == "approve":
            self._check(package, person, researcher, scanned_at)
        manifest = package.manifest
        review = Review(
            site=self._site,
            package=package.digest,
            verdict=verdict,
            person=person,
            researcher=researcher,
            name=manifest.name if manifest else "",
            version=manifest.version if manifest else "",
            scanned_at=scanned_at,
            reviewed_at=self._clock.now(),
        )
        self._record(package.digest, verdict, person)
        self._vault.put(f"package.{package.digest}", data)
        whose = canonical.digest(_folded(person).encode())
        self._vault.put(f"review.{package.digest}.{whose}", canonical.encode(review))
        return review

    def reviews(self, package: Digest) -> list[Review]:
        """What people of this site said about a package, in the order in which they said it."""
        return self._kept(f"review.{digest_name(package)}.")

    def is_allowed(self, package: Digest) -> bool:
        """Whether enough people approved these bytes, and nobody refused them."""
        return self._policy.code_reviewers > 0 and _is_enough(self.reviews(package), self._policy.code_reviewers)

    def allowed(self) -> frozenset[Digest]:
        """All packages that may run here by review."""
        named = {Digest(name.split(".")[1]) for name in self._vault.names("review.")}
        return frozenset(package for package in named if self.is_allowed(package))

    def missing(self, package: Digest) -> int:
        """How many more people must approve; 0 where it is allowed."""
        if self.is_allowed(package):
            return 0
        approving = sum(review.verdict == "approve" for review in self.reviews(package))
        return max(1, self._policy.code_reviewers - approving)

    def last_approved(self, package: Package) -> bytes | None:
        """The bytes of the package of the same name that was allowed last, other than this one."""
        if package.manifest is None:
            return None
        found = [
            review
            for review in self._kept("review.")
            if review.name == package.manifest.name and review.package != package.digest
        ]
        for review in sorted(found, key=lambda one: one.reviewed_at, reverse=True):
            if self.is_allowed(review.package):
                return self._vault.get(f"package.{review.package}")
        return None

    def _check(self, package: Package, person: str, researcher: SiteId, scanned_at: float) -> None:
        policy = self._policy
        if policy.code_reviewers == 0:
            raise PolicyError("this site's policy allows study code by code_digests only: code_reviewers is 0")
        if _folded(person) == _folded(researcher):
            raise PolicyError("whoever wrote the study does not review its code: another person must")
        if policy.code_signed:
            also = [[one.partition(":")[0] for one in policy.code_signers]] if policy.code_signers else []
            packages.require_signers(package, [[researcher], *also])
        is_recent = scanned_at > 0 and self._clock.now() - scanned_at <= policy.code_scan_days * 86400.0
        if policy.code_scan_days and not is_recent:
            raise PolicyError(
                f"this site's policy asks for a look at known weaknesses within {policy.code_scan_days:g} days: "
                "give --advisories"
            )

    def _kept(self, prefix: str) -> list[Review]:
        kept = (self._vault.get(name) for name in self._vault.names(prefix))
        found = [canonical.decode(data, Review) for data in kept if data is not None]
        return sorted(found, key=lambda one: one.reviewed_at)


def _is_enough(reviews: Sequence[Review], needed: int) -> bool:
    approving = {_folded(review.person) for review in reviews if review.verdict == "approve"}
    return len(approving) >= needed and all(review.verdict == "approve" for review in reviews)


def _folded(person: str) -> str:
    """A name without what two spellings of one person may differ in: case, width, spaces and signs."""
    return "".join(sign for sign in unicodedata.normalize("NFKC", person).casefold() if sign.isalnum())
