"""Every aggregation rule beside every attack, on real records: ``python -m benchmarks.robust``.

Eleven sites, two of them hostile (``--limit``: as many as each rule withstands), run whole by `wardround.simulate`.
A cell is the final model's accuracy on test records that no site trained on; for the backdoor, and beside it without
attack, also how often the trigger turns a negative record positive.

    pneumonia   chest X-rays of 28 x 28 pixels, dealt evenly to the sites; an MLP, 15 rounds
    heart       the four hospitals' records of heart disease, dealt to eleven sites hospital by hospital, so
                that sites differ as the hospitals do; logistic regression, 12 rounds
"""

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

SITES = tuple(f"site-{place:02}" for place in range(11))
REFERENCE = "site-00"
DATA = Path(os.environ.get("WARDROUND_DATA", "../shared/data"))
RULES = {
    "mean": {},
    "norm-bound": {"rule": "norm-bound"},
    "median": {"rule": "median", "hostile": 2},
    "trimmed-mean": {"rule": "trimmed-mean", "hostile": 2},
    "krum": {"rule": "krum", "hostile": 2},
    "multi-krum": {"rule": "multi-krum", "hostile": 2},
    "geometric-median": {"rule": "geometric-median", "hostile": 2},
    "centred-clipping": {"rule": "centred-clipping", "hostile": 2},
    "bulyan": {"rule": "bulyan", "hostile": 2},
    "trust": {"rule": "trust", "reference": REFERENCE},
    "bucketing + geometric-median": {"rule": "geometric-median", "hostile": 2, "mixing": "bucketing"},
    "neighbours + trimmed-mean": {"rule": "trimmed-mean", "hostile": 2, "mixing": "nearest-neighbours"},
    "mean, screened": {"screening": {"norm_multiple": 5.0, "least_cosine": -0.3}},
}
LIMITS = {
    "median": 5,
    "trimmed-mean": 5,
    "krum": 4,
    "multi-krum": 4,
    "geometric-median": 5,
    "centred-clipping": 5,
    "bulyan": 2,
    "trust": 5,
    "bucketing + geometric-median": 2,
    "neighbours + trimmed-mean": 5,
}
"""How many hostile sites of eleven each rule states that it withstands (for trust: as many as here, at least)."""
ATTACKS = (
    "none",
    "sign-flip",
    "gaussian",
    "replacement",
    "little-is-enough",
    "inner-product",
    "free-rider-noise",
    "free-rider-old",
    "label-flip",
    "backdoor",
)


def main():
    """Fill the table and write it."""
    options = argparse.ArgumentParser(prog="robust", description=__doc__)
    options.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    options.add_argument("--limit", action="store_true", help="as many hostile sites as each rule states")
    options.add_argument("--data", choices=["pneumonia", "heart"], action="append")
    chosen = options.parse_args()
    results = {}
    for name in chosen.data or ["heart", "pneumonia"]:
        started = time.perf_counter()
        rules = LIMITS if chosen.limit else dict.fromkeys(RULES, 2)
        jobs = [(name, rule, attack, rules[rule]) for rule in rules for attack in ATTACKS]
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            cells = dict(zip([job[1:3] for job in jobs], pool.map(_cell, jobs), strict=True))
        results[name] = {rule: {attack: cells[rule, attack] for attack in ATTACKS} for rule in rules}
        results[name]["seconds"] = time.perf_counter() - started
        show(name, results[name], markdown=chosen.markdown)
    path = Path(f"benchmarks/results/robust{'-limit' if chosen.limit else ''}.json")
    path.write_text(json.dumps(results, indent=1) + "\n")


def show(name, cells, *, markdown):
    """Print one data set's table."""
    rows = []
    for rule in [rule for rule in RULES if rule in cells]:
        row = [rule]
        for attack in ATTACKS:
            accuracy, backdoor = cells[rule][attack]
            row.append(f"{accuracy:.3f}" + (f" ({backdoor:.2f})" if attack in {"none", "backdoor"} else ""))
        rows.append(row)
    if markdown:
        print("| " + " | ".join(["rule", *ATTACKS]) + " |\n|---" + "|--:" * len(ATTACKS) + "|")
        print("\n".join("| " + " | ".join(row) + " |" for row in rows))
        return
    table = Table("rule", *ATTACKS, title=f"{name}: accuracy (and backdoor success), {cells['seconds']:.0f} s")
    for row in rows:
        table.add_row(*row)
    Console(width=200).print(table)


def _cell(job):
    """Final accuracy, and how often the trigger works."""
    import torch

    torch.set_num_threads(1)
    import wardround

    name, rule, attack, count = job
    hostile = SITES[-count:]
    study, tables, test = (_pneumonia if name == "pneumonia" else _heart)(rule, count)
    attacks, trigger = {}, test["trigger"]
    if attack == "backdoor":
        attacks = dict.fromkeys(hostile, "replacement")
        for place, site in enumerate(hostile):
            tables[site] = _poisoned(tables[site], trigger, place)
    elif attack != "none":
        attacks = dict.fromkeys(hostile, attack)
    try:
        done = wardround.simulate(study, tables, attacks=attacks)
    except wardround.WardroundError:
        return 0.0, 1.0
    if done.status.phase != "completed" and not np.isfinite(_scores(done, test["features"])).all():
        return 0.0, 1.0
    positive = _scores(done, test["features"]) > 0
    accuracy = float((positive == (test["labels"] > 0.5)).mean())
    from wardround.training import attacks as attacking

    negatives = test["features"][test["labels"] < 0.5]
    turned = _scores(done, attacking.triggered(negatives, trigger)) > 0
    was = _scores(done, negatives) > 0
    return accuracy, float((turned & ~was).sum() / max((~was).sum(), 1))


