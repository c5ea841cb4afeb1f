"""Which code serves which need: by dictionary, and just as if every prefix were tried."""

from time import perf_counter

from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.clinical.derivation import Derivation, Window
from wardround.harmonization import needs as module
from wardround.harmonization.events import LONGEST_PREFIX, PATIENT, Scope
from wardround.harmonization.needs import UNWANTED, Atoms, Need, quantities

EVER = Window(from_days=None, to_days=None)
SYSTEMS = st.sampled_from(["icd", "local:lab", PATIENT])
SHORT = st.text(alphabet="AB.é", max_size=4)
LONG = st.integers(LONGEST_PREFIX - 2, LONGEST_PREFIX + 3).map(lambda length: "A" * length)
CODES = SHORT | LONG
PAIRS = st.tuples(SYSTEMS, CODES)
CONCEPTS = st.builds(lambda pair, star: f"{pair[0]}|{pair[1]}{star}", PAIRS, st.sampled_from(["", "*"]))
TRANSLATIONS = st.dictionaries(PAIRS, PAIRS, max_size=3)


def need_of(concepts):
    derive = Derivation(concepts=tuple(concepts), window=EVER, aggregate="exists")
    return Need(name="x", role="column", derive=derive, concepts=tuple(concepts), kind="boolean")


def is_meant(concept, system, code):
    of, _, pattern = concept.partition("|")
    start = pattern.removesuffix("*")
    is_prefix = pattern.endswith("*") and len(start) <= LONGEST_PREFIX
    return of == system and (pattern == code or (is_prefix and code.startswith(start)))


def serves(wanted, translations, system, code):
    named = [(system, code), *filter(None, [translations.get((system, code))])]
    return {
        place
        for place, need in enumerate(quantities(wanted)[0])
        if any(is_meant(concept, *one) for concept in need.concepts for one in named)
    }


@given(st.lists(st.lists(CONCEPTS, min_size=1, max_size=4), max_size=4), TRANSLATIONS, st.lists(PAIRS, max_size=8))
def test_an_atom_serves_what_the_definition_says(concepts, translations, asked):
    wanted = tuple(need_of(some) for some in concepts)
    atoms = Atoms(wanted, translations)
    for system, code in [*asked, *translations, *asked]:
        atom = atoms.of(system, code)
        assert atoms.served[atom] == serves(wanted, translations, system, code)
        assert (atom == UNWANTED) == (not atoms.served[atom])
    assert len(set(atoms.served)) == len(atoms.served)
    assert all(atoms.of(*code) == atom != UNWANTED for code, atom in atoms.codes().items())


@given(st.lists(st.lists(CONCEPTS, min_size=1, max_size=4), max_size=4), TRANSLATIONS, st.lists(PAIRS, max_size=8))
def test_a_scope_wants_what_has_an_atom_and_is_the_same_however_much_was_read(concepts, translations, asked):
    atoms = Atoms(tuple(need_of(some) for some in concepts), translations)
    scope = atoms.scope()
    for system, code in [*asked, *translations]:
        assert scope.wants(system, code) or atoms.of(system, code) == UNWANTED
    assert atoms.scope() == scope


@given(st.frozensets(CODES | CODES.map("{}*".format), max_size=6), CODES, st.booleans())
def test_a_scope_wants_what_the_definition_says(codes, code, is_other):
    scope = Scope(codes={"icd": codes})
    wanted = any(is_meant(f"icd|{one}", "icd", code) for one in codes)
    assert scope.wants("other" if is_other else "icd", code) == (wanted and not is_other)
    assert scope.wants(PATIENT, code)


@settings(max_examples=20)
@given(st.lists(PAIRS, min_size=1, max_size=12, unique=True))
def test_a_code_that_was_forgotten_has_the_same_atom(asked):
    atoms = Atoms((need_of(["icd|A*"]), need_of(["icd|AB"])), {})
    first = [atoms.of(*pair) for pair in asked]
    atoms._met.clear()
    assert [atoms.of(*pair) for pair in asked] == first


def test_what_nobody_named_is_remembered_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(module, "_MOST_REMEMBERED", 100)
    atoms = Atoms((need_of(["icd|A*"]),), {})
    for number in range(1000):
        assert atoms.of("icd", f"B{number}") == UNWANTED
        assert atoms.of("icd", f"A{number}") != UNWANTED
        assert len(atoms._met) <= 100
    assert atoms.of("icd", "A" + "x" * 1_000_000) != UNWANTED
    assert max(len(code) for _, code in atoms._met) <= 400


def test_a_code_is_looked_up_once_however_often_it_comes(monkeypatch):
    atoms = Atoms((need_of(["icd|A*"]),), {})
    asked = []
    real = Atoms._served
    monkeypatch.setattr(Atoms, "_served", lambda self, *code: asked.append(code) or real(self, *code))
    for _ in range(3):
        atoms.of("icd", "B1")
        atoms.of("icd", "A1")
    assert asked == [("icd", "B1"), ("icd", "A1")]


def test_fifty_thousand_prefixes_cost_no_more_than_one():
    prefixes = [f"icd|{number:05d}*" for number in range(50_000)]
    started = perf_counter()
    atoms = Atoms((need_of(prefixes),), {})
    scope = atoms.scope()
    for number in range(50_000):
        code = f"{number:05d}.{number}"
        assert atoms.of("icd", code) != UNWANTED
        assert scope.wants("icd", code)
        assert atoms.of("icd", f"X{number}") == UNWANTED
        assert not scope.wants("icd", f"X{number}")
    assert perf_counter() - started < 20
