"""Category vocabularies from secure sums: what enough patients have gets a column, the rest is "other".

A first study counts candidates (`clinical.summaries.Counts`) under secure aggregation; counts below the plan's least
count come out as None. The second study's contract keeps the others, so no rare value of a few patients ever becomes
a column of a model.
"""

from collections.abc import Mapping, Sequence

import msgspec

from wardround.clinical.contract import DataContract, check
from wardround.errors import CodecError

__all__ = ["with_counted"]


def with_counted(contract: DataContract, findings: Sequence[Mapping[str, object]], *, least_count: int) -> DataContract:
    """The contract with each counted category column cut down to what is frequent; all else becomes "other".

    Args:
        contract: Its category columns list the candidates.
        findings: Results of summaries, as a run's findings hold them.
        least_count: The fewest records of a category that is kept; counts that are None are fewer.

    Raises:
        CodecError: No candidate of a column is frequent enough.
    """
    counted = {
        str(one["column"]): one["counts"]
        for one in findings
        if one.get("kind") == "counts" and isinstance(one.get("counts"), Mapping)
    }
    columns = []
    for column in contract.columns:
        counts = counted.get(column.name)
        if column.kind == "category" and isinstance(counts, Mapping):
            kept = tuple(value for value in column.categories if (counts.get(value) or 0) >= least_count)
            if not kept:
                raise CodecError(f"column {column.name!r}: no category has {least_count} records")
            is_cut = len(kept) < len(column.categories)
            column = msgspec.structs.replace(column, categories=kept, other=column.other or is_cut)  # noqa: PLW2901
        columns.append(column)
    made = msgspec.structs.replace(contract, columns=tuple(columns))
    check(made)
    return made
