"""How the demo's four hospitals keep their records: FHIR, OMOP, HL7 v2 and CSV, each with its mapping of events.

Every hospital gets real patients, and writes them down in its own way, with its own codes and units; nothing but the
mapping file beside the records says what is what.
"""

import csv
import json
import secrets
import socket
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from wardround.clinical.contract import DataContract
from wardround.clinical.derivation import Derivation
from wardround.errors import UnavailableError

__all__ = ["MESSAGES", "csv_other_units", "fhir_export", "hl7_messages", "omop_database", "send"]

Rows = list[dict[str, float]]

MESSAGES: Final = "messages.hl7"
"""What the laboratory of the HL7 hospital sends, one message after another."""

_PATIENCE_SECONDS: Final = 20.0
_START: Final = datetime(2024, 1, 1, 8, tzinfo=UTC)
_SEX: Final = "patient|sex"
_OTHER_UNIT: Final = {
    "um": ("mm", 1e-3),
    "um2": ("mm2", 1e-6),
    "mg/dL": ("g/L", 1e-2),
    "mm[Hg]": ("kPa", 0.133322),
    "a": ("mo", 12.0),
}
"""For a contract's unit another one, and the factor to it."""
_SPELLED: Final = {"mg/dL": "MG/DL", "mm[Hg]": "mmHg", "/min": "beats/min"}
"""How the laboratory spells units."""


def fhir_export(contract: DataContract, rows: Rows, folder: Path) -> str:
    """A bulk export: one file of resources for each type."""
    export = folder / "export"
    export.mkdir()
    resources: dict[str, list[dict[str, object]]] = {"Patient": [], "Procedure": [], "Observation": []}
    for number, row in enumerate(rows):
        patient, when = f"p{number:05d}", _when(number).isoformat()
        subject = {"reference": f"Patient/{patient}"}
        facts = list(_facts(contract, row))
        sex = next((text for concept, text, _ in facts if concept == _SEX), "unknown")
        resources["Patient"].append({"id": patient, "gender": sex})
        index = {"id": f"{patient}-0", "status": "completed", "code": _coding(_index(contract))}
        resources["Procedure"].append({**index, "subject": subject, "performedDateTime": when})
        for place, (concept, text, unit) in enumerate(facts, start=1):
            if concept != _SEX:
                head = {"id": f"{patient}-{place}", "status": "final", "code": _coding(concept)}
                body = {"subject": subject, "effectiveDateTime": when, **_value(text, unit)}
                resources["Observation"].append({**head, **body})
    for kind, found in resources.items():
        lines = [json.dumps({"resourceType": kind, **resource}) + "\n" for resource in found]
        (export / f"{kind}.ndjson").write_text("".join(lines))
    return 'kind = "events"\n\n[[sources]]\nname = "ehr"\nkind = "fhir"\npath = "export"\n'


def omop_database(contract: DataContract, rows: Rows, folder: Path) -> str:
    """Tables of the OMOP common data model in SQLite, with a vocabulary of the hospital's own for what has no code."""
    concepts = {_index(contract): 2_000_000_001}
    for concept, _, _ in (fact for row in rows[:1] for fact in _facts(contract, row)):
        concepts.setdefault(concept, 2_000_000_001 + len(concepts))
    with sqlite3.connect(folder / "cdm.sqlite") as database:
        database.executescript(_CDM)
        database.executemany(
            "INSERT INTO concept VALUES (?, ?, ?, ?)",
            [(number, concept.rpartition("|")[2], *_vocabulary(concept)) for concept, number in concepts.items()],
        )
        entry = 0
        for number, row in enumerate(rows, start=1):
            day, moment = _when(number).strftime("%Y-%m-%d"), _when(number).strftime("%Y-%m-%d %H:%M:%S")
            sex = 8551
            for concept, text, unit in _facts(contract, row):
                entry += 1
                if concept == _SEX:
                    sex = {"male": 8507, "female": 8532}[text]
                elif unit:
                    measured = (entry, number, concepts[concept], day, moment, float(text), unit)
                    database.execute("INSERT INTO measurement VALUES (?, ?, ?, ?, ?, ?, ?)", measured)
                else:
                    observed = (entry, number, concepts[concept], day, moment, text)
                    database.execute("INSERT INTO observation VALUES (?, ?, ?, ?, ?, ?)", observed)
            database.execute("INSERT INTO person VALUES (?, ?, 1950, 1, 1)", (number, sex))
            procedure = (number, number, concepts[_index(contract)], day, moment)
            database.execute("INSERT INTO procedure_occurrence VALUES (?, ?, ?, ?, ?)", procedure)
    database.close()
    _confirm(folder, {f"omop:Demo|{_code(concept)}": concept for concept in concepts if _own(concept)})
    source = 'name = "warehouse"\nkind = "omop"\npath = "cdm.sqlite"\n'
    return f'kind = "events"\ntimezone = "UTC"\n\n[[sources]]\n{source}'


