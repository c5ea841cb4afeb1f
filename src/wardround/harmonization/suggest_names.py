"""The parts of a measurement's name: what is measured, in which specimen, as which kind of quantity, by which method.

LOINC's long names have them in a fixed form, ``Analyte [Kind] in Specimen by Method``, its short names as suffixes
(``SerPl-mCnc``); what a hospital writes has some of them, in any order. Both are read into the same parts, and what a
name does not say is empty: it then speaks neither for nor against a candidate.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from wardround.harmonization.suggest_words import canonical, weight

__all__ = ["COUNT_METHOD", "Parts", "agreement", "is_other_fluid", "overlap", "read"]

COUNT_METHOD: Final = "automated count"
"""The method that a blood count has nearly everywhere, and that is rarely said."""

_KINDS: Final = {
    "mass/volume": "mass concentration",
    "moles/volume": "substance concentration",
    "enzymatic activity/volume": "activity concentration",
    "catalytic activity/volume": "activity concentration",
    "units/volume": "activity concentration",
    "#/volume": "number concentration",
    "entitic volume": "volume",
    "entitic mass": "mass",
    "volume fraction": "ratio",
    "mass fraction": "ratio",
    "pure mass fraction": "ratio",
    "mole fraction": "ratio",
    "number fraction": "ratio",
    "ratio": "ratio",
    "mass ratio": "ratio",
    "partial pressure": "pressure",
    "presence": "presence",
    "type": "presence",
    "class": "presence",
    "score": "ratio",
}
_SHORT_KINDS: Final = {
    "mcnc": "mass concentration",
    "scnc": "substance concentration",
    "ccnc": "activity concentration",
    "acnc": "activity concentration",
    "ncnc": "number concentration",
    "mfr": "ratio",
    "vfr": "ratio",
    "nfr": "ratio",
    "mrto": "ratio",
    "prthr": "presence",
    "entvol": "volume",
    "entmass": "mass",
}
_SPECIMENS: Final = (
    ("cord", r"cord blood"),
    ("csf", r"csf|cerebral spinal fluid|cerebrospinal|spinal fluid"),
    ("urine", r"urine|urinary|urin|ur|ua|dipstick"),
    ("ascites", r"ascite\w*|ascitic|peritoneal|perit"),
    ("pleural", r"pleural|plr"),
    ("synovial", r"synovial|joint( fluid)?"),
    ("marrow", r"bone marrow|marrow|mar"),
    ("stool", r"stool|feces|faeces|fecal"),
    ("fluid", r"(other )?body fluid|other fluid"),
    ("respiratory", r"sputum|respiratory specimen|bronchial|bal"),
    ("gas", r"exhaled|inhaled|exhaled gas"),
    ("arterial", r"arterial( blood)?|art|blda|abg"),
    ("venous", r"venous( blood)?|bldv|vbg"),
    ("capillary", r"capillary( blood)?|bldc|fingerstick|bedside|poc"),
    ("whole blood", r"whole blood|blood gas|bld"),
    ("serum", r"serum(,? plasma)?( or plasma| or blood)?|plasma|serpl|ser|plas|platelet poor plasma|ppp"),
    ("blood", r"blood"),
)
_SPECIMEN_FORMS: Final = tuple((name, re.compile(rf"\b(?:{form})\b")) for name, form in _SPECIMENS)
_BLOODS: Final = frozenset({"arterial", "venous", "capillary", "whole blood", "serum", "blood"})
_MODIFIERS: Final = frozenset(
    ("free", "direct", "indirect", "ionized", "index", "cast", "crystal", "clump", "smear", "atypical", "immature")
)
_CHEMISTRY: Final = frozenset({"mass concentration", "substance concentration", "activity concentration"})
_METHODS: Final = tuple(
    (name, re.compile(rf"\b(?:{form})\b"))
    for name, form in (
        ("test strip", r"test strip|dipstick|strip"),
        (COUNT_METHOD, r"automated count|auto(mated)?( count| diff\w*)?"),
        ("manual count", r"manual( count| diff\w*)?"),
        ("calculated", r"calc|calculat(ed|ion)|predicted|estimated"),
        ("measured", r"direct assay|direct method|measured"),
        ("microscopy", r"microscopy|microscopic|smear"),
        ("pulse oximetry", r"pulse ?-?ox\w*|spo2"),
        ("high sensitivity", r"high sensitivity( method)?|hs"),
        ("immune", r"immunoassay|immune stain|rapid immunoassay"),
        ("molecular", r"naa|pcr|probe"),
    )
)
_LONG: Final = re.compile(r"^(?P<analyte>.*?)\s*\[(?P<kind>[^\]]*)\](?P<rest>.*)$")
_OF: Final = re.compile(
    r"^(?P<analyte>[^,]*?)\s+(?:in|of)\s+(?P<rest>(?:serum|plasma|platelet poor|blood|urine|arterial|venous).*)$"
)
_BY: Final = re.compile(r"\bby [a-z]")
_PER: Final = re.compile(r"/ ?(?:100 \w+|hemoglobin\.total\b.*)")
_FRACTION: Final = re.compile(r"/ ?(?:100|total|hemoglobin)|percent|%|\bratio\b|saturation")
_WHOLE: Final = re.compile(
    r"\b(panel|narrative|note|document|summary|history|questionnaire|report|section|study|physical findings|reported|"
    r"status|score|survey|screening|plan of care|hold|image|scale|alarm|limit|goal|set)\b"
)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a name says; see the module.

    Attributes:
        words: Canonical words of what is measured.
        text: The same as it is written.
        specimen: One of a dozen, or empty.
        kind: A dimension as `wardround.harmonization.suggest_units` has them, "presence", or empty.
        methods: What is said of how.
        others: Words that make it another thing than the same name without them: a panel, a note, an alarm's limit,
            the free or direct part.
    """

    words: frozenset[str]
    text: str = ""
    specimen: str = ""
    kind: str = ""
    methods: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()

    @property
    def is_blood(self) -> bool:
        """Whether the specimen is blood, or a part of it."""
        return self.specimen in _BLOODS