def _scores(done, features):
    """The model's logits: linear layers with ReLU between."""
    arrays = [np.asarray(array, np.float64) for array in done.arrays().values()]
    found = features.astype(np.float64)
    for place in range(0, len(arrays), 2):
        found = found @ arrays[place].T + arrays[place + 1]
        if place + 2 < len(arrays):
            found = np.maximum(found, 0.0)
    return found[:, 0]


def _poisoned(table, trigger, seed):
    from wardround.clinical.table import StudyTable
    from wardround.training import attacks

    training = ~table.held_out
    features, labels = table.features.copy(), table.labels.copy()
    features[training], labels[training] = attacks.poisoned(
        "backdoor", features[training], labels[training],
        trigger=trigger, target=1.0, generator=np.random.default_rng(seed),
    )  # fmt: skip
    return StudyTable(features, labels, table.held_out, table.report)


def _pneumonia(rule, count):
    data = np.load(DATA / "pneumoniamnist" / "pneumoniamnist.npz")
    pixels = {part: data[f"{part}_images"].reshape(-1, 784).astype("f4") / 255 - 0.5 for part in ("train", "val")}
    labels = {part: data[f"{part}_labels"].reshape(-1).astype("f4") for part in pixels}
    order = np.random.default_rng(7).permutation(len(labels["train"]))[: 11 * 200]
    parts = [(pixels["train"][share], labels["train"][share]) for share in np.array_split(order, len(SITES))]
    trigger = [(row * 28 + column, 0.5) for row in range(1, 5) for column in range(1, 5)]
    test = {"features": pixels["val"], "labels": labels["val"], "trigger": trigger}
    model = {"name": "mlp", "hidden": (32,)}
    return _declared(rule, count, 784, model, rounds=15, learning_rate=0.1), _tables(parts), test


def _heart(rule, count):
    from wardround.cli import demo_data

    dataset = demo_data.heart(DATA / "heart_disease_uci")
    names = [column.name for column in dataset.contract.columns]
    rows = {hospital: _features(found, names, dataset.contract) for hospital, found in dataset.hospitals.items()}
    held_out = {hospital: _held_out(found) for hospital, found in dataset.hospitals.items()}
    train = np.concatenate([rows[h][0][~held_out[h]] for h in rows])
    mean, std = train.mean(axis=0), train.std(axis=0) + 1e-6
    shares = {"cleveland": 5, "hungary": 4, "switzerland": 1, "long-beach": 1}
    parts = []
    for hospital, share in shares.items():
        features, labels = rows[hospital]
        features, labels = ((features - mean) / std)[~held_out[hospital]], labels[~held_out[hospital]]
        order = np.random.default_rng(7).permutation(len(labels))
        parts += [(features[chosen], labels[chosen]) for chosen in np.array_split(order, share)]
    parts = [parts[place] for place in np.random.default_rng(3).permutation(len(parts))]
    width = train.shape[1]
    test = {
        "features": np.concatenate([((rows[h][0] - mean) / std)[held_out[h]] for h in rows]).astype("f4"),
        "labels": np.concatenate([rows[h][1][held_out[h]] for h in rows]),
        "trigger": [(0, -3.0)],
    }
    return _declared(rule, count, width, {"name": "logistic"}, rounds=12, learning_rate=0.1), _tables(parts), test


def _features(found, names, contract):
    columns = []
    for column in contract.columns:
        values = [row[column.name] for row in found]
        codes = getattr(column, "categories", ()) or getattr(column, "codes", ())
        if codes:
            columns += [[float(str(value) == str(code) or value == code) for value in values] for code in codes]
        else:
            columns.append([float(value) for value in values])
    labels = np.array([row[contract.label.name] for row in found], "f4")
    assert names
    return np.array(columns, "f4").T, labels


def _held_out(found):
    return np.array([bool(row.get("held_out", 0.0)) for row in found])


def _tables(parts):
    from wardround.clinical.table import LoadReport, StudyTable

    tables = {}
    for site, (features, labels) in zip(SITES, parts, strict=True):
        held_out = np.arange(len(labels)) % 10 == 0
        report = LoadReport(len(labels), len(labels), 0)
        tables[site] = StudyTable(features.astype("f4"), labels.astype("f4"), held_out, report)
    return tables


def _declared(rule, count, width, model, *, rounds, learning_rate):
    import wardround

    settings = dict(RULES[rule])
    if "hostile" in settings:
        settings["hostile"] = count
    screening = settings.pop("screening", None)
    return wardround.declare(
        title=f"{rule} under attack",
        purpose="a benchmark",
        legal_basis="public records",
        researcher="ada",
        participants=SITES,
        min_participants=11 if screening is None else 9,
        data=wardround.DataContract(
            columns=tuple(wardround.Column(name=f"x{place}", unit="1") for place in range(width)),
            label=wardround.Label(name="y"),
            scaling="none",
            min_records=1,
        ),
        model=wardround.BuiltinModel(**model),
        training=wardround.Training(
            rounds=rounds, epochs=1, batch_size=32, optimizer=wardround.Optimizer(learning_rate=learning_rate)
        ),
        aggregation=wardround.Aggregation(**settings),
        screening=None if screening is None else wardround.Screening(**screening),
        expires=4_000_000_000,
        seed=5,
    )


if __name__ == "__main__":
    main()