def hl7_messages(contract: DataContract, rows: Rows, folder: Path) -> str:
    """A laboratory's result messages, to be sent to the node's listener; they speak the laboratory's own codes."""
    text = []
    for number, row in enumerate(rows):
        moment = _when(number).strftime("%Y%m%d%H%M%S+0000")
        facts = list(_facts(contract, row))
        sex = next((code[0].upper() for concept, code, _ in facts if concept == _SEX), "U")
        lines = [
            f"MSH|^~\\&|LAB|DEMO|NODE|DEMO|{moment}||ORU^R01|{number:08d}|P|2.5.1",
            f"PID|1||P{number:05d}^^^DEMO^MR|||||{sex}",
            f"OBR|1|{number}^EHR|{number}^LAB|PANEL^Panel^L|||{moment}|||||||||||||||{moment}|||F",
        ]
        wanted = [(_index(contract), "1", ""), *(fact for fact in facts if fact[0] != _SEX)]
        for place, (concept, value, unit) in enumerate(wanted, start=1):
            kind = "NM" if unit else "ST"
            code = _code(concept).upper()
            lines.append(f"OBX|{place}|{kind}|{code}^{code}^L||{value}|{_SPELLED.get(unit, unit)}|||||F|||{moment}")
        text.append("\r".join(lines))
    (folder / MESSAGES).write_text("\n".join(text) + "\n", newline="")
    codes = [_index(contract), *(concept for concept, _, _ in _facts(contract, rows[0]) if concept != _SEX)]
    _confirm(folder, {f"local:LAB|{_code(concept).upper()}": concept for concept in codes})
    source = 'name = "laboratory"\nkind = "hl7v2"\nintake = "intake"\nkey = "file:intake.key"\n'
    (folder / "intake.key").write_text(secrets.token_hex(32))
    return f'kind = "events"\n\n[[sources]]\n{source}\n[listeners.laboratory]\nport = 0\n'


