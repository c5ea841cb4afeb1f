"""``python -m benchmarks.fhir``: FHIR Observations to a view and to events, resources per second and memory.

The resources are Synthea's, of the folder that WARDROUND_DATA names, or made up where it is not there; they are read
again and again, through a pipe, up to ``--gigabytes`` for the memory. sqlonfhir and fhirpathpy (of the environment
that ``--peers`` names) compute the same seven columns of a few of the same resources.
"""

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("WARDROUND_DATA", ROOT.parent / "shared" / "data"))
PEERS = ROOT / ".cache/bench-sof/bin/python"
PEER_RESOURCES = {"sqlonfhir": 2000, "fhirpathpy": 2000}
PATHS = {
    "id": "id",
    "patient": "subject.reference",
    "time": "effective.ofType(dateTime)",
    "status": "status",
    "code": "code.coding.first().code",
    "value": "value.ofType(Quantity).value",
    "unit": "value.ofType(Quantity).unit",
}
VIEW = {
    "resource": "Observation",
    "status": "active",
    "select": [{"column": [{"name": name, "path": path} for name, path in PATHS.items()]}],
}

OURS = """
import json, resource, sys, time
from pathlib import Path
from wardround.harmonization.events import Scope, SourceReport
from wardround.harmonization import memory_database
from wardround.sources import fhir_plan, fhir_run
from wardround.sources.fhir_lines import Limits
from wardround.sources.fhir_reader import FhirReading, ResourceReader
from wardround.sources.site import Site
what, view = sys.argv[1], json.loads(sys.argv[2])
stream = sys.stdin.buffer
if what == "view":
    database = memory_database.open_memory_database(threads=2)
    report, tables = fhir_run.tables(fhir_plan.compile_view(view), stream, database, limits=Limits(total_bytes=2**42))
else:
    codes = {"loinc": frozenset({"4548-4", "8480-6", "2093-3"})} if what == "scope" else None
    report = SourceReport("fhir")
    reader = ResourceReader(FhirReading(name="fhir"), Site(Path("/")), report)
    tables = reader.batches([stream], Scope(codes=codes))
clock, processor, rows = None, time.process_time(), 0
stream.peek(1)
clock = time.perf_counter()
for table in tables:
    rows += table.num_rows
spent = time.perf_counter() - clock
read = report.resources if what == "view" else report.read
print(json.dumps([read / spent, rows / spent, (time.process_time() - processor) / read * 1e6,
                  resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, read]))
"""

PEER = """
import json, sys, time
name, view, paths, count = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
lines = [line for line, _ in zip(sys.stdin.buffer, range(count))]
if name == "sqlonfhir":
    import sqlonfhir
    start = time.perf_counter()
    rows = len(list(sqlonfhir.evaluate([json.loads(line) for line in lines], view)))
else:
    import fhirpathpy
    from fhirpathpy.models import models
    compiled = [fhirpathpy.compile(path.replace("ofType(Quantity)", "ofType(FHIR.Quantity)"), models["r4"])
                for path in paths.values()]
    start = time.perf_counter()
    rows = len([[path(one) for path in compiled] for one in map(json.loads, lines)])
print(json.dumps([len(lines) / (time.perf_counter() - start), rows]))
"""


def observations():
    """Some tens of megabytes of lines."""
    path = DATA / "synthea_fhir_r4" / "dev" / "Observation.ndjson.gz"
    if path.exists():
        return gzip.decompress(path.read_bytes())
    return b"".join(json.dumps(made_up(number)).encode() + b"\n" for number in range(50_000))


def made_up(number, drawn=random.Random(7)):  # noqa: B008, one sequence
    at = f"20{drawn.randrange(10, 25)}-{drawn.randrange(1, 13):02d}-{drawn.randrange(1, 29):02d}T08:00:00+00:00"
    code, unit = drawn.choice([("4548-4", "%"), ("8480-6", "mm[Hg]"), ("2093-3", "mg/dL"), ("8302-2", "cm")])
    return {
        "resourceType": "Observation",
        "id": f"{number:032x}",
        "status": "final",
        "category": [{"coding": [{"system": "http://terminology.hl7.org/x", "code": "laboratory"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": code, "display": "x" * 40}], "text": "x" * 40},
        "subject": {"reference": f"urn:uuid:{drawn.randrange(10_000):032x}"},
        "encounter": {"reference": f"urn:uuid:{drawn.randrange(100_000):032x}"},
        "effectiveDateTime": at,
        "issued": at,
        "valueQuantity": {
            "value": drawn.uniform(0, 300),
            "unit": unit,
            "system": "http://unitsofmeasure.org",
            "code": unit,
        },
    }


def run(python, script, arguments, text, total_bytes):
    """What the script prints, given the text over and over on its input."""
    command = [str(python), "-c", script, *arguments]
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, cwd=ROOT
        ) as process,
    ):
        feeder = threading.Thread(target=feed, args=(process.stdin, text, total_bytes))
        feeder.start()
        printed = process.stdout.read()
        feeder.join()
        if process.wait():
            complaints.seek(0)
            raise SystemExit(complaints.read().decode()[-800:])
    return json.loads(printed)


def feed(pipe, text, total_bytes):
    try:
        for _ in range(max(total_bytes // len(text), 1)):
            pipe.write(text)
        pipe.close()
    except BrokenPipeError:  # A peer takes no more than it was asked to.
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=PEERS)
    asked = parser.parse_args()
    text = observations()
    view = json.dumps(VIEW)
    rates = {}
    for what in ("view", "events", "scope"):
        found = sorted(
            run(sys.executable, OURS, [what, view], text, int(asked.gigabytes * 1e9)) for _ in range(asked.repeats)
        )
        rates[what], rows, processor, memory, read = found[len(found) // 2]
        print(
            f"{what:7s} {rates[what]:9,.0f} resources/s, {rows:9,.0f} rows/s, {processor:.2f} us of processor each, "
            f"{memory:.0f} MiB at most over {read:,} resources",
            flush=True,
        )
    for name, count in PEER_RESOURCES.items() if asked.peers.exists() else ():
        arguments = [name, view, json.dumps(PATHS), str(count)]
        peer, _ = run(asked.peers, PEER, arguments, text, len(text))
        print(f"        {name} {peer:9,.0f} resources/s: ours {rates['view'] / peer:,.0f} times", flush=True)


if __name__ == "__main__":
    main()
