"""The words of laboratory and bedside names, and what of them means the same.

A local name ("Hgb", "WBC x 1000", "Total CO2, venous") and a terminology's ("Hemoglobin [Mass/volume] in Blood") are
brought to one vocabulary: British spellings to American ones, abbreviations and synonyms to one canonical word each,
plurals to singulars. The lexicon is general clinical usage; it names no code of any system and no site's spelling.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

__all__ = ["canonical", "weight"]


def _words(*lines: str) -> Iterator[str]:
    return (word for line in lines for word in line.split(" "))


_BRITISH: Final = (
    ("haem", "hem"),
    ("anaemi", "anemi"),
    ("leuco", "leuko"),
    ("oestr", "estr"),
    ("oedem", "edem"),
    ("faec", "fec"),
    ("sulph", "sulf"),
    ("foet", "fet"),
    ("calcitriole", "calcitriol"),
    ("tumour", "tumor"),
)

# Canonical word on the left, what stands for it on the right. A phrase is matched before a word, a longer one first.
_SYNONYMS: Final = """
leukocyte: white blood cell; white cell; white blood corpuscle; wbc; wbcs; white count; leukocyte
erythrocyte: red blood cell; red cell; rbc; rbcs; red count; erythrocyte
platelet: plt; plts; thrombocyte; platelet
neutrophil: polymorphonuclear leukocyte; pmn; poly; neut; seg; segmented neutrophil; granulocyte neutrophil; neutrophil
band: stab; band form; neutrophil band; band
lymphocyte: lymph; lymphocyte
monocyte: mono; monocyte
eosinophil: eos; eosin; eosinophil
basophil: baso; basophil
reticulocyte: retic; reticulocyte
hemoglobin: hgb; hb; hemoglobin
hemoglobin a1c: hemoglobin a1c; hba1c; a1c; hgba1c; glycated hemoglobin; glycosylated hemoglobin; glycohemoglobin
hematocrit: hct; packed cell volume; pcv; crit; hematocrit
erythrocyte mean corpuscular volume: mcv; mean corpuscular volume; mean cell volume; erythrocyte mean corpuscular volume
erythrocyte mean corpuscular hemoglobin concentration: mchc; mean corpuscular hemoglobin concentration; mean cell \
hemoglobin concentration; erythrocyte mean corpuscular hemoglobin concentration
erythrocyte mean corpuscular hemoglobin: mch; mean corpuscular hemoglobin; mean cell hemoglobin; erythrocyte mean \
corpuscular hemoglobin
erythrocyte distribution width: rdw; rdw cv; rdw sd; red cell distribution width; rbc distribution width; red blood \
cell distribution width; erythrocyte distribution width
platelet mean volume: mpv; mean platelet volume; platelet mean volume
platelet distribution width: pdw; platelet distribution width
sodium: na; sodium; natrium
potassium: k; potassium; kalium
chloride: cl; chlor; chloride
calcium: ca; calcium
magnesium: mg; mag; magnesium
phosphate: po4; phos; phosphorus; phosphorous; inorganic phosphate; phosphate
bicarbonate: hco3; bicarb; bicarbonate
carbon dioxide: co2; carbon dioxide
carbon dioxide partial pressure: pco2; paco2; co2 pressure; carbon dioxide tension; carbon dioxide partial pressure
oxygen: o2; oxygen
oxygen partial pressure: po2; pao2; o2 pressure; oxygen tension; oxygen partial pressure
oxygen saturation: sao2; so2; o2 sat; o2sat; o2 saturation; oxygen sat; oxygen saturation
oxygen saturation pulse oximetry: spo2; pulse ox; pulse oximetry; pulse oxymetry; pulseox; pulseoxymetry; \
pulseoximetry; pulse oximeter
inspired oxygen fraction: fio2; inspired o2 fraction; fraction of inspired oxygen; inspired oxygen fraction; inspired \
oxygen; oxygen total gas setting; oxygen total gas
glucose: glu; gluc; blood sugar; dextrose; glucose
urea nitrogen: bun; blood urea nitrogen; urea nitrogen
creatinine: creat; crea; cr; creatinine
glomerular filtration rate: gfr; egfr; glomerular filtration rate
protein: prot; protein
albumin: alb; albumin
globulin: glob; globulin
bilirubin: bili; bilirubin
bilirubin total: tbili; tbil; bilirubin total; total bilirubin
bilirubin direct: dbili; dbil; conjugated bilirubin; bilirubin direct; direct bilirubin; bilirubin conjugated
alanine aminotransferase: alt; sgpt; gpt; alanine transaminase; alanine aminotransferase
aspartate aminotransferase: ast; sgot; got; aspartate transaminase; aspartate aminotransferase
alkaline phosphatase: alp; alk phos; alkp; alkphos; alkaline phos; alkaline phosphatase
gamma glutamyl transferase: ggt; gamma gt; gammagt; gamma glutamyltransferase; gamma glutamyl transferase
lactate dehydrogenase: ldh; ld; lactic dehydrogenase; lactate dehydrogenase
creatine kinase: ck; cpk; creatine phosphokinase; creatine kinase
creatine kinase mb: ckmb; ck mb; cpk mb; creatine kinase mb
lactate: lactic acid; lac; lactate
amylase: amyl; amylase
lipase: lip; lipase
urate: uric acid; urate
ammonia: nh3; ammonia
cholesterol: chol; cholest; cholesterol
hdl: high density lipoprotein; high density lipoprotein cholesterol; hdlc; hdl c; hdl
ldl: low density lipoprotein; low density lipoprotein cholesterol; ldlc; ldl c; ldl
vldl: very low density lipoprotein; vldlc; vldl
triglyceride: tg; trig; trigl; trigs; triacylglycerol; triglyceride
iron: fe; iron
iron binding capacity: tibc; total iron binding capacity; iron binding capacity; iron binding
ferritin: ferr; ferritin
c reactive protein: crp; c reactive protein; c reactive prot
procalcitonin: pct; procalcitonin
erythrocyte sedimentation rate: esr; sed rate; sedimentation rate; erythrocyte sedimentation rate
interleukin 6: il6; il 6; interleukin 6
natriuretic peptide b: bnp; brain natriuretic peptide; b type natriuretic peptide; natriuretic peptide b
natriuretic peptide b prohormone: ntprobnp; nt probnp; nt pro bnp; pro bnp; probnp; natriuretic peptide b prohormone n \
terminal; n terminal pro bnp
troponin i: trop i; tni; tropi; ctni; troponin i
troponin t: trop t; tnt; tropt; ctnt; troponin t
d dimer: ddimer; d dimer; fibrin d dimer
fibrinogen: fib; fibrinogen
prothrombin time: pt; pro time; protime; prothrombin time; prothrombin time pt
international normalized ratio: inr; international normalised ratio; international normalized ratio
activated partial thromboplastin time: ptt; aptt; partial thromboplastin time; activated partial thromboplastin time
thyrotropin: tsh; thyroid stimulating hormone; thyrotropic hormone; thyrotropin
thyroxine: t4; thyroxine t4; thyroxine
thyroxine free: ft4; free t4; free thyroxine; thyroxine free; thyroxine t4 free; t4 free
triiodothyronine: t3; triiodothyronine
parathyrin: pth; parathyroid hormone; parathormone; parathyrin
follitropin: fsh; follicle stimulating hormone; follitropin
lutropin: luteinizing hormone; lutropin
choriogonadotropin: hcg; human chorionic gonadotropin; choriogonadotropin
corticotropin: acth; adrenocorticotropic hormone; corticotropin
somatotropin: growth hormone; somatotropin
cobalamin: b12; vitamin b12; cobalamin
prostate specific antigen: psa; prostate specific ag; prostate specific antigen
alpha 1 fetoprotein: afp; alpha fetoprotein; alpha 1 fetoprotein
antigen: ag; antigen
antibody: ab; abs; antibody; antibodies
ketone: ketones; ketone; acetoacetate ketone
albumin urine: microalbumin; albumin urine
specific gravity: sg; sp gr; spec grav; specific gravity
leukocyte esterase: leuk esterase; le esterase; leukocyte esterase
appearance: appearance; clarity
color: colour; color
heart rate: hr; pulse rate; pulse; heartrate; heart rate
respiratory rate: rr; resp rate; breathing rate; respirations; respiration rate; respiratory rate
systolic blood pressure: sbp; bp systolic; bp sys; systolic bp; nbps; blood pressure systolic; systolic blood \
pressure; intravascular systolic
diastolic blood pressure: dbp; bp diastolic; bp dia; diastolic bp; nbpd; blood pressure diastolic; diastolic blood \
pressure; intravascular diastolic
mean blood pressure: map; mbp; bp mean; mean bp; nbpm; blood pressure mean; mean arterial pressure; mean blood pressure
blood pressure: bp; nbp; abp; blood pressure
temperature: temp; temperature
weight: wt; weight
height: ht; height; body length
body mass index: bmi; body mass index
pain: pain
positive end expiratory pressure: peep; positive end expiratory pressure
estimated: est; estimated; predicted
calculated: calc; calculation; derived; computed; calculated
measured: meas; direct assay; measured
automated: auto; automated
ionized: ionised; ionized
total: tot; total
percent: percent; pct of; mfr; vfr; percentage
ratio: ratio
presence: presence; qualitative; qual; screen
"""

_FAINT: Final = frozenset(
    _words(
        "total level count number test value result measured automated calculated method by of in and the per or with",
        "from to blood serum plasma body fluid quantitative percent functional absolute whole lab rate x 1000 reading",
        "estimated esterase specimen current pulse oximetry random plain normal",
    )
)
_TELLING: Final = frozenset(
    _words(
        "free direct indirect ionized hdl ldl vldl mb urine presence systolic diastolic mean saturation pressure ratio",
        "panel band reticulocyte",
    )
)

_ZERO_WIDTH: Final = dict.fromkeys(map(ord, "\u200b\u200c\u200d\ufeff\u00ad"))
_SPACED: Final = re.compile(r"[^a-z0-9]+")


def weight(word: str) -> float:
    """How much a canonical word says about what is measured: little where any name may have it."""
    if word in _TELLING:
        return 1.5
    if word in _FAINT or word.isdigit():
        return 0.2
    return 0.6 if len(word) == 1 else 1.0


@lru_cache(maxsize=65536)
def canonical(text: str) -> tuple[str, ...]:
    """The canonical words of a name, in order.

    >>> canonical("White blood cells")
    ('leukocyte',)
    """
    words = [_singular(word) for word in _SPACED.split(_plain(text)) if word]
    found: list[str] = []
    place = 0
    while place < len(words):
        for length in range(min(_LONGEST, len(words) - place), 0, -1):
            if meant := _PHRASES.get(tuple(words[place : place + length])):
                found += [word for word in meant if word not in found]
                place += length
                break
        else:
            if words[place] not in found:
                found.append(words[place])
            place += 1
    return tuple(found)


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKD", text.translate(_ZERO_WIDTH)).lower()
    text = "".join(character for character in text if not unicodedata.combining(character))
    text = text.replace("%", " percent ").replace("#", " number ").replace("'", "")
    for british, american in _BRITISH:
        text = text.replace(british, american)
    return text


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 5:
        return f"{word[:-3]}y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is", "os")):
        return word[:-1]
    return word


def _phrases() -> dict[tuple[str, ...], tuple[str, ...]]:
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for line in _SYNONYMS.strip().splitlines():
        meant, _, spelled = line.partition(":")
        for phrase in spelled.split(";"):
            words = tuple(_singular(word) for word in _SPACED.split(phrase.strip()) if word)
            found[words] = tuple(_singular(word) for word in meant.split())
    return found


_PHRASES: Final = _phrases()
_LONGEST: Final = max(map(len, _PHRASES))
