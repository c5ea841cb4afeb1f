"""Who allowed which study code: as many different people as the policy asks for, and never its author."""

import pytest

from wardround.crypto import signing
from wardround.errors import CodecError, PackageError, PolicyError
from wardround.ids import SiteId
from wardround.protocol.policy import SitePolicy
from wardround.provenance import package as packages
from wardround.provenance.manifest import Manifest
from wardround.services.code_review import CodeReview
from wardround.storage.memory import MemoryVault

KEY, ADA = signing.PrivateKey.from_private_bytes(bytes(range(32))), SiteId("ada")
DAY = 86400.0


class Clock:
    def __init__(self):
        self.time = 1000.0

    def now(self):
        self.time += 1.0
        return self.time


def package(version="1.0.0", name="net", signer="ada"):
    made = Manifest(name=name, version=version, factory="net:make")
    data = packages.build({"net.py": version.encode()}, made, (), {signer: KEY})
    return data, packages.opened(data, {signer: KEY.public_key()})


@pytest.fixture
def vault():
    return MemoryVault()


def review(vault, **policy):
    return CodeReview(SiteId("angus"), vault=vault, policy=SitePolicy(**policy), clock=Clock())


def said(reviews, made, verdict, *people, **more):
    for person in people:
        reviews.decide(*made, verdict, person=person, researcher=ADA, **more)


def test_code_runs_once_two_people_have_approved_exactly_these_bytes(vault):
    reviews, made, other = review(vault), package(), package("1.0.1")
    assert reviews.missing(made[1].digest) == 2
    said(reviews, made, "approve", "Bea")
    assert not reviews.is_allowed(made[1].digest)
    assert reviews.missing(made[1].digest) == 1
    said(reviews, made, "approve", "Carl")
    assert reviews.allowed() == {made[1].digest}
    assert not reviews.is_allowed(other[1].digest)


@pytest.mark.parametrize("twin", ["Bea", "bea", "B E A", "Ｂｅａ", "Bea."])
def test_one_person_under_two_spellings_is_one(vault, twin):
    reviews, made = review(vault), package()
    said(reviews, made, "approve", "Bea", twin)
    assert reviews.missing(made[1].digest) == 1


@pytest.mark.parametrize("person", ["ada", "Ada", "A-D-A", "ＡＤＡ"])
def test_the_researcher_does_not_review_their_own_code(vault, person):
    with pytest.raises(PolicyError, match="another person"):
        said(review(vault), package(), "approve", person)


@pytest.mark.parametrize("person", ["", "   ", "a\x1b[2J", "a" * 201, "--"])
def test_a_name_that_says_nobody_or_steers_a_terminal_is_refused(vault, person):
    with pytest.raises(CodecError):
        said(review(vault), package(), "approve", person)


def test_taking_an_approval_back_and_anybodys_refusal_stop_the_code(vault):
    reviews, made = review(vault), package()
    said(reviews, made, "approve", "Bea", "Carl")
    said(reviews, made, "refuse", "Carl")
    assert reviews.allowed() == frozenset()
    said(reviews, made, "approve", "Carl")
    assert reviews.is_allowed(made[1].digest)
    said(reviews, made, "refuse", "Dora")
    assert not reviews.is_allowed(made[1].digest)
    assert [one.person for one in reviews.reviews(made[1].digest)] == ["Bea", "Carl", "Dora"]


def test_a_stricter_policy_holds_for_what_was_allowed_before(vault):
    made = package()
    said(review(vault, code_reviewers=1), made, "approve", "Bea")
    assert review(vault, code_reviewers=1).is_allowed(made[1].digest)
    assert not review(vault, code_reviewers=2).is_allowed(made[1].digest)
    assert not review(vault, code_reviewers=0).is_allowed(made[1].digest)


def test_where_no_reviewers_are_asked_for_nobody_can_allow_code(vault):
    with pytest.raises(PolicyError, match="code_reviewers"):
        said(review(vault, code_reviewers=0), package(), "approve", "Bea")


def test_unsigned_code_is_approved_only_where_the_policy_says_so(vault):
    made = package(signer="bob")
    with pytest.raises(PackageError, match="not signed by ada"):
        said(review(vault), made, "approve", "Bea")
    said(review(vault, code_signed=False), made, "approve", "Bea")
    with pytest.raises(PackageError, match="not signed by carol"):
        said(review(vault, code_signers=("carol:" + "0" * 64,)), package(), "approve", "Bea")


def test_a_look_at_known_weaknesses_must_be_recent_where_the_policy_asks_for_one(vault):
    reviews, made = review(vault, code_scan_days=7), package()
    for scanned_at in (0.0, 1000.0 - 7 * DAY, float("nan")):
        with pytest.raises(PolicyError, match="known weaknesses"):
            said(reviews, made, "approve", "Bea", scanned_at=scanned_at)
    said(reviews, made, "approve", "Bea", scanned_at=1000.0)
    with pytest.raises(PolicyError):
        said(reviews, made, "approve", "Carl")


def test_a_refusal_needs_no_signature_and_no_scan(vault):
    said(review(vault, code_scan_days=1), package(signer="bob"), "refuse", "Bea")


def test_the_package_allowed_last_under_a_name_is_what_the_next_is_compared_with(vault):
    reviews = review(vault, code_reviewers=1)
    first, second, third, other = package("1"), package("2"), package("3"), package("9", name="elsewhere")
    assert reviews.last_approved(third[1]) is None
    for made in (first, second, other):
        said(reviews, made, "approve", "Bea")
    assert reviews.last_approved(third[1]) == second[0]
    said(reviews, second, "refuse", "Bea")
    assert reviews.last_approved(third[1]) == first[0]
    assert reviews.last_approved(first[1]) is None


def test_other_bytes_than_the_opened_package_s_are_refused(vault):
    with pytest.raises(CodecError):
        review(vault).decide(b"other", package()[1], "approve", person="Bea", researcher=ADA)
