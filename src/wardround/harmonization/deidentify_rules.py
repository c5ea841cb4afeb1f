"""What looks like an identifier, whoever's it is: dates, telephones, addresses, numbers, titles followed by names.

Each rule is a regular expression whose repetitions are bounded and cannot match one text in two ways, so that a hostile
note of n characters costs a small multiple of n steps.

References:
    45 CFR 164.514(b)(2)(i), the eighteen identifiers of the Safe Harbor method. Years, and ages up to 89, may stay.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final

__all__ = ["TAGS", "Span", "spans"]

Span = tuple[int, int, str]
"""Where it starts, where it ends, and its tag."""

TAGS: Final = ("NAME", "ID", "PHONE", "EMAIL", "URL", "IP", "DATE", "AGE", "ADDRESS", "PLACE", "HOSPITAL")

_Finder = Callable[[re.Match[str]], tuple[int, int] | None]

_MONTH: Final = (
    r"(?:jan(?:uary|uar|vier|uari)?|feb(?:ruary|ruar|ruari)?|f[ée]v(?:rier)?|mar(?:ch|s|zo|t)?|m[äa]rz|maart"
    r"|apr(?:il|ile)?|avr(?:il)?|abril|may|mai|mei|mayo|maggio|jun[ei]?|juin|junio|jul[iy]?|juil(?:let)?|julio|luglio|giugno"
    r"|aug(?:ust|ustus)?|ao[uû]t|agosto|sep(?:t|tember|tembre)?|septiembre|settembre|oct(?:ober|obre|ubre)?|okt(?:ober)?"
    r"|ottobre|nov(?:ember|embre|iembre)?|dec(?:ember)?|d[ée]c(?:embre)?|dez(?:ember)?|dic(?:iembre|embre)?|enero|gennaio"
    r"|febrero|febbraio)"
)
_ORDINAL: Final = (
    r"(?:(?:twenty|thirty)?[- ]?(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth)|tenth|eleventh|twelfth"
    r"|(?:thir|four|fif|six|seven|eigh|nine)teenth|twentieth|thirtieth)"
)
_DAY: Final = rf"(?:\d{{1,2}}(?:st|nd|rd|th|er|\.|º)?|{_ORDINAL})"
_GAP: Final = r"[\s,./'’\-]{0,3}"
_YEAR: Final = r"(?:1[89]|20|21)\d\d"
_CAP: Final = r"[A-ZÀ-ÖØ-ÞĀĆČĎĐĘĚĞĢĪĶĹŁŃŇŐŘŚŞŠŤŪŮŰŹŻŽ][\w'’\-]{0,40}"
_NOT_NAMES_TEXT: Final = """
Practitioner Manager Aware Notified Of The And Or In On At To By For With From Was Is Has Had No Not
Cardiology Radiology Surgery Medicine Oncology Neurology Nephrology Pathology Psychiatry Urology Anesthesia Nursing
Physical Occupational Respiratory Social Speech Wound Infectious Pain Palliative Emergency Team Service Dept Department
GI ID PT OT ED ER ICU OB ENT EMS History Present Presents Denies Reports Report Unknown None Patient Name Signature Date
Time Dr Mr Mrs Ms Miss Prof
"""
_NOT_NAMES: Final = rf"(?!(?:{'|'.join(_NOT_NAMES_TEXT.split())})\b)"
_PARTICLES: Final = r"(?:(?:van|von|de|der|den|la|del|di|da|al|bin|y)[ \t]{1,2}){0,2}"
_NAMES: Final = (
    rf"{_PARTICLES}{_NOT_NAMES}(?:{_CAP}|[A-Z]\.)"
    rf"(?:(?:,[ \t]{{0,2}}|[ \t]{{1,2}}){_PARTICLES}{_NOT_NAMES}(?:{_CAP}|[A-Z]\.)){{0,3}}"
)
_STREET: Final = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Drive|Dr|Lane|Ln|Boulevard|Blvd|Court|Ct|Way|Place|Pl|Terrace|Ter|Highway|Hwy|Circle"
    r"|Cir|Parkway|Pkwy|Square|Sq|STREET|ST|AVENUE|AVE|ROAD|RD|DRIVE|DR|LANE|LN|BLVD|COURT|HIGHWAY|HWY|CIRCLE|TERRACE)"
)
_STATE: Final = (
    r"(?:A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|RI|S[CD]|T[NX]|UT|V[AT]"
    r"|W[AIVY])"
)
_HOUSE: Final = (
    r"(?:Hospitals?|Clinic|Medical Cent(?:er|re)|Health Center|Healthcare|Infirmary|Hospice|Nursing Home"
    r"|Family Practice|Surgery Center|Rehabilitation Center|Klinikum|Krankenhaus|HOSPITAL|CLINIC|MEDICAL CENTER"
    r"|INFIRMARY)"
)
_ID_LABEL: Final = (
    r"(?:mrn|m\.?r\.?[ ]?(?:no|number|#)|med(?:ical)?[ ]rec(?:ord)?|acct|account|accession|specimen|policy|member"
    r"|subscriber|insurance|ssn|npi|dea|passport|nhs|nhi|licen[cs]e|serial|vin|patient[ ]id|pat[ ]?id|hospital[ ]no"
    r"|case[ ]no|id[ ]no|csn)"
)
_WEAK_LABEL: Final = r"(?:record|chart|patient|visit|case|encounter|hospital|device|unit|file|id)"


def _whole(found: re.Match[str]) -> tuple[int, int]:
    return found.span()


def _group(found: re.Match[str]) -> tuple[int, int]:
    return found.span(1)


def _with_digit(found: re.Match[str]) -> tuple[int, int] | None:
    return found.span(1) if any(sign.isdigit() for sign in found[1]) else None


def _old(found: re.Match[str]) -> tuple[int, int] | None:
    return found.span(1) if 89 < int(found[1]) < 140 else None


def _long(found: re.Match[str]) -> tuple[int, int] | None:
    # From one year to another is no number.
    if re.fullmatch(r"(?:19|20)\d\d-(?:19|20)\d\d", found[0]):
        return None
    return found.span() if sum(sign.isdigit() for sign in found[0]) >= 7 else None


def _dated(found: re.Match[str]) -> tuple[int, int] | None:
    # "of the 12 may benefit" and "vision 20/20. May need" hold no date.
    return None if re.search(r"(?:\smay|\.\s+May)\s*$", found[0]) else found.span()


def _rule(tag: str, pattern: str, finder: _Finder = _whole) -> tuple[str, re.Pattern[str], _Finder]:
    return tag, re.compile(pattern), finder


_RULES: Final = (
    _rule("EMAIL", r"[\w.%+\-]{1,64}@[A-Za-z0-9\-.]{1,190}"),
    _rule("URL", r"(?i)\b(?:https?://|ftp://|www\.)[^\s<>\"']{1,500}"),
    _rule("URL", r"(?i)\b[a-z0-9\-]{1,63}\.(?:com|org|net|edu|gov|health|hospital)\b(?:/[^\s<>\"']{0,300})?"),
    _rule("IP", r"(?<![\d.])\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\d.]\d)"),
    _rule("IP", r"(?<![\w:])(?:[0-9a-fA-F]{1,4}:){3,7}(?::|[0-9a-fA-F]{1,4})"),
    # Dates
    _rule("DATE", r"(?<!\d)\d{1,2}([./\-])\d{1,2}\1(?:\d{4}|\d\d)(?!\d)"),
    _rule("DATE", rf"(?<!\d){_YEAR}([./\-])\d{{1,2}}\1\d{{1,2}}(?!\d)"),
    _rule("DATE", rf"(?<!\d)\d{{1,2}}[ ]\d{{1,2}}[ ]{_YEAR}(?!\d)"),
    _rule("DATE", rf"(?<!\d){_YEAR}[ ]\d{{1,2}}[ ]\d{{1,2}}(?!\d)"),
    _rule("DATE", rf"(?<![\d/.])\d{{1,2}}[/.\-]{_YEAR}(?!\d)"),
    _rule(
        "DATE",
        r"(?i)\b(?:on|since|until|dated|date|dob|born|d\.o\.b\.)[\s:]{1,3}(\d{1,2}[/.\-]\d{1,2})"
        r"(?![\d/])",
        _group,
    ),
    _rule(
        "DATE",
        rf"(?i)(?<!\w){_DAY}{_GAP}(?:of\s|de\s)?{_MONTH}(?![^\W\d_]){_GAP}(?:(?:of|de)\s)?(?:{_YEAR}|"
        r"\d\d(?!\d))?",
        _dated,
    ),
    _rule(
        "DATE",
        rf"(?<!\w)(?!may\b)(?i:{_MONTH})(?![^\W\d_]){_GAP}(?i:the\s)?(?i:{_DAY})(?!\w){_GAP}(?:{_YEAR})"
        r"?",
    ),
    _rule("DATE", rf"(?i)(?<!\w){_MONTH}(?![^\W\d_]){_GAP}(?:of\s|de\s)?(?:{_YEAR}|['’]\d\d)(?!\d)"),
    _rule(
        "DATE",
        rf"\b(?:in|since|last|next|until|of|early|late|mid)[\s\-](?=[A-Z])((?i:{_MONTH}))(?!\w)",
        _group,
    ),
    _rule("DATE", rf"(?i)(?<!\d){_YEAR}{_GAP}{_MONTH}(?![^\W\d_]){_GAP}(?:{_DAY})?"),
    _rule("DATE", rf"(?i)\bborn\s(?:in\s)?({_YEAR})", _group),
    # Ages above 89
    _rule(
        "AGE",
        r"(?i)(?<![\d.])(\d{2,3})(?=[\s\-]{0,2}(?:y(?:ea)?rs?\b|year|y[/.]?o|jahre|ans\b|años)"
        r")",
        _old,
    ),
    _rule("AGE", r"(?i)\bage[d]?(?:\sof)?[\s:=]{1,3}(\d{2,3})(?![\d.])", _old),
    _rule("AGE", r"(?i)(?<!\d)(?:9|10|11)0'?s\b(?=(?:,|\.|\s|$))"),
    _rule("AGE", r"(?i)\b(?:nonagenarian|(?:super)?centenarian|ninety(?:[\s\-][a-z]{3,5})?(?=[\s\-]year))"),
    # Numbers
    _rule("ID", r"(?<!\w)(?:\d{3}|[xX*]{3})[ \-.](?:\d\d|[xX*]{2})[ \-.]\d{4}(?!\w)"),
    _rule("ID", r"(?i)\b(?:last[ ](?:four|4)|ending(?:[ ]in)?)[^\d\n]{0,16}(\d{4})(?!\d)", _group),
    _rule(
        "ID",
        r"(?i)(?<!\w)[1-9][ac-hj-np-rt-y][ac-hj-np-rt-y\d]\d-?[ac-hj-np-rt-y][ac-hj-np-rt-y\d]\d-?[ac-hj-np-rt-y]"
        r"{2}\d\d(?!\w)",
    ),
    _rule("ID", r"(?<![\d.])\d(?:-?\d){5,60}", _long),
    _rule("ID", r"(?<!\w)[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}(?!\w)"),
    _rule(
        "ID",
        rf"(?i)\b{_ID_LABEL}\b[ ]?(?:no|num|number|nr|id|\#)?[.:\#=\s]{{0,4}}([a-z0-9][\w\-/.]{{0,40}})",
        _with_digit,
    ),
    _rule(
        "ID",
        rf"(?i)\b{_WEAK_LABEL}[ ]?(?:no\.|num\b|number|nr\b|id\b|\#|:)[.:\#=\s]{{0,4}}([a-z0-9][\w\-/.]{{0,40}}"
        r")",
        _with_digit,
    ),
    # Telephones
    _rule(
        "PHONE",
        r"(?<![\d.\-])(?:\+?1[\-. ]?)?(?:\(\d{3}\)[\-. ]{0,2}|\d{3}[\-. ])\d{3}[\-. ]\d{4}(?!\d)"
        r"(?:[ ]?(?:x|ext\.?)[ ]?\d{1,6})?",
    ),
    _rule("PHONE", r"\+\d{1,3}(?:[ .\-()]{1,2}\d{1,8}){1,6}"),
    _rule("PHONE", r"(?<![\d.])\(?0\d{2,4}\)?[ \-/]\d{3,4}[ \-]?\d{3,5}(?!\d)"),
    _rule(
        "PHONE",
        r"(?i)\b(?:phone|tel|telephone|fax|cell|mobile|pager|beeper|ph|ext)\b[.:\#\s]{0,4}([+(\d][\d\s().\-]"
        r"{2,24}\d)",
        _group,
    ),
    # Places
    _rule(
        "ADDRESS",
        rf"(?<!\w)\d{{1,6}}[A-Za-z]?,?[ ]{{1,2}}(?:[NSEW]\.?[ ])?(?:{_CAP}[ ]{{1,2}}){{1,4}}{_STREET}(?!\w)"
        r"\.?",
    ),
    _rule("ADDRESS", r"(?i)\bp\.?[ ]?o\.?[ ]?box[ ]{0,2}\d{1,8}"),
    _rule(
        "ADDRESS",
        rf"(?<!\w)(?:(?:{_CAP}[ ]){{0,2}}{_CAP},?[ ]{{1,2}})?{_STATE},?[ ]{{1,2}}\d{{5}}(?:-\d{{4}})"
        r"?(?!\d)",
    ),
    _rule("ADDRESS", r"(?<![\d\-])\d{5}-\d{4}(?![\d\-])"),
    _rule("ADDRESS", r"(?i)\b(?:apt|apartment|suite|ste)\b[. \#]{0,3}(\d{1,5}(?:-?[a-z])?)(?!\w)", _group),
    _rule(
        "HOSPITAL",
        rf"(?<!\w)(?!(?:Brief|BRIEF|In|The|This|Our)[ ])(?:St\.?[ ])?(?:{_CAP}[ ]){{1,5}}{_HOUSE}(?!\w)"
        r"(?![ ](?:Course|COURSE|Day|Stay))",
    ),
    # Names, by what stands before or after them
    _rule(
        "NAME",
        r"(?<!\w)(?:(?:Dr|Mr|Mrs|Ms|Miss|Mx|Prof|Drs|Messrs|MRS)\.?|DR\.|MR\.|MS\.|Doctor|Professor|"
        rf"Nurse|Sister|Herr|Frau|Mme|Madame|Monsieur)[ \t]{{1,3}}({_NAMES})",
        _group,
    ),
    _rule(
        "NAME",
        r"(?<!\w)(?i:attending|physician|provider|surgeon|patient(?:[ ]name)?|name|pcp|nurse|"
        r"author|dictated[ ]by|signed[ ]by|seen[ ]by|cc|contact|guardian|next[ ]of[ ]kin|referred[ ]by)"
        rf"[ ]?:[ \t]{{0,3}}({_NAMES})",
        _group,
    ),
    _rule(
        "NAME",
        r"(?<!\w)(?i:signed|dictated|transcribed|seen|examined|reviewed|performed|referred|"
        rf"approved|verified|ordered|assisted)[ ]by[ ]({_NAMES})",
        _group,
    ),
    _rule("NAME", rf"(?<!\w)Dear[ ](?:(?:Dr|Mr|Mrs|Ms|Prof)\.?[ ])?({_NAMES})", _group),
    _rule(
        "NAME",
        r"(?<!\w)(?:wife|husband|spouse|partner|son|daughter|mother|father|brother|sister|aunt|"
        r"uncle|niece|nephew|friend|neighbou?r|girlfriend|boyfriend|grandson|granddaughter)"
        rf"(?:,|[ ]is|[ ]named)?[ ]({_NOT_NAMES}{_CAP}(?:[ ]{_CAP}){{0,2}})",
        _group,
    ),
    _rule(
        "NAME",
        rf"(?<!\w)({_NAMES})(?=,?[ ](?:MD|M\.D\.|DO|D\.O\.|RN|R\.N\.|NP|PA-C|PhD|LPN|FNP|MBBS|"
        r"FRCS|FRCP|PharmD)(?!\w))",
        _group,
    ),
)


def spans(text: str) -> Iterator[Span]:
    """Every place where a rule applies; they may overlap."""
    for tag, pattern, finder in _RULES:
        for found in pattern.finditer(text):
            if (place := finder(found)) is not None:
                start, end = place
                yield start, start + len(text[start:end].rstrip()), tag
