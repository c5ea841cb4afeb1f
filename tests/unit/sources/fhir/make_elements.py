"""Write the tables of FHIR R4 elements that stand in ``wardround/sources/fhir_r4_*.py``.

Not a test and not run by one. It needs ``pip install fhirclient==4.4.0`` (Apache-2.0) in an environment of its
own; the models in there were generated from the definitions of FHIR 4.0.1. ``python make_elements.py FOLDER``
writes the files into FOLDER. How a line reads is told in `wardround.sources.fhir_elements`.
"""

import importlib
import inspect
import pkgutil
import sys
from pathlib import Path

PRIMITIVES = {
    "bool": "b",
    "int": "i",
    "float": "n",
    "str": "s",
    "FHIRDate": "d",
    "FHIRDateTime": "t",
    "FHIRInstant": "I",
    "FHIRTime": "T",
}
SHORT = {
    "CodeableConcept": "C",
    "Reference": "R",
    "Identifier": "D",
    "Period": "P",
    "Quantity": "Q",
    "Coding": "G",
    "Extension": "X",
}
UNUSED = {"fhirdate", "fhirelementfactory", "metadataresource"}
LEFT_OUT = (
    "BiologicallyDerivedProduct",
    "CapabilityStatement",
    "CatalogEntry",
    "ChargeItemDefinition",
    "CompartmentDefinition",
    "Contract",
    "EffectEvidenceSynthesis",
    "ElementDefinition",
    "EventDefinition",
    "Evidence",
    "EvidenceVariable",
    "ExampleScenario",
    "GraphDefinition",
    "ImplementationGuide",
    "InsurancePlan",
    "MedicationKnowledge",
    "MedicinalProduct",
    "MessageDefinition",
    "ObservationDefinition",
    "OperationDefinition",
    "Parameters",
    "ResearchDefinition",
    "ResearchElementDefinition",
    "RiskEvidenceSynthesis",
    "SearchParameter",
    "SpecimenDefinition",
    "StructureDefinition",
    "StructureMap",
    "SubstanceAmount",
    "SubstanceNucleicAcid",
    "SubstancePolymer",
    "SubstanceProtein",
    "SubstanceReferenceInformation",
    "SubstanceSourceMaterial",
    "SubstanceSpecification",
    "TerminologyCapabilities",
    "TestReport",
    "TestScript",
    "VerificationResult",
)  # definitions and catalogues: they say nothing of a patient
WIDTH = 118
PAGES = {"a": "ABCDEFGH", "i": "IJKLMNOPQRSTUVWXYZ"}
HEAD = '''"""FHIR R4's types whose names begin with {first} to {last}, and their elements.

Written by ``tests/unit/sources/fhir/make_elements.py``; how a line reads: `wardround.sources.fhir_elements`.
"""

__all__ = ["LINES"]

LINES = """\\
'''


def models():
    package = importlib.import_module("fhirclient.models")
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.endswith("_tests") and module.name not in UNUSED:
            loaded = importlib.import_module(f"fhirclient.models.{module.name}")
            for _, kind in inspect.getmembers(loaded, inspect.isclass):
                if kind.__module__ == loaded.__name__ and getattr(kind, "resource_type", None):
                    found[kind.resource_type] = kind
    return {name: kind for name, kind in found.items() if not name.startswith(LEFT_OUT)}


def own_elements(kind):
    parent = next((base for base in kind.__mro__[1:] if getattr(base, "resource_type", None)), None)
    inherited = {entry[1] for entry in object.__new__(parent).elementProperties()} if parent else set()
    return parent, [entry for entry in object.__new__(kind).elementProperties() if entry[1] not in inherited]


def spelled(kind):
    name, (parent, elements) = kind.resource_type, own_elements(kind)
    above = {"DomainResource": "", "BackboneElement": "<", None: "<-"}.get(
        parent and parent.resource_type, f"<{parent and parent.resource_type}"
    )
    words, choices = [], {}
    for _, key, what, many, choice, _ in elements:
        type_name = what.__name__ if what.__name__ in PRIMITIVES else what.resource_type
        if choice:
            choices.setdefault(choice, []).append(key.removeprefix(choice))
        else:
            nested = type_name == name + key[0].upper() + key[1:]
            letter = "+" if nested else PRIMITIVES.get(type_name) or SHORT.get(type_name, type_name)
            words.append(f"{key}:{letter}{'*' if many else ''}")
    for choice, options in choices.items():
        words.append(f"{choice}?{'*' if len(options) > 40 else ','.join(options)}")
    return [name + above, *sorted(words)]


def table(found):
    lines = []
    for name in sorted(found):
        line = ""
        for word in spelled(found[name]):
            if line and len(line) + 1 + len(word) > WIDTH:
                lines.append(line)
                line = " "
            line += word if not line else " " + word
        lines.append(line)
    return lines


def main(folder):
    found = models()
    for page, initials in PAGES.items():
        part = {name: kind for name, kind in found.items() if name[0] in initials}
        text = HEAD.format(first=initials[0], last=initials[-1]) + "\n".join(table(part)) + '\n"""\n'
        Path(folder, f"fhir_r4_{page}.py").write_text(text, encoding="utf-8")
        print(page, len(part), "types", text.count("\n"), "lines", len(text), "characters")


main(sys.argv[1])
