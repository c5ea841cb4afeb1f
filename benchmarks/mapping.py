"""How well local codes find their concepts: top-1 and top-5 on real sites' dictionaries, feature by feature.

    nice -n 10 python -m benchmarks.mapping          # figures, benchmarks/results/mapping.json
    nice -n 10 python -m benchmarks.mapping fit      # fits the weights and prints them

Candidates: every LOINC name that occurs in the data at hand (Synthea's FHIR and CSV, OMOP's CONCEPT, C-CDA, HL7 v2,
FHIR's examples), about 430; the names stay where they are. Units and plausible ranges are those of the *synthetic*
patients, widened threefold: nothing of a candidate is taken from the site that is mapped.

With MiniLM's weights installed (see `wardround.harmonization.suggest_embedding`), or in the folder that
``WARDROUND_MINILM`` names, it measures with embeddings too.

Test: MIMIC-III's d_labitems, whose LOINC codes are its authors'. Fit: eICU's laboratory names (truths below, by this
file's author) and MIMIC's bedside charts (codes from the MIMIC Code Repository's concept map, MIT). The weights are
fitted on the second and third and never see the first.
"""

import csv
import dataclasses
import functools
import gzip
import io
import json
import os
import re
import tarfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from wardround.clinical import codes
from wardround.harmonization import suggest_rank, suggest_units
from wardround.harmonization.events import batch
from wardround.harmonization.profile import Name, Profile, profile
from wardround.harmonization.suggest_embedding import Embedder, MiniLm, installed
from wardround.harmonization.suggest_rank import FEATURES, Target

DATA = Path(os.environ.get("WARDROUND_DATA", "../shared/data"))

ACCEPTED = {
    # The unit in the records is %, so the truth (a number per volume) cannot be meant: the share of leukocytes is.
    "51146": {"704-7", "706-2"},
    "51200": {"711-2", "713-8"},
    "51244": {"731-0", "736-9"},
    "51254": {"742-7", "5905-5"},
    # One code without a method where the label states none either.
    "51245": {"26478-8", "736-9"},
    "51300": {"26464-8", "804-5", "6690-2"},
    "51301": {"26464-8", "804-5", "6690-2"},
    "50810": {"20570-8", "4544-3"},
}
"""Where MIMIC's truth is not the only right answer, and why."""

DUBIOUS = {"50854", "50998"}
"""Truths that no reading of the name supports: "Absolute A1c" is no share, transferrin no binding capacity."""

EICU = {
    "-basos": {"706-2"},
    "-eos": {"713-8"},
    "-lymphs": {"736-9", "26478-8"},
    "-monos": {"5905-5", "26485-3"},
    "-polys": {"770-8", "23761-0"},
    "ALT (SGPT)": {"1742-6"},
    "AST (SGOT)": {"1920-8"},
    "BUN": {"3094-0"},
    "CPK": {"2157-6"},
    "CRP": {"1988-5"},
    "Fe": {"2498-4"},
    "Fe/TIBC Ratio": {"2502-3"},
    "Ferritin": {"2276-4"},
    "FiO2": {"19994-3"},
    "HCO3": {"1960-4"},
    "HDL": {"2085-9"},
    "Hct": {"4544-3", "20570-8"},
    "Hgb": {"718-7"},
    "LDH": {"2532-0", "14804-9"},
    "LDL": {"18262-6", "2089-1"},
    "MCH": {"785-6"},
    "MCHC": {"786-4"},
    "MCV": {"787-2", "30428-7"},
    "MPV": {"32623-1"},
    "O2 Sat (%)": {"2708-6", "2710-2", "2713-6"},
    "PT": {"5902-2"},
    "PT - INR": {"6301-6"},
    "RBC": {"789-8", "26453-1"},
    "RDW": {"788-0", "30385-9"},
    "Respiratory Rate": {"9279-1"},
    "TIBC": {"2500-7"},
    "TSH": {"3016-3"},
    "Temperature": {"8310-5"},
    "Total CO2": {"2028-9", "20565-8"},
    "WBC x 1000": {"6690-2", "26464-8", "804-5"},
    "albumin": {"1751-7"},
    "alkaline phos.": {"6768-6"},
    "anion gap": {"33037-3"},
    "bedside glucose": {"2339-0"},
    "bicarbonate": {"1960-4"},
    "calcium": {"17861-6"},
    "chloride": {"2075-0"},
    "creatinine": {"2160-0"},
    "free T4": {"3024-7"},
    "glucose": {"2345-7"},
    "magnesium": {"19123-9"},
    "pH": {"2744-1"},
    "paCO2": {"2019-8"},
    "paO2": {"2703-7"},
    "platelets x 1000": {"777-3", "26515-7"},
    "potassium": {"2823-3"},
    "sodium": {"2951-2"},
    "total bilirubin": {"1975-2"},
    "total cholesterol": {"2093-3"},
    "total protein": {"2885-2"},
    "triglycerides": {"2571-8"},
    "urinary specific gravity": {"5811-5"},
}
"""eICU's laboratory names whose concept is among the candidates."""