def csv_other_units(contract: DataContract, rows: Rows, folder: Path) -> str:
    """A spreadsheet: one line for each patient, in other units."""
    facts = [list(_facts(contract, row)) for row in rows]
    concepts = [concept for concept, _, _ in facts[0]]
    with (folder / "export.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["case", "seen", "procedure", *(_code(concept) for concept in concepts)])
        for number, row in enumerate(facts):
            writer.writerow([f"C{number}", _when(number).strftime("%Y-%m-%d %H:%M:%S"), "1", *map(_otherwise, row)])
    columns = [_wide("procedure", _index(contract), "1")]
    for concept, _, unit in facts[0]:
        columns.append(_wide(_code(concept), concept, _OTHER_UNIT.get(unit, (unit, 1.0))[0]))
    head = 'name = "sheet"\nkind = "csv"\ndelimiter = ";"\n'
    events = '\n[[sources.events]]\npath = "export.csv"\npatient = "case"\ntime = "seen"\n'
    return f'kind = "events"\ntimezone = "Europe/Zurich"\n\n[[sources]]\n{head}{events}{"".join(columns)}'


def send(messages: Path, port: int) -> None:
    """Send a laboratory's messages to a listener on this machine, each after the last one's acknowledgement.

    Raises:
        UnavailableError: The listener did not take one in.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_SECONDS) as connection:
        answers = connection.makefile("rb")
        for message in _messages(messages):
            connection.sendall(b"\x0b" + message + b"\x1c\r")
            answer = b""
            while not answer.endswith(b"\x1c\r"):
                byte = answers.read(1)
                if not byte:
                    raise UnavailableError("the laboratory's listener closed the connection")
                answer += byte
            if b"MSA|AA|" not in answer:
                raise UnavailableError("the laboratory's listener refused a message")


def _messages(path: Path) -> list[bytes]:
    return [message for message in path.read_bytes().split(b"\n") if message]


def _facts(contract: DataContract, row: dict[str, float]) -> Iterator[tuple[str, str, str]]:
    """For each column a concept, the value as a text, and the unit; empty where the value is a code."""
    label = contract.label
    derived = [(column.name, column.derive, column.unit, column.kind) for column in contract.columns]
    derived.append((label.name, label.derive, "1", "boolean"))
    if contract.holdout_column:
        derived.append((contract.holdout_column, contract.holdout_derive, "1", "boolean"))
    for name, derive, unit, kind in derived:
        concept = derive.concepts[0] if derive else ""
        value = row[name]
        if kind == "number":
            yield concept, repr(value), unit
        else:
            yield concept, _meant(derive, str(int(value))), ""


def _meant(derive: Derivation | None, text: str) -> str:
    codes = derive.codes if derive else {}
    return next((code for code, meaning in codes.items() if meaning == text), text)


def _otherwise(fact: tuple[str, str, str]) -> str:
    _, text, unit = fact
    return repr(float(text) * _OTHER_UNIT[unit][1]) if unit in _OTHER_UNIT else text


def _wide(column: str, concept: str, unit: str) -> str:
    sexes = 'values = { male = "male", female = "female" }\n' if concept == _SEX else ""
    meaning = f'unit = "{unit}"\n' if unit else sexes or "text = true\n"
    return f'[[sources.events.columns]]\nfrom = "{column}"\ncode = "{concept}"\n{meaning}'


def _index(contract: DataContract) -> str:
    return contract.cohort.index[0] if contract.cohort else ""


def _code(concept: str) -> str:
    return concept.rpartition("|")[2]


def _own(concept: str) -> bool:
    return not concept.startswith(("loinc|", "snomed|", "patient|"))


def _coding(concept: str) -> dict[str, object]:
    system, _, code = concept.rpartition("|")
    uris = {"loinc": "http://loinc.org", "snomed": "http://snomed.info/sct"}
    return {"coding": [{"system": uris.get(system, system), "code": code}]}


def _vocabulary(concept: str) -> tuple[str, str]:
    known = {"loinc": "LOINC", "snomed": "SNOMED"}
    return known.get(concept.partition("|")[0], "Demo"), _code(concept)


def _when(number: int) -> datetime:
    return _START + timedelta(hours=7 * number)


def _value(text: str, unit: str) -> dict[str, object]:
    if not unit:
        return {"valueString": text}
    return {"valueQuantity": {"value": float(text), "system": "http://unitsofmeasure.org", "code": unit}}


def _confirm(folder: Path, codes: dict[str, str]) -> None:
    lines = [
        f'"{local}" = {{ to = "{concept}", by = "hand", confirmed_by = "demo steward", at = 2026-01-01 }}'
        for local, concept in codes.items()
    ]
    (folder / "codes.toml").write_text("[codes]\n" + "\n".join(lines) + "\n")


_CDM: Final = """
CREATE TABLE concept (concept_id INTEGER PRIMARY KEY, concept_name TEXT, vocabulary_id TEXT, concept_code TEXT);
CREATE TABLE person (person_id INTEGER PRIMARY KEY, gender_concept_id INTEGER, year_of_birth INTEGER,
  month_of_birth INTEGER, day_of_birth INTEGER);
CREATE TABLE measurement (measurement_id INTEGER PRIMARY KEY, person_id INTEGER, measurement_concept_id INTEGER,
  measurement_date TEXT, measurement_datetime TEXT, value_as_number REAL, unit_source_value TEXT);
CREATE TABLE observation (observation_id INTEGER PRIMARY KEY, person_id INTEGER, observation_concept_id INTEGER,
  observation_date TEXT, observation_datetime TEXT, value_as_string TEXT);
CREATE TABLE procedure_occurrence (procedure_occurrence_id INTEGER PRIMARY KEY, person_id INTEGER,
  procedure_concept_id INTEGER, procedure_date TEXT, procedure_datetime TEXT);
"""
