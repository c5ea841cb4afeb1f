"""Which cohorts a member refuses because, beside an earlier one, they would single somebody out.

Two sums over the same content whose members differ by one site give that site's vector by subtraction.
A member therefore remembers the cohorts that it put a given content into (this round's update, or this
study's statistics), and joins another one over the same content only if one of these holds:

    (1) It had not sent its masked vector for the earlier one: nothing of it is there to subtract.
    (2) It signed the earlier one's survivors S. No other list can have been opened (any two lists with a
        threshold of signatures share an honest signer, and a member signs once). The new list equals S.
    (3) It did not sign. Then it never will: it *voids* the earlier cohort, durably, and tells the other
        members of the new one. When so many void it that, even with every colluder lying, fewer
        than the threshold can have signed, it can never be opened.
    (4) Or whatever list of survivors might have been opened is the new list.

So one content of a member is in one opened sum and in no other. Lists that differ by many members would not do: each
member sees only the cohorts that it is in itself, and of {a, b, c}, {a, d, e} and {b, c, d, e}, no two of which
differ by fewer than three, the first two sums less the third are twice a's vector.

In asynchronous training members bring updates of different rounds, and a hub could put one member's new update
beside the old ones of all others, or weigh the same updates otherwise each time and solve the equations. There an
update goes into cohorts of one round only, with one discount, and beside members whose nonces (which stand for
their updates) are those of before: see `is_used`.

With n members, threshold t = floor(2 n / 3) + 1, u of them included and at most n - t colluders, (3) needs
``(u - t + 1) + (n - t)`` members that void.
"""

import hashlib
from collections.abc import Collection, Sequence

import msgspec

from wardround.ids import SiteId
from wardround.secagg.member import Member
from wardround.secagg.terms import Terms

__all__ = ["Earlier", "content_of", "earlier_of", "is_used", "isolates", "voids_needed"]


class Earlier(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A cohort that a member sent its masked vector for.

    `members` is its size n; `included` is U1; `survivors` is U2 when the member signed one, else empty. `discount`
    is what staleness left of the member's own weight, `place` the run and round, `nonces` go with `included`.
    """

    transcript: bytes
    content: bytes
    members: int
    threshold: int
    included: tuple[SiteId, ...]
    survivors: tuple[SiteId, ...] = ()
    discount: float = 1.0
    place: str = ""
    nonces: tuple[bytes, ...] = ()


def content_of(agreed: Terms, site: SiteId) -> bytes:
    """What stands for what the vector of `site` is made of, 32 bytes.

    A study's statistics are one content, and so are its analyses, whatever the terms name as their base: what a site
    counts there is the same in every round. Everything else is made from a model.
    A hub can make a model that differs in one bit and so is another content: what two nearly equal models
    tell about one site is a matter for noise, not for this rule.
    """
    parts = [agreed.study, agreed.kind]
    if agreed.kind not in {"statistics", "analysis"}:
        parts += [agreed.bases[agreed.members.index(site)], agreed.standardization]
    return hashlib.sha256("\n".join(("wardround content 1", *parts)).encode()).digest()


def earlier_of(state: Member) -> Earlier:
    """What must be remembered of a cohort that a member sent its masked vector for."""
    survivors = state.survivors.entries if state.survivors else ()
    return Earlier(
        transcript=state.transcript,
        content=content_of(state.terms, state.site),
        members=len(state.terms.members),
        threshold=state.terms.threshold,
        included=tuple(entry.site for entry in state.included),
        survivors=tuple(entry.site for entry in survivors),
        discount=state.terms.discounts[state.terms.members.index(state.site)],
        place=_place(state.terms),
        nonces=tuple(_nonces(state.terms)[entry.site] for entry in state.included),
    )


def is_used(earlier: Earlier, agreed: Terms, site: SiteId) -> bool:
    """Whether a late update of `site` that was sent for the earlier cohort must not be sent for this one."""
    known = _nonces(agreed)
    others = zip(earlier.included, earlier.nonces, strict=False)
    return (
        earlier.place != _place(agreed)
        or earlier.discount != agreed.discounts[agreed.members.index(site)]
        or any(known.get(other, nonce) != nonce for other, nonce in others)
    )


def _place(agreed: Terms) -> str:
    return f"{agreed.run}/{agreed.number}"


def _nonces(agreed: Terms) -> dict[SiteId, bytes]:
    return dict(zip(agreed.members, agreed.nonces, strict=True))


def voids_needed(earlier: Earlier) -> int:
    """How many members must have voided a cohort before nobody can open it."""
    return len(earlier.included) - earlier.threshold + 1 + earlier.members - earlier.threshold


def isolates(earlier: Earlier, cohort: Sequence[SiteId], *, voided_by: Collection[SiteId]) -> bool:
    """Whether a sum over `cohort` could, beside the earlier one and others, leave somebody's vector by itself.

    Args:
        earlier: A cohort over the same content.
        cohort: Members of the new one.
        voided_by: Who, this member included, says that it voided the earlier one; only its members count.
    """
    new = frozenset(cohort)
    if earlier.survivors:
        return new != frozenset(earlier.survivors)
    if len(set(voided_by).intersection(earlier.included)) >= voids_needed(earlier):
        return False
    surplus = len(earlier.included) - earlier.threshold
    return surplus > 0 or (surplus == 0 and new != frozenset(earlier.included))
