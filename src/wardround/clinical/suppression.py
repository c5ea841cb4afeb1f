"""Which counts may be shown: none of fewer than `least_count` records, nor what would give one away.

Counts that add up to a known whole hide one another: where one alone is left out, the whole minus the rest is it.
So the next smallest is left out too (complementary suppression), until what is hidden is empty or large enough. Cuts
of one order (records above a threshold) are shown where they differ from all cuts shown before in no record, or in
enough. Hazard: this is a rule about cells of the same records seen once, not differential privacy.

References:
    Hundepool et al. Statistical Disclosure Control. Wiley 2012, chapter 4.
"""

from collections.abc import Iterable, Sequence

__all__ = ["hidden", "shown_cuts"]


def hidden(counts: Sequence[float], least_count: int) -> list[bool]:
    """For each count of a partition, whether it must not be shown."""
    flags = [count < least_count for count in counts]
    while not all(flags) and 0 < sum(count for count, flag in zip(counts, flags, strict=True) if flag) < least_count:
        smallest = min((count, place) for place, count in enumerate(counts) if not flags[place])
        flags[smallest[1]] = True
    return flags


def shown_cuts(above: Sequence[float], taken: Iterable[float], least_count: int) -> list[bool]:
    """For each cut of the records, by how many lie above it, whether it may be shown, the first of them first.

    Args:
        above: Records above each cut.
        taken: Records above the cuts that are shown already, 0 and all records among them.
        least_count: The fewest records by which two shown cuts may differ, unless by none.
    """
    seen, shown = set(taken), []
    for count in above:
        shown.append(all(count == other or abs(count - other) >= least_count for other in seen))
        if shown[-1]:
            seen.add(count)
    return shown
