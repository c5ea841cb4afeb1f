"""Writes anonymity.json: what pycanon 1.3.6 makes of the same tables. Run in an environment that has pycanon.

    python tests/vectors/make_anonymity.py > tests/vectors/anonymity.json

pycanon takes the total variation for labels that are texts and the ordered distance for those that are numbers, as
we do; its entropy l-diversity is rounded down.
"""

import json

import numpy as np
import pandas as pd
from pycanon import anonymity

CASES = ((40, (2, 3), 2), (200, (5, 2, 3), 4), (500, (12, 2), 40), (60, (20, 2), 3), (300, (4,), 1))


def main():
    """One case per number of records, quasi-identifiers and labels."""
    cases = []
    for records, widths, labels in CASES:
        generator = np.random.default_rng(records)  # noqa: TID251, seeded
        columns = [generator.integers(0, width, records).tolist() for width in widths]
        label = (generator.integers(0, labels, records) * 7 // 2).tolist()
        names = [f"q{place}" for place in range(len(widths))]
        table = pd.DataFrame(dict(zip(names, columns, strict=True)) | {"number": label})
        table["text"] = [f"value {one:03}" for one in label]
        case = {"columns": columns, "label": label, "k": int(anonymity.k_anonymity(table, names))}
        case["l"] = int(anonymity.l_diversity(table, names, ["text"]))
        case["entropy_l"] = int(anonymity.entropy_l_diversity(table, names, ["text"]))
        if labels > 1:
            case["t"] = float(anonymity.t_closeness(table, names, ["text"]))
            case["ordered_t"] = float(anonymity.t_closeness(table, names, ["number"]))
        cases.append(case)
    print(json.dumps({"made_by": "pycanon 1.3.6", "cases": cases}))


main()