EICU_NONE = (
    "24 h urine protein",
    "Acetaminophen",
    "BNP",
    "Base Excess",
    "CPK-MB",
    "CPK-MB INDEX",
    "Carboxyhemoglobin",
    "Digoxin",
    "ESR",
    "Gentamicin - random",
    "Methemoglobin",
    "PEEP",
    "PTT",
    "Phenytoin",
    "T4",
    "TV",
    "Vancomycin - trough",
    "Vitamin B12",
    "WBC's in body fluid",
    "WBC's in cerebrospinal fluid",
    "WBC's in peritoneal fluid",
    "WBC's in urine",
    "ammonia",
    "amylase",
    "cortisol",
    "direct bilirubin",
    "ethanol",
    "fibrinogen",
    "folate",
    "glucose - CSF",
    "haptoglobin",
    "lipase",
    "phosphate",
    "prealbumin",
    "prolactin",
    "protein - CSF",
    "serum osmolality",
    "transferrin",
    "troponin - T",
    "uric acid",
    "urinary creatinine",
    "urinary sodium",
)
"""eICU's laboratory names whose concept is not."""

CHARTS = {
    "220045": {"8867-4"},
    "220210": {"9279-1"},
    "220277": {"59408-5"},
    "220179": {"8480-6"},
    "220180": {"8462-4"},
    "220181": {"8478-0"},
    "220050": {"8480-6"},
    "220051": {"8462-4"},
    "220052": {"8478-0"},
    "225309": {"8480-6"},
    "225310": {"8462-4"},
    "225312": {"8478-0"},
    "223761": {"8310-5"},
    "223762": {"8310-5"},
    "226512": {"29463-7", "3141-9"},
    "226531": {"29463-7", "3141-9"},
    "226707": {"8302-2"},
    "226730": {"8302-2"},
    "224167": {"8480-6"},
    "224643": {"8462-4"},
}
"""MIMIC's bedside items; "by noninvasive" is not among the candidates, so the pressure itself is accepted."""

LEAST = {"fluid": 8.0, "range": 2.0}
"""The least weight of evidence that the training sites hardly show."""

_Pairs = list[tuple[Profile, set[str]]]
_Evidence = list[tuple[np.ndarray, np.ndarray, int]]


@functools.cache
def targets() -> list[Target]:
    """The candidates: OMOP's name where there is one, else the most frequent; units and ranges of the synthetic."""
    names: dict[str, Counter[tuple[int, str]]] = defaultdict(Counter)
    for rank, code, name in _names():
        if codes.is_loinc(code):
            names[code][rank, re.sub(r"\s+", " ", name.strip())] += 1
    measured, labels = _measured(), {}
    for code, counted in names.items():
        best = min(rank for rank, _ in counted)
        labels[code] = max((count, name) for (rank, name), count in counted.items() if rank == best)[1]
    return [
        Target(concept=f"loinc|{code}", label=label, **measured.get(code, {})) for code, label in sorted(labels.items())
    ]


