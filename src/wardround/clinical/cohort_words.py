"""A contract's cohort in plain words, for the person who approves a study."""

from wardround.clinical.contract import DataContract
from wardround.clinical.derivation import Derivation, Window

__all__ = ["words"]

_SHOWN = 6


def words(contract: DataContract) -> list[str]:
    """Whose events are read, from when on, and what becomes of them; nothing for a contract without a cohort."""
    cohort = contract.cohort
    if cohort is None:
        return []
    which = {"first": "the first", "last": "the last", "each": "each"}[cohort.pick]
    found = [f"It reads coded events; a record begins at {which} of a patient's events {_listed(cohort.index)}."]
    for criterion in cohort.criteria:
        low = "" if criterion.minimum is None else f"from {criterion.minimum:g} "
        high = "" if criterion.maximum is None else f"up to {criterion.maximum:g} "
        stays = "Left out" if criterion.exclude else "Only"
        found.append(f"{stays}: {criterion.name} ({_derived(criterion.derive)}) {low}{high}{criterion.unit}.")
    if cohort.lookback_days:
        found.append(f"Something must be known of a patient for {cohort.lookback_days} days before.")
    found += [f"{column.name} is {_derived(column.derive)}." for column in contract.columns if column.derive]
    if contract.label.derive:
        found.append(f"{contract.label.name}, which is learned, is {_derived(contract.label.derive)}.")
    found += [f"Careful: {name} may be known after {contract.label.name} begins." for name in _ahead(contract)]
    consent = contract.consent
    if consent:
        silence = "counts as a yes" if consent.default == "permit" else "counts as a no"
        found.append(f"Patients must have consented to {consent.purpose}; silence {silence}.")
    rules = contract.disclosure
    if rules.quasi_identifiers:
        found.append(
            f"Over {', '.join(rules.quasi_identifiers)} every record has at least {rules.k - 1} like it, and records "
            "that stand out are left out."
        )
    return found


def _ahead(contract: DataContract) -> list[str]:
    """Columns that look beyond where the label's window begins."""
    begins = contract.label.derive.window.from_days if contract.label.derive else None
    ends = {column.name: _end(column.derive) for column in contract.columns if column.derive}
    return [name for name, end in ends.items() if end is None or begins is None or end > begins]


def _end(derive: Derivation) -> float | None:
    if derive.window.ever:
        return None
    return derive.at_days if derive.aggregate == "value_at" else derive.window.to_days


def _derived(derive: Derivation) -> str:
    how = {
        "time_since_last": "days since the last",
        "time_to_first": "days to the first",
        "value_at": "value then",
        "exists": "existence",
    }
    return f"the {how.get(derive.aggregate, derive.aggregate)} of {_listed(derive.concepts)}{_within(derive.window)}"


def _listed(concepts: tuple[str, ...]) -> str:
    more = f" and {len(concepts) - _SHOWN} more" if len(concepts) > _SHOWN else ""
    return ", ".join(concepts[:_SHOWN]) + more


def _within(window: Window) -> str:
    if window.ever or (window.from_days is None and window.to_days is None):
        return ", ever"
    start = "ever before" if window.from_days is None else f"day {window.from_days:g}"
    end = "any time after" if window.to_days is None else f"day {window.to_days:g}"
    return f", known from {start} to {end}"
