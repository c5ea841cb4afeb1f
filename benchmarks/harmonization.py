"""``python -m benchmarks.harmonization``: FHIR files to a study's table, resources per second and memory.

Synthea's patients (of the folder that WARDROUND_DATA names) are written to one file again and again under other
identifiers, up to ``--gigabytes``; one process then reads it into the columns of a contract of seven columns, gates and
lineage left aside. ``--gigabytes 5`` shows the memory at a size that no memory here holds.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("WARDROUND_DATA", ROOT.parent / "shared" / "data")) / "synthea_fhir_r4" / "dev"
TYPES = ("Patient", "Condition", "Encounter", "Observation")
MAPPING = """\
kind = "events"
timezone = "America/New_York"

[[sources]]
name = "ehr"
kind = "fhir"
path = "export"
"""
STUDY = """\
[data]
scaling = "none"
[data.cohort]
index = ["patient|seen"]
pick = "last"
[[data.columns]]
name = "age"
unit = "a"
derive = { concepts = ["patient|birth-date"], aggregate = "age" }
[[data.columns]]
name = "sex"
kind = "category"
categories = ["female", "male"]
derive = { concepts = ["patient|sex"] }
[[data.columns]]
name = "pressure"
unit = "mm[Hg]"
minimum = 50
maximum = 280
missing = "mask"
derive = { concepts = ["loinc|8480-6"], window = { from_days = -1825 } }
[[data.columns]]
name = "cholesterol"
unit = "mg/dL"
minimum = 50
maximum = 500
missing = "mask"
derive = { concepts = ["loinc|2093-3"], aggregate = "mean", molar_mass = 386.65 }
[[data.columns]]
name = "a1c"
unit = "%"
minimum = 3
maximum = 20
missing = "mask"
derive = { concepts = ["loinc|4548-4"], aggregate = "slope" }
[[data.columns]]
name = "mass_index"
unit = "kg/m2"
minimum = 10
maximum = 80
missing = "mask"
derive = { concepts = ["loinc|39156-5"], aggregate = "median" }
[[data.columns]]
name = "visits"
unit = "1"
derive = { concepts = ["patient|seen"], aggregate = "count", window = { from_days = -365 } }
[data.label]
name = "hypertension"
derive = { concepts = ["snomed|38341003", "snomed|59621000"], aggregate = "exists", window = {} }
"""
CHILD = """
import json, resource, sys, time
from pathlib import Path
from wardround.harmonization.lineage import tensor_digest
from wardround.clinical.contract import feature_names
from wardround.node import stewarding
from wardround.sdk import study
folder = Path(sys.argv[1])
contract = study.contract_of((folder / "study.toml").read_text())
source = stewarding.open_events(folder / "mapping.toml")
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
clock, processor = time.perf_counter(), time.process_time()
found = source.read(contract)
table = found.table()
spent = time.perf_counter() - clock
read = found.told.sources[0].read
print(json.dumps({
    "resources": read, "records": len(table.labels), "resources_per_second": read / spent,
    "processor_us": (time.process_time() - processor) / read * 1e6,
    "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "rss_before_mib": base,
    "tensor": tensor_digest(table.features, feature_names(contract), table.labels, table.held_out)[:16],
}))
"""


def write(folder, size):
    export = folder / "export"
    export.mkdir()
    texts = {kind: gzip.decompress((DATA / f"{kind}.ndjson.gz").read_bytes()) for kind in TYPES}
    with (export / "all.ndjson").open("wb") as file:
        copy = 0
        while file.tell() < size or not copy:
            mark = f"{copy:06d}".encode()
            for text in texts.values():
                other = text.replace(b"urn:uuid:", b"urn:uuid:" + mark).replace(b'"id":"', b'"id":"' + mark)
                file.write(other.replace(b"Patient/", b"Patient/" + mark).replace(b'"id": "', b'"id": "' + mark))
            copy += 1
    (folder / "mapping.toml").write_text(MAPPING)
    (folder / "study.toml").write_text(STUDY)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=0.3)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    if not DATA.exists():
        raise SystemExit(f"{DATA} is not there; name the folder of the data with WARDROUND_DATA")
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), int(asked.gigabytes * 1e9))
        for _ in range(asked.repeats):
            done = subprocess.run(
                [sys.executable, "-c", CHILD, name], capture_output=True, text=True, cwd=ROOT, check=True
            )
            print(json.dumps(json.loads(done.stdout)), flush=True)


if __name__ == "__main__":
    main()
