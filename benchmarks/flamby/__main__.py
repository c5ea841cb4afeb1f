"""Strategies on real federations, beside FLamby's published tables: ``python -m benchmarks.flamby [dataset ...]``.

Every cell is a mean over the seeds and, after the sign, the standard deviation over them (of the seeds themselves,
divided by their number, as the paper has it). A seed decides the initial parameters and the order of records; the
test records are always the same.
"""

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.flamby import datasets
from benchmarks.flamby.strategies import POOLED, SETTINGS, SITES, run


def main():
    """Run the strategies of the chosen data sets, and print and write their tables."""
    options = argparse.ArgumentParser(prog="flamby", description=__doc__)
    options.add_argument("datasets", nargs="*", metavar="dataset", help=f"of {', '.join(SETTINGS)}; all without it")
    options.add_argument("--seeds", default="42-46", help="first and last, as in 42-46, FLamby's")
    options.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    options.add_argument("--output", type=Path, help="write all results of all seeds to this JSON file")
    chosen = options.parse_args()
    if unknown := set(chosen.datasets) - set(SETTINGS):
        options.error(f"no such data set: {', '.join(sorted(unknown))}")
    first, _, last = chosen.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    results = {}
    for name in chosen.datasets or SETTINGS:
        started = time.perf_counter()
        federation = datasets.load(name)
        results[name] = measure(federation, SETTINGS[name], seeds)
        seconds = time.perf_counter() - started
        title = f"{name}: {federation.metric}, seeds {chosen.seeds}, {seconds:.0f} s"
        show(title, *table(federation, results[name]), markdown=chosen.markdown)
    if chosen.output:
        chosen.output.write_text(json.dumps(results, indent=1) + "\n")


def measure(federation, strategies, seeds):
    """For each row its results, a list with a value for each seed, under the names of `run`."""
    found = {}
    for strategy in strategies:
        for seed in seeds:
            for name, row in run(federation, strategy, seed).items():
                lists = found.setdefault(name, {"published": strategy.published or name})
                for test, value in row.items():
                    lists.setdefault(test, []).append(value)
    return found


def table(federation, results):
    """Header and rows of texts."""
    published = _published(federation)
    header = ["strategy", *(["published"] if published else []), POOLED, SITES, *federation.sites]
    rows = []
    for name, found in results.items():
        before = [_text(published.get((found["published"], "Pooled Test"), []))] if published else []
        rows.append([name, *before, *(_text(found[test]) for test in (POOLED, SITES, *federation.sites))])
    return header, rows


def show(title, header, rows, *, markdown):
    """Print one data set's table."""
    if markdown:
        print(f"{title}\n\n| " + " | ".join(header) + " |\n|---" + "|--:" * (len(header) - 1) + "|")
        print("\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n")
        return
    drawn = Table(*header, title=title)
    for row in rows:
        drawn.add_row(*row)
    Console(width=200).print(drawn)


def _published(federation):
    """FLamby's results, a list over seeds, by method and test; empty where there are none."""
    found = {}
    if federation.reference:
        folder, prefix = federation.reference
        for path in sorted((datasets.DATA / folder / "reference_results").glob(f"{prefix}_seed*.csv")):
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    found.setdefault((row["Method"], row["Test"]), []).append(float(row["Metric"]))
    return found


def _text(values):
    present = [value for value in values if value is not None]
    return f"{np.mean(present):.3f} ± {np.std(present):.3f}" if present else "-"


if __name__ == "__main__":
    main()