def _names() -> Iterator[tuple[int, str, str]]:
    for row in _omop("CONCEPT.csv"):
        if row["vocabulary_id"] == "LOINC":
            yield 0, row["concept_code"], row["concept_name"]
    for name in ("Observation", "DiagnosticReport"):
        with gzip.open(DATA / f"synthea_fhir_r4/dev/{name}.ndjson.gz", "rt") as lines:
            for line in lines:
                yield from ((1, *pair) for pair in _codings(json.loads(line)))
    for path in sorted((DATA / "fhir_r4_examples").glob("*.json")):
        yield from ((1, *pair) for pair in _codings(json.loads(path.read_text())))
    with gzip.open(DATA / "synthea_csv27/observations.csv.gz", "rt") as lines:
        for row in csv.DictReader(lines):
            told = {key.lower(): value for key, value in row.items()}
            yield 2, told["code"], told["description"]
    yield from _fixtures()


def _fixtures() -> Iterator[tuple[int, str, str]]:
    for path in sorted((DATA / "ccda").glob("*/*")):
        for tag in re.findall(
            r'<[^>]*codeSystem="2\.16\.840\.1\.113883\.6\.1"[^>]*>', path.read_text(errors="replace")
        ):
            code, name = (re.search(rf'\b{key}="([^"]+)"', tag) for key in ("code", "displayName"))
            if code and name:
                yield 2, code[1], name[1]
    for path in sorted(one for one in (DATA / "hl7v2").rglob("*") if one.is_file()):
        for code, name in re.findall(r"(\d{1,5}-\d)\^([^\^|~&\r\n]+)\^(?:LN|LOINC)", path.read_text(errors="replace")):
            yield 2, code, name


def _codings(node: object) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        if node.get("system") == "http://loinc.org" and node.get("display"):
            yield str(node.get("code")), node["display"]
        for value in node.values():
            yield from _codings(value)
    elif isinstance(node, list):
        for value in node:
            yield from _codings(value)


def _omop(name: str) -> list[dict[str, str]]:
    with tarfile.open(DATA / "omop_synthea27nj/cdm54_csv.tar.gz") as archive:
        member = next(one for one in archive.getmembers() if Path(one.name).name == name)
        rows = csv.DictReader(io.TextIOWrapper(archive.extractfile(member), "utf-8"))
        return [{key.lower(): value for key, value in row.items()} for row in rows]


def _measured() -> dict[str, dict[str, object]]:
    seen: dict[str, list[tuple[str, float]]] = defaultdict(list)
    with gzip.open(DATA / "synthea_fhir_r4/dev/Observation.ndjson.gz", "rt") as lines:
        for line in lines:
            observation = json.loads(line)
            for one in [observation, *observation.get("component", [])]:
                if quantity := one.get("valueQuantity"):
                    code = one["code"]["coding"][0]["code"]
                    seen[code].append((suggest_units.ucum(quantity.get("unit") or ""), quantity["value"]))
    concept = {row["concept_id"]: row for row in _omop("CONCEPT.csv")}
    for row in _omop("MEASUREMENT.csv"):
        what = concept.get(row["measurement_concept_id"])
        if what and what["vocabulary_id"] == "LOINC" and row["value_as_number"]:
            unit = concept.get(row["unit_concept_id"], {}).get("concept_code") or row["unit_source_value"]
            seen[what["concept_code"]].append((suggest_units.ucum(unit), float(row["value_as_number"])))
    made: dict[str, dict[str, object]] = {}
    for code, values in seen.items():
        unit, _ = Counter(unit for unit, _ in values).most_common(1)[0]
        numbers = [value for one, value in values if one == unit]
        if suggest_units.dimension(unit):
            made[code] = {"unit": unit, "minimum": min(numbers) / 3, "maximum": max(numbers) * 3}
    return made