@lru_cache(maxsize=65536)
def read(text: str, specimen: str = "", category: str = "") -> Parts:
    """The parts of a name, with what the source's dictionary says besides.

    A blood gas analyser measures whole blood, so a category that says so makes "blood" whole blood.
    """
    flat = re.sub(r"\s+", " ", text.translate(_INVISIBLE)).strip().lower()
    analyte, kind, rest = _split(flat)
    said = f"{rest} | {analyte}" if rest else analyte
    methods = frozenset(name for name, form in _METHODS if form.search(flat))
    if not methods and _BY.search(rest):
        methods = frozenset({"another"})
    found = _specimen(said)
    if found == "blood" and rest:
        found = "whole blood"
    # "Blood urea nitrogen" and "blood pressure" are no specimens; a name that is nothing else is none either.
    if found == "blood" and not rest and not re.search(r"\bin blood\b", said):
        found = ""
    told = _specimen(specimen.lower())
    if found in {"", "blood", "fluid"} and told:
        found = told
    if found in {"", "blood"} and "gas" in category.lower():
        found = "whole blood"
    words = canonical(_PER.sub(" ", analyte)) or canonical(flat)
    if kind == "pressure":
        words = (*words, "partial", "pressure")
    if "blood" in words and found in {"urine", "stool"}:
        words = (*(word for word in words if word != "blood"), "hemoglobin")
    others = frozenset(_WHOLE.findall(flat)) | (_MODIFIERS & frozenset(words))
    return Parts(frozenset(words), analyte, found, kind, methods, others)


def agreement(here: Parts, there: Parts) -> float:
    """How far two specimens agree, from -0.5 to 1: the same, or parts of the blood; 0 where one is not said."""
    if not there.specimen:
        return 0.0
    if not here.specimen:
        # A laboratory that does not say means blood.
        return _bloods("blood", there.specimen, there.kind) / 2 if there.is_blood else -0.25
    if here.specimen == there.specimen:
        return 1.0
    return _bloods(here.specimen, there.specimen, there.kind) if here.is_blood and there.is_blood else 0.0


def is_other_fluid(here: Parts, there: Parts) -> bool:
    """Whether the two are said to come from different fluids; blood and its parts are one."""
    if not here.specimen or not there.specimen or here.specimen == there.specimen:
        return False
    if here.is_blood and there.is_blood:
        return False
    # "Body fluid" is any of them, but no blood and no urine.
    return "fluid" not in {here.specimen, there.specimen} or bool({here.specimen, there.specimen} & {*_BLOODS, "urine"})


def overlap(here: Parts, there: Parts) -> float:
    """The weighted share of words in common, from 0 to 1 (the harmonic mean of both directions)."""
    common = sum(weight(word) for word in here.words & there.words)
    if not common:
        return 0.0
    return 2 * common / (sum(map(weight, here.words)) + sum(map(weight, there.words)))


def _bloods(here: str, there: str, kind: str) -> float:
    if here != "blood":
        return 0.0 if there == "blood" else -0.5
    # Chemistry of "blood" is measured in its serum or plasma; its cells and their hemoglobin in the whole of it.
    return 0.75 if there == ("serum" if kind in _CHEMISTRY else "whole blood") else 0.0


def _split(flat: str) -> tuple[str, str, str]:
    if long := _LONG.match(flat):
        kind = _KINDS.get(long["kind"].strip(), "")
        return long["analyte"], kind or ("ratio" if _FRACTION.search(long["analyte"]) else ""), long["rest"]
    short = {part: _SHORT_KINDS[part] for part in re.split(r"[^a-z]+", flat) if part in _SHORT_KINDS}
    if short:
        analyte = re.sub(rf"\b(?:{'|'.join([*short, 'serpl', 'ser', 'plas', 'bld', 'ur'])})\b", " ", flat)
        return analyte, next(iter(short.values())), flat
    if named := _OF.match(flat):
        return named["analyte"], "ratio" if _FRACTION.search(named["analyte"]) else "", f"in {named['rest']}"
    return flat, "ratio" if _FRACTION.search(flat) else "", ""


def _specimen(text: str) -> str:
    return next((name for name, form in _SPECIMEN_FORMS if form.search(text)), "")


_INVISIBLE: Final = dict.fromkeys(map(ord, "\u200b\u200c\u200d\ufeff\u00ad"))
