"""Play one world again and print its history, or play many: ``python -m tests.simulation.replay --seed 17``."""

import argparse
import sys
import time
import traceback

from tests.simulation.fakes import T0
from tests.simulation.world import World

_MODES = ("", "secure ", "late ", "late secure ")
KINDS = [f"{mode}{kind}" for mode in _MODES for kind in ("storm", "rain", "calm")]
SHOWN = 20
"""Failing worlds that `many` names."""


def main():
    """Play what the command line asks for; the exit status says whether every promise was kept."""
    parser = argparse.ArgumentParser(prog="replay", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the world, or the first of --count")
    parser.add_argument("--count", type=int, default=0, help="how many worlds")
    parser.add_argument("--kind", choices=KINDS, default="storm")
    parser.add_argument("--verbose", action="store_true", help="print requests that were answered as usual, too")
    options = parser.parse_args()
    if options.count:
        return many(options.seed, options.count, options.kind)
    return one(options.seed, options.kind, verbose=options.verbose)


def one(seed, kind, *, verbose):
    """Play one world and print its history."""
    world = World(seed, kind=kind)
    try:
        world.play()
    except BaseException:
        print_history(world, verbose=verbose)
        traceback.print_exc()
        return 1
    print_history(world, verbose=verbose)
    print("every promise was kept")
    return 0


def print_history(world, *, verbose):
    """One line per thing that happened, with the events that the hub stored."""
    print(f"seed {world.seed}, {world.kind}; sites {', '.join(world.sites)}")
    for plan, study in zip(world.plans, world.studies, strict=True):
        print(
            f"study {study[:8]}: {', '.join(plan.participants)}; quorum {plan.min_participants}, rounds "
            f"{plan.training.rounds}, scaling {plan.data.scaling}, {plan.training.server.name}, {plan.limits}"
        )
    print(world.weather)
    lines = [(when, 0, f"{who:8} {what}  {_words(words)}") for when, who, what, words in world.history]
    for stream, batches in world.oracle.journal.items():
        for batch in batches:
            for event in batch["events"]:
                hidden = {"event", "at", "document", "terms", "answer"}
                fields = {name: value for name, value in event.items() if name not in hidden}
                lines.append((batch["now"], 1, f"  * {stream[:12]} {event['event']}  {_words(fields.values())}"))
    for when, _, line in sorted(lines, key=lambda line: line[0]):
        print(f"{when - T0:9.2f}  {line if verbose else line[:200]}")


def many(first, count, kind):
    """Play many worlds, with progress; print how to replay those that failed."""
    start, failed = time.perf_counter(), []
    for seed in range(first, first + count):
        try:
            World(seed, kind=kind).play()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                break
            failed.append(seed)
            last = traceback.extract_tb(error.__traceback__)[-1]
            if len(failed) <= SHOWN:
                print(
                    f"make replay SEED={seed}   {type(error).__name__}: {str(error)[:150]} ({last.name}:{last.lineno})"
                )
        done = seed - first + 1
        if done % 500 == 0 or done == count:
            rate = done / (time.perf_counter() - start)
            print(f"{done} worlds, {rate:.0f} per second, {len(failed)} failed", flush=True)
    return 1 if failed else 0


def _words(values):
    return " ".join(str(value) for value in values)


if __name__ == "__main__":
    sys.exit(main())