def mimic_labs(*, known: bool = True) -> _Pairs:
    """The codes of d_labitems whose LOINC name is among the candidates, with the demo's records."""
    named, truths = {}, {}
    there = {target.concept.partition("|")[2] for target in targets()}
    with gzip.open(DATA / "mimic3_demo/d_labitems.csv.gz", "rt") as lines:
        for row in csv.DictReader(lines):
            if row["loinc_code"] and (row["loinc_code"] in there) == known:
                named[row["itemid"]] = Name(text=row["label"], specimen=row["fluid"], category=row["category"])
                truths[row["itemid"]] = {row["loinc_code"]}
    with gzip.open(DATA / "mimic3_demo/labevents.csv.gz", "rt") as lines:
        rows = [
            (row["subject_id"], row["itemid"], row["valuenum"], row["value"], row["valueuom"])
            for row in csv.DictReader(lines)
        ]
    return _pairs(rows, named, truths)


def eicu_labs() -> _Pairs:
    """eICU's laboratory names; it has no dictionary, and its codes are the names."""
    truths = EICU | {name: set() for name in EICU_NONE}
    with gzip.open(DATA / "eicu_demo/lab_subset_pyhealth.csv.gz", "rt") as lines:
        rows = [
            (
                row["patientunitstayid"],
                row["labname"],
                row["labresult"],
                row["labresulttext"],
                row["labmeasurenamesystem"],
            )
            for row in csv.DictReader(lines)
        ]
    return _pairs(rows, {name: Name(text=name) for name in truths}, truths)


def mimic_charts() -> _Pairs:
    """MIMIC's bedside items."""
    import pyarrow.parquet as pq

    named = {}
    with gzip.open(DATA / "mimic3_demo/d_items.csv.gz", "rt") as lines:
        for row in csv.DictReader(lines):
            if row["itemid"] in CHARTS:
                named[row["itemid"]] = Name(text=row["label"], category=row["category"])
    columns = ["subject_id", "itemid", "valuenum", "value", "valueuom"]
    table = pq.read_table(
        DATA / "mimic3_demo/chartevents.parquet",
        columns=columns,
        filters=[("itemid", "in", [int(one) for one in CHARTS])],
    )
    rows = [tuple("" if cell is None else str(cell) for cell in row.values()) for row in table.to_pylist()]
    return _pairs(rows, named, CHARTS)


def _pairs(rows: list[tuple[str, ...]], named: dict[str, Name], truths: dict[str, set[str]]) -> _Pairs:
    rows = [row for row in rows if row[1] in named]
    numbers = [float(row[2]) if row[2] and row[2] != "nan" else None for row in rows]
    events = batch(
        {
            "patient": [row[0] for row in rows],
            "system": ["local"] * len(rows),
            "code": [row[1] for row in rows],
            "number": pa.array(numbers, pa.float64()),
            "value": [(row[3] or None) if number is None else None for row, number in zip(rows, numbers, strict=True)],
            "unit": [row[4] or None for row in rows],
            "row": list(range(len(rows))),
        },
        source="site",
    )
    found = {one.code: one for one in profile([events], names={f"local|{code}": name for code, name in named.items()})}
    for code, name in named.items():
        found.setdefault(
            code,
            Profile(
                system="local", code=code, name=name, count=0, patients=0, numbers=0, texts=0, units={}, quantiles={}
            ),
        )
    return [(found[code], truths[code]) for code in named]


def accepted(pairs: _Pairs) -> _Pairs:
    """The same pairs with the accept-sets above, without the dubious."""
    return [(one, ACCEPTED.get(one.code, truth)) for one, truth in pairs if one.code not in DUBIOUS]


def evidence(pairs: _Pairs, embedder: Embedder | None) -> _Evidence:
    """For each code the evidence of every candidate that is not vetoed, and which of them are right."""
    names = suggest_rank._Names([one for one, _ in pairs], targets(), embedder)
    made = []
    for row, (one, truth) in enumerate(pairs):
        rows, right, vetoed = [], [], 0
        for place, target in enumerate(targets()):
            column = int(names.best[row, place])
            fit = suggest_units.fit(
                one,
                unit=target.unit,
                kind=names.there[column].kind,
                minimum=target.minimum,
                maximum=target.maximum,
            )
            if fit.veto:
                vetoed += 1
                continue
            rows.append(suggest_rank.features(names, row, column, fit))
            right.append(target.concept.partition("|")[2] in truth)
        made.append((np.asarray(rows), np.asarray(right), vetoed))
    return made


