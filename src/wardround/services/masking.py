"""What a node adds up in secret: its numbers as fixed-point integers, with its masks on, piece by piece.

    trained update, float32 ──clip, weigh, round──▶ uint32 ──plus masks──▶ a file of the node's own ──▶ upload
    weight, metrics, sums   ──exact──────────────▶ uint64 ──plus masks──┘

Where noise is shared, each site adds its part, a discrete Gaussian in whole numbers, before the masks.
The update is read from the worker's file one piece at a time and nothing of it is kept: memory is one
piece. Rounding is stochastic, from words that follow from the plan's seed, the round and the site, so that
the same update gives the same integers after a crash; they need not be secret.
"""

import hashlib
import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from wardround.codec import fixedpoint, tensors
from wardround.crypto.noise import NoiseStream, Sampler, gaussian
from wardround.crypto.prg import MaskStream
from wardround.errors import LocalProtocolError
from wardround.ports import Files
from wardround.protocol.plan import Plan
from wardround.protocol.secure import columns_sent, encoding
from wardround.secagg import member
from wardround.secagg.member import Member
from wardround.secagg.terms import Section, Terms

__all__ = ["PIECE", "masked_pieces", "weights_of"]

PIECE = 256 * 1024
"""Elements at a time."""


def weights_of(records: int, agreed: Terms, place: int) -> tuple[int, int]:
    """The whole-number weight of the member at `place`, and what staleness leaves of it, at least 1.

    The first is what the mean is divided by, the second what the update is multiplied by.
    """
    whole = min(records, agreed.max_weight)
    return whole, max(1, math.floor(whole * agreed.discounts[place]))


def masked_pieces(
    state: Member,
    plan: Plan,
    files: Files,
    update: int | None,
    sums: npt.NDArray[np.float64],
    weight: int,
    seed: bytes = b"",
) -> Iterator[memoryview]:
    """The masked vector of a member, section after section; a piece is valid until the next is asked for.

    Args:
        state: A member that knows who is included.
        plan: The approved plan.
        files: Reads the update's file.
        update: Descriptor of the trained update's file, or None where the cohort adds up no update.
        sums: float64, shape=(n,): what goes into the exact section.
        weight: This member's weight, 1 to the terms' `max_weight`.
        seed: Where the terms ask for noise: 32 bytes that nobody else knows, for this vector alone.

    Raises:
        TensorMismatchError: A value is not finite.
        LocalProtocolError: The vector is not as long as the terms say.
    """
    for section in state.terms.sections:
        plus, minus = (
            [member.section_key(seed, state.transcript, section) for seed in seeds]
            for seeds in member.mask_seeds(state)
        )
        masks = MaskStream(plus, minus, bits=section.bits)
        pieces = _sums(sums) if section.name == "sums" else _update(state, plan, files, update, weight, seed)
        yield from _masked(pieces, masks, section)


def _masked(
    pieces: Iterator[npt.NDArray[np.unsignedinteger]], masks: MaskStream, section: Section
) -> Iterator[memoryview]:
    length = 0
    for piece in pieces:
        length += piece.size
        masks.apply(piece)
        yield memoryview(piece.view(np.uint8).data)
    if length != section.length:
        raise LocalProtocolError(f"section {section.name} has {length} elements here and {section.length} in the terms")


def _sums(values: npt.NDArray[np.float64]) -> Iterator[npt.NDArray[np.unsignedinteger]]:
    yield fixedpoint.encode_sums(values)


def _update(
    state: Member, plan: Plan, files: Files, update: int | None, weight: int, noise_seed: bytes
) -> Iterator[npt.NDArray[np.unsignedinteger]]:
    if update is None:
        raise LocalProtocolError("there is no update to mask")
    agreed, head, dtype = state.terms, len(tensors.header(plan.manifest)), tensors.flat_dtype(plan.manifest)
    rule = encoding(agreed)
    seed = hashlib.sha256(f"wardround rounding 1\n{plan.seed}/{agreed.number}/{state.site}".encode()).digest()
    words = MaskStream([seed], [], bits=32)
    noise, out = (np.empty(PIECE, np.uint32) for _ in range(2))
    sampler = _sampler(agreed)
    noises = NoiseStream(noise_seed) if sampler else None
    drawn = np.empty(PIECE if sampler else 0, np.int64)
    for start, stop in columns_sent(plan):
        size = dtype.itemsize
        for chunk in files.chunks(update, head + size * start, head + size * stop, size * PIECE):
            values = np.frombuffer(chunk, dtype).astype(np.float32, copy=False)
            noise[: values.size] = 0
            words.apply(noise[: values.size])
            fixedpoint.encode(values, weight, noise[: values.size], out[: values.size], rule)
            if sampler is not None and noises is not None:
                sampler.draw(noises, drawn[: values.size])
                np.add(out[: values.size].view(np.int32), drawn[: values.size], out=drawn[: values.size])
                out[: values.size].view(np.int32)[...] = drawn[: values.size]
            yield out[: values.size]


def _sampler(agreed: Terms) -> Sampler | None:
    """The noise that these terms ask of each member."""
    return None if agreed.deviation is UNSET else gaussian(Fraction(agreed.deviation) ** 2)
