"""``python -m benchmarks.hl7``: laboratory messages to events, messages per second and memory, beside two parsers.

The messages are made up: ORU^R01 with one patient, one order and some results, of 40 laboratory codes, 20,000 patients
and times within a year. Beside the rate by the clock stands that by the processor, for each second of one core, which
says more on a busy machine. Ours reads them from a file to batches of events, once before the clock starts, since the
first time loads the time zones. python-hl7 and hl7apy (of the environment that ``--peers`` names) parse the same
messages and take out the same fields: identifier, code, value, unit, status, time and order number; they place no
times, read no value types and keep no versions apart.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".cache/bench-hl7/bin/python"
PEER_MESSAGES = {"python-hl7": 3000, "hl7apy": 200}

PEER = """
import json, sys, time
name, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
texts = ["MSH" + part for part in open(path).read().split("MSH")[1 : count + 1]]
if name == "python-hl7":
    import hl7
    def fields(text):
        message = hl7.parse(text.replace("\\n", "\\r"))
        patient = str(message.segment("PID")[3][0][0])
        order = str(message.segment("OBR")[3])
        return [(patient, order, *(str(x[n]) for n in (3, 5, 6, 11, 14))) for x in message.segments("OBX")]
else:
    from hl7apy.consts import VALIDATION_LEVEL
    from hl7apy.parser import parse_message
    def fields(text):
        text = text.replace("\\n", "\\r")
        message = parse_message(text, validation_level=VALIDATION_LEVEL.TOLERANT, find_groups=False)
        patient = message.pid.pid_3.to_er7()
        order = message.obr.obr_3.to_er7()
        return [
            (patient, order, *(getattr(x, "obx_%d" % n).to_er7() for n in (3, 5, 6, 11, 14))) for x in message.obx
        ]
start, processor = time.perf_counter(), time.process_time()
found = sum(len(fields(text)) for text in texts)
print(json.dumps([len(texts) / (time.perf_counter() - start), len(texts) / (time.process_time() - processor)]))
"""

OURS = """
import json, resource, sys, time
from pathlib import Path
from wardround.harmonization.events import Scope
from wardround.sources.hl7_source import Hl7Settings, open_source
from wardround.sources.site import Site
source = open_source(Hl7Settings(name="lab", path=sys.argv[1]), Site(Path("/"), "Europe/Berlin"))
for _ in source.batches(Scope()):
    break
clock, processor = time.perf_counter(), time.process_time()
rows = sum(len(batch) for batch in source.batches(Scope()))
spent = time.perf_counter() - clock
assert not source.report.refused, source.report
print(json.dumps([source.report.read / spent, rows, time.process_time() - processor, spent,
                  resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def written(path, count, results, seed=7):
    drawn = random.Random(seed)
    codes = [
        (f"{drawn.randrange(1000, 99999)}-{place % 10}", drawn.choice(["mg/dL", "mmol/L", "g/l-1", "%"]))
        for place in range(40)
    ]
    with path.open("w") as file:
        for number in range(count):
            month, day, hour, minute = (drawn.randrange(*span) for span in ((1, 13), (1, 29), (24,), (60,)))
            at = f"2024{month:02d}{day:02d}{hour:02d}{minute:02d}"
            patient = drawn.randrange(20000)
            stamp = f"{at}{drawn.randrange(60):02d}"
            lines = [
                f"MSH|^~\\&|LAB|HOSP|EHR|HOSP|{stamp}||ORU^R01^ORU_R01|{number}|P|2.5.1",
                f"PID|1||{patient}^^^HOSP^MR||DOE^JANE||19{30 + patient % 69}{patient % 12 + 1:02d}01|F",
                f"OBR|1|P{number}|{number}^LAB|24323-8^Panel^LN|||{at}|||||||||||||||{stamp}||CH|F",
            ]
            for place in range(results):
                code, unit = codes[(number + place) % 40]
                value = f"{drawn.uniform(0, 300):.1f}"
                lines.append(f"OBX|{place + 1}|NM|{code}^Analyte^LN||{value}|{unit}|1-2|N|||F|||{at}")
            file.write("\n".join(lines) + "\n")
    return path


def run(python, script, *arguments):
    done = subprocess.run(
        [str(python), "-c", script, *map(str, arguments)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=PEERS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for results in (1, 5, 20):
            path = written(Path(folder) / f"{results}.hl7", asked.messages // max(results // 5, 1), results)
            found = sorted((run(sys.executable, OURS, path) for _ in range(asked.repeats)), reverse=True)
            rate, rows, processor, spent, memory = found[len(found) // 2]
            own = rate * spent / processor
            print(f"{results:2d} results: ours {rate:8,.0f} messages/s, {own:8,.0f} by the processor")
            print(
                f"     {rows / processor:,.0f} events/s by the processor, {memory:.0f} MiB of {path.stat().st_size:,}"
            )
            for name, count in PEER_MESSAGES.items() if asked.peers.exists() else ():
                peer, theirs = run(asked.peers, PEER, name, path, count)
                print(
                    f"{name:>16} {peer:8,.0f} messages/s, {theirs:8,.0f} by processor: ours {own / theirs:,.0f} times"
                )


if __name__ == "__main__":
    main()