def fitted(found: _Evidence, *, prior: float = 1.0, without: tuple[str, ...] = ()) -> np.ndarray:
    """Weights and bias by maximum likelihood, "none" being one more candidate; features named in `without` are 0."""
    from scipy.optimize import minimize

    keep = np.asarray([name not in without for name in FEATURES] + [True])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = 0.5 / prior * float(weights[:-1] @ weights[:-1]), np.append(weights[:-1] / prior, 0.0)
        for plain, right, _ in found:
            rows = np.column_stack([plain, np.ones(len(plain))]) * keep
            odds = np.exp(np.minimum(rows @ weights, 50.0))
            total = 1.0 + odds.sum()
            value += np.log(total)
            slope += odds @ rows / total
            if right.any():
                value -= np.log(odds[right].sum())
                slope -= odds[right] @ rows[right] / odds[right].sum()
            # A right answer that is vetoed leaves "none" as the right one.
        return value, slope

    # What speaks for a concept never speaks against it; and what the training sites hardly show has a floor: a code of
    # another fluid, or whose values all lie outside the plausible range, is not right for having the right name.
    bounds = [(LEAST.get(name, 0.0) * (name not in without), None) for name in FEATURES] + [(None, None)]
    start = np.append([max(1.0, LEAST.get(name, 0.0)) for name in FEATURES], -5.0) * keep
    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x * keep


def scored(found: _Evidence, weights: np.ndarray) -> dict[str, float]:
    """Top-1 and top-5 over the codes that have a right candidate, and how far the first one's score can be believed."""
    first, five, told = [], [], []
    for rows, right, _ in found:
        odds = np.exp(rows @ weights[:-1] + weights[-1])
        order = np.argsort(-odds, kind="stable")
        told.append((odds[order[0]] / (1.0 + odds.sum()), bool(right[order[0]])))
        first.append(right[order[0]])
        five.append(right[order[:5]].any())
    brier = float(np.mean([(score - hit) ** 2 for score, hit in told]))
    return {"codes": len(found), "top1": float(np.mean(first)), "top5": float(np.mean(five)), "brier": brier}


def stripped(pairs: _Pairs) -> _Pairs:
    """The same codes as a source without units and numbers would have them."""
    return [
        (dataclasses.replace(one, units={}, quantiles={}, numbers=0, texts=0, count=0), truth) for one, truth in pairs
    ]


def unknown_labs() -> _Pairs:
    """The codes of d_labitems whose LOINC name is *not* among the candidates: for these "none" is right."""
    return mimic_labs(known=False)


def measure(embedder: Embedder | None) -> dict[str, object]:
    """All figures, without or with embeddings."""
    training = eicu_labs() + mimic_charts()
    train = evidence(training + stripped(training), embedder)
    strict, tolerant = mimic_labs(), accepted(mimic_labs())
    test, test_tolerant = evidence(strict, embedder), evidence(tolerant, embedder)
    found: dict[str, object] = {"spelling of the label alone": _by_spelling(strict, tolerant)}
    fluids = [(dataclasses.replace(one, name=_with_fluid(one)), truth) for one, truth in strict]
    fluids_tolerant = [(dataclasses.replace(one, name=_with_fluid(one)), truth) for one, truth in tolerant]
    found["spelling of label and fluid"] = _by_spelling(fluids, fluids_tolerant)
    steps = {
        "lexicon": ("embedding", "specimen", "fluid", "unit", "range", "kind", "method", "other"),
        "lexicon, specimen, kind, method": ("embedding", "unit", "range"),
        "the same, units and values": ("embedding",),
    }
    if embedder:
        steps = {"lexicon and embedding": steps["lexicon"][1:], "all": ()}
    for step, without in steps.items():
        # Without units nothing is vetoed either.
        blind = "unit" in without
        parts = [stripped(pairs) if blind else pairs for pairs in (training + stripped(training), strict, tolerant)]
        here = [evidence(pairs, embedder) for pairs in parts] if blind else [train, test, test_tolerant]
        weights = fitted(here[0], prior=3.0, without=without)
        found[step] = {"strict": scored(here[1], weights), "accept-sets": scored(here[2], weights)}
    found["weights"] = dict(zip([*FEATURES, "bias"], fitted(train, prior=3.0).round(2).tolist(), strict=True))
    found["half of the test for fitting, the other for testing, 20 times"] = {
        "strict": _halves(test),
        "accept-sets": _halves(test_tolerant),
    }
    found["as shipped"] = _shipped(strict, tolerant, embedder)
    return found


def _with_fluid(one: Profile) -> Name:
    return dataclasses.replace(one.name, text=f"{one.name.text} {one.name.specimen}")


def _by_spelling(strict: _Pairs, tolerant: _Pairs) -> dict[str, dict[str, float]]:
    made = {}
    for kind, pairs in (("strict", strict), ("accept-sets", tolerant)):
        found = suggest_rank.cosines(
            [one.name.text.lower() for one, _ in pairs], [target.label.lower() for target in targets()]
        )
        ranked = [[targets()[place].concept[6:] for place in np.argsort(-row, kind="stable")[:5]] for row in found]
        made[kind] = _hits(ranked, pairs)
    return made


def _hits(ranked: list[list[str]], pairs: _Pairs) -> dict[str, float]:
    first = [bool(row and row[0] in truth) for row, (_, truth) in zip(ranked, pairs, strict=True)]
    five = [bool(set(row) & truth) for row, (_, truth) in zip(ranked, pairs, strict=True)]
    return {"codes": len(pairs), "top1": float(np.mean(first)), "top5": float(np.mean(five))}


def _halves(test: _Evidence) -> dict[str, float]:
    first, five = [], []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(test))
        half = len(test) // 2
        weights = fitted([test[place] for place in order[:half]], prior=3.0)
        got = scored([test[place] for place in order[half:]], weights)
        first.append(got["top1"])
        five.append(got["top5"])
    return {
        "top1": float(np.mean(first)),
        "top1 worst": min(first),
        "top5": float(np.mean(five)),
        "top5 worst": min(five),
    }


def _shipped(strict: _Pairs, tolerant: _Pairs, embedder: Embedder | None) -> dict[str, object]:
    made: dict[str, object] = {}
    fitted_on = [(one, truth) for one, truth in eicu_labs() + mimic_charts() if truth]
    for kind, pairs in (("strict", strict), ("accept-sets", tolerant), ("fitted on", fitted_on)):
        began = time.perf_counter()
        found = suggest_rank.suggest([one for one, _ in pairs], targets(), embedder=embedder)
        made[kind] = _hits([[one.concept[6:] for one in row.candidates] for row in found], pairs)
        made[kind]["seconds"] = time.perf_counter() - began
        made[kind]["misses"] = [
            one.code
            for row, (one, truth) in zip(found, pairs, strict=True)
            if row.candidates[0].concept[6:] not in truth
        ]
        told = [
            (row.candidates[0].score, row.candidates[0].concept[6:] in truth)
            for row, (_, truth) in zip(found, pairs, strict=True)
        ]
        for low, high in ((0.0, 0.5), (0.5, 0.8), (0.8, 1.01)):
            inside = [hit for score, hit in told if low <= score < high]
            made[kind][f"right of score {low}-{min(high, 1.0)}"] = f"{sum(inside)} of {len(inside)}"
    none = unknown_labs()
    best = [row.candidates[0].score for row in suggest_rank.suggest([one for one, _ in none], targets())]
    made["codes without a right candidate"] = {
        "codes": len(none),
        "median score": float(np.median(best)),
        "share above 0.5": float(np.mean([score > 0.5 for score in best])),
    }
    made["accepted by itself"] = 0
    return made


def main() -> None:
    folder = os.environ.get("WARDROUND_MINILM")
    embedder = MiniLm(Path(folder)) if folder else installed()
    found = {"candidates": len(targets()), "lexical": measure(None)}
    if embedder:
        found["with embeddings"] = measure(embedder)
    text = json.dumps(found, indent=1, default=float)
    print(text)
    (Path(__file__).parent / "results" / "mapping.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
