"""The ledger's laws, for any sequence of operations: nothing is overspent, nothing spent comes back."""

import math
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.errors import BudgetExceededError, CodecError, ConfigError, LedgerError, PolicyError
from wardround.privacy import ledger, ledger_entry, rdp
from wardround.privacy.ledger_entry import Committed, Granted, Released, Reserved
from wardround.privacy.mechanisms import Gaussian, Laplace, SampledGaussian

NAME = "records patient"
RELATION = ledger_entry.RELATIONS["patient"]
STUDY = "ab" * 32
MECHANISMS = (
    Gaussian(noise_multiplier=3.0),
    Gaussian(noise_multiplier=20.0, steps=4),
    Laplace(scale=9.0),
    SampledGaussian(noise_multiplier=1.1, sampling_rate=0.05, steps=10),
    SampledGaussian(noise_multiplier=1e-3, sampling_rate=0.5, steps=1),
)


class Book:
    """A ledger with all its entries."""

    def __init__(self):
        self.state, self.entries, self.now = ledger.opened(NAME), [], 1000.0

    def add(self, entry):
        if entry is not None:
            self.entries.append(entry)
            self.state = ledger.apply(self.state, entry)
        return entry

    def grant(self, epsilon=3.0, delta=1e-5, order=None):
        made = ledger.grant(
            self.state, self.now, epsilon=epsilon, delta=delta, person="steward", reason="so decided", order=order
        )
        return self.add(made)

    def reserve(self, run="run.1", uses=None, study=STUDY):
        uses = {"train": (MECHANISMS[1], 5)} if uses is None else uses
        return self.add(ledger.reserve(self.state, self.now, run=run, study=study, uses=uses, relation=RELATION))

    def commit(self, key, run="run.1", kind="train"):
        return self.add(ledger.commit(self.state, self.now, run=run, kind=kind, key=key))

    def release(self, run="run.1"):
        return self.add(ledger.release(self.state, self.now, run=run))


@pytest.fixture
def book():
    made = Book()
    made.grant()
    return made


uses = st.dictionaries(
    st.sampled_from(("train", "count")), st.tuples(st.sampled_from(MECHANISMS), st.integers(1, 6)), max_size=2
)
runs = st.sampled_from([f"run.{number}" for number in range(1, 5)])
operations = st.one_of(
    st.tuples(st.just("reserve"), runs, uses),
    st.tuples(st.just("commit"), st.integers(0, 6).map(str), runs, st.sampled_from(("train", "count"))),
    st.tuples(st.just("release"), runs),
)
grants = st.tuples(st.just("grant"), st.floats(0.02, 9.0), st.sampled_from((1e-5, 1e-6)))
clocks = st.floats(0, 2e9)


def perform(book, operation):
    try:
        getattr(book, operation[0])(*operation[1:])
    except (PolicyError, ConfigError, CodecError):
        return


@settings(max_examples=200)
@given(steps=st.lists(st.tuples(operations, clocks), max_size=40), epsilon=st.floats(0.3, 9.0))
def test_without_lowering_spent_and_reserved_never_exceed_what_is_allowed(steps, epsilon):
    book = Book()
    book.grant(epsilon)
    for operation, book.now in steps:
        before = book.state
        perform(book, operation)
        after = book.state
        assert 0 <= after.spent + after.reserved <= after.allowed
        assert after.spent >= before.spent
        assert after.order == before.order
        assert after.at >= before.at
        held = list(after.runs.values())
        assert after.spent == sum(run.spent for run in held)
        assert after.reserved == sum(run.reserved for run in held)
        for costs in (ledger.committed_costs(held), ledger.promised_costs(held)):
            assert not any(costs) or rdp.epsilon(costs, after.delta) <= epsilon
    assert ledger.fold(NAME, book.entries) == book.state


@settings(max_examples=200)
@given(steps=st.lists(st.one_of(operations, operations, grants), max_size=40))
def test_whatever_is_granted_in_between_spending_stays_and_grows_only_within_the_budget(steps):
    book = Book()
    book.grant()
    for operation in steps:
        before = book.state
        perform(book, operation)
        after = book.state
        assert after.spent >= before.spent
        if after.spent > before.spent:
            assert after.spent <= after.allowed
        if after.spent + after.reserved > before.spent + before.reserved:
            assert after.spent + after.reserved <= after.allowed
        if before.runs:
            assert after.order == before.order
    assert ledger.fold(NAME, book.entries) == book.state


@settings(max_examples=100)
@given(steps=st.lists(operations, min_size=1, max_size=20))
def test_the_state_is_the_same_when_read_from_bytes(steps):
    book = Book()
    book.grant(8)
    for operation in steps:
        perform(book, operation)
    bodies = [ledger_entry.encode(entry) for entry in book.entries]
    assert ledger.fold(NAME, [ledger_entry.decode(body) for body in bodies]) == book.state


def test_the_order_is_the_one_at_which_most_gaussian_noise_fits():
    for epsilon, delta in ((0.3, 1e-6), (1.0, 1e-5), (3.0, 1e-5), (8.0, 1e-6)):
        book = Book()
        chosen = book.grant(epsilon, delta).order

        def releases(order, epsilon=epsilon, delta=delta):
            return (epsilon - ledger.conversion(order, delta)) / order

        assert releases(chosen) == max(releases(order) for order in rdp.ORDERS)


def test_gaussian_releases_fill_the_budget_to_the_last_and_no_further(book):
    price = rdp.cost(MECHANISMS[0], (book.state.order,))[0]
    fit = int((3.0 - ledger.conversion(book.state.order, 1e-5)) / price)
    with pytest.raises(BudgetExceededError, match="wardround node budget grant"):
        book.reserve(uses={"train": (MECHANISMS[0], fit + 1)})
    book.reserve(uses={"train": (MECHANISMS[0], fit)})
    for number in range(fit):
        book.commit(str(number))
    assert rdp.epsilon(ledger.committed_costs([*book.state.runs.values()]), 1e-5) <= 3.0
    with pytest.raises(BudgetExceededError):
        book.commit("one more")
    with pytest.raises(BudgetExceededError):
        book.reserve("run.2", {"train": (MECHANISMS[0], 1)})


def test_a_use_is_counted_in_whole_grains_rounded_up_and_a_grant_down():
    tiny = Gaussian(noise_multiplier=1e4)
    book = Book()
    book.grant(ledger.least_epsilon(1e-5) + 1e-5)
    exact = Fraction(book.entries[0].allowed) * ledger.GRAINS
    assert exact.denominator > 1
    assert 0 < exact - book.state.allowed < 1
    book.grant(3.0)
    book.reserve(uses={"train": (tiny, 7)})
    exact = Fraction(rdp.cost(tiny, (book.state.order,))[0]) * ledger.GRAINS
    assert exact.denominator > 1
    assert 0 < Fraction(book.state.reserved, 7) - exact < 1


def test_what_costs_less_than_a_grain_costs_one(book):
    book.reserve(uses={"train": (Laplace(scale=1e12), 3)})
    assert book.state.reserved == 3


def test_a_run_that_has_used_all_that_it_reserved_is_refused_whatever_is_left(book):
    book.reserve()
    for key in "abcde":
        book.commit(key)
    assert book.state.left > 0
    with pytest.raises(BudgetExceededError, match="all 5 uses"):
        book.commit("f")


def test_the_same_key_is_free_and_also_after_the_release(book):
    book.reserve()
    assert isinstance(book.commit("a"), Committed)
    spent = book.state.spent
    assert book.commit("a") is None
    book.release()
    assert book.commit("a") is None
    assert book.state.spent == spent


def test_a_released_run_spends_and_reserves_no_more_and_keeps_what_it_spent(book):
    book.reserve()
    book.commit("a")
    spent = book.state.spent
    assert isinstance(book.release(), Released)
    assert (book.state.spent, book.state.reserved) == (spent, 0)
    with pytest.raises(PolicyError, match="released"):
        book.commit("b")
    with pytest.raises(PolicyError, match="over"):
        book.reserve()
    assert book.release() is None
    assert book.release("unknown.1") is None


def test_a_reservation_again_is_nothing_and_another_one_is_refused(book):
    assert isinstance(book.reserve(), Reserved)
    assert book.reserve(uses={"train": (Gaussian(noise_multiplier=20, steps=4), 5)}) is None
    for other in ({"train": (MECHANISMS[1], 4)}, {"train": (MECHANISMS[0], 5)}, {"other": (MECHANISMS[1], 5)}):
        with pytest.raises(PolicyError, match="another"):
            book.reserve(uses=other)
    with pytest.raises(PolicyError, match="another"):
        book.reserve(study="cd" * 32)


def test_a_run_spends_only_what_it_reserved(book):
    with pytest.raises(PolicyError):
        book.commit("a")
    book.reserve()
    with pytest.raises(PolicyError, match="count"):
        book.commit("a", kind="count")
    with pytest.raises(PolicyError):
        book.commit("a", run="run.2")
    with pytest.raises(ValueError, match="key"):
        book.commit("")


def test_lowering_below_what_is_spent_stops_everything_and_raising_goes_on(book):
    book.reserve(uses={"train": (MECHANISMS[0], 2)})
    book.commit("a")
    book.grant(0.5)
    with pytest.raises(BudgetExceededError, match="lowered"):
        book.commit("b")
    with pytest.raises(BudgetExceededError):
        book.reserve("run.2", {"train": (Gaussian(noise_multiplier=1e6), 1)})
    assert book.commit("a") is None
    book.grant(3.0)
    book.commit("b")


def test_lowered_to_nothing_before_anything_was_reserved(book):
    order = book.state.order
    assert book.grant(1e-4).order == order
    assert book.state.allowed == 0
    with pytest.raises(BudgetExceededError):
        book.reserve(uses={"train": (Gaussian(noise_multiplier=1e6), 1)})


def test_the_order_may_be_named_until_it_is_used(book):
    assert book.grant(order=16.0).order == 16.0
    assert book.grant().order == 7.5
    book.reserve()
    assert book.grant(8.0).order == 7.5
    assert book.grant(8.0, order=7.5).order == 7.5
    with pytest.raises(ConfigError, match=r"order 7\.5 and keeps it"):
        book.grant(8.0, order=16.0)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_an_epsilon_that_cannot_be_is_refused(epsilon):
    with pytest.raises(ConfigError, match="epsilon"):
        Book().grant(epsilon)


@pytest.mark.parametrize("delta", [0.0, -1e-5, 1.0, 2.0, math.nan, math.inf])
def test_a_delta_that_cannot_be_is_refused(delta):
    with pytest.raises(ConfigError, match="delta"):
        Book().grant(3.0, delta)


def test_a_budget_too_small_for_any_order_names_the_least():
    least = ledger.least_epsilon(1e-5)
    with pytest.raises(ConfigError, match=r"above 0\.008367"):
        Book().grant(least)
    Book().grant(least * 1.001)
    with pytest.raises(ConfigError, match="order 2: it must be above 10"):
        Book().grant(3.0, order=2.0)
    with pytest.raises(ConfigError, match=r"one of 1\.25, 1\.5"):
        Book().grant(3.0, order=2.05)


def test_an_enormous_budget_is_allowed():
    book = Book()
    book.grant(1e300)
    book.reserve(uses={"train": (Gaussian(noise_multiplier=1e-3), 10)})
    assert book.state.allowed > book.state.reserved > 0


@pytest.mark.parametrize(
    "mechanism", [Gaussian(noise_multiplier=1e-200), Gaussian(noise_multiplier=1e200), Gaussian(noise_multiplier=-1.0)]
)
def test_noise_that_cannot_be_accounted_is_refused(book, mechanism):
    with pytest.raises(CodecError, match="noise"):
        book.reserve(uses={"train": (mechanism, 1)})


def test_a_mechanism_without_a_bound_is_never_within_a_budget(book):
    with pytest.raises(BudgetExceededError):
        book.reserve(uses={"train": (Laplace(scale=1e-320), 1)})


@pytest.mark.parametrize("asked", [{}, {"train": (MECHANISMS[0], 0)}, {"train": (MECHANISMS[0], -3)}])
def test_a_reservation_of_nothing_is_refused(book, asked):
    with pytest.raises(CodecError):
        book.reserve(uses=asked)


def test_nothing_is_reserved_before_anything_is_granted():
    with pytest.raises(BudgetExceededError, match="wardround node budget grant"):
        Book().reserve()


def test_the_hub_is_told_no_number():
    for error in (BudgetExceededError, LedgerError):
        assert not any(sign.isdigit() for sign in error.__doc__ + error.who)


def test_a_clock_that_goes_back_changes_nothing(book):
    book.now = 50.0
    book.reserve()
    assert [entry.at for entry in book.entries] == [1000.0, 1000.0]
    book.now = math.nan
    book.commit("a")
    assert book.state.at == 1000.0


@pytest.fixture
def entries(book):
    book.reserve()
    book.commit("a")
    book.commit("b")
    book.release()
    return book.entries


def changed(entries, place, **values):
    return [*entries[:place], msgspec.structs.replace(entries[place], **values), *entries[place + 1 :]]


def test_an_entry_changed_removed_doubled_or_moved_breaks_the_chain(entries):
    wrong = [
        changed(entries, 0, allowed=99.0), changed(entries, 0, epsilon=4.0), changed(entries, 1, study="cd" * 32),
        changed(entries, 2, key="c"), changed(entries, 3, at=999.0), changed(entries, 3, at=math.nan),
        entries[1:], [*entries[:2], *entries[3:]], [*entries[:3], entries[2]],
        [*entries[:2], entries[3], entries[2], *entries[4:]],
    ]  # fmt: skip
    for other in wrong:
        with pytest.raises(LedgerError):
            ledger.fold(NAME, other)
    with pytest.raises(LedgerError):
        ledger.fold("records site", entries)


def test_entries_that_no_decision_makes_are_refused(entries):
    state = ledger.fold(NAME, entries[:4])
    link = {"seq": 5, "at": 2000.0, "previous": state.head}
    cheap = {"train": msgspec.structs.replace(entries[1].uses["train"], cost=(-1.0,) * len(rdp.ORDERS))}
    short = {"train": msgspec.structs.replace(entries[1].uses["train"], cost=(1.0,))}
    reserved = {"study": STUDY, "relation": RELATION, **link}
    for entry in (
        Committed(run="run.1", kind="train", key="a", **link),
        Committed(run="run.2", kind="train", key="a", **link),
        Committed(run="run.1", kind="count", key="a", **link),
        Released(run="run.2", **link),
        Reserved(run="run.1", uses=entries[1].uses, **reserved),
        Reserved(run="run.2", uses={}, **reserved),
        Reserved(run="run.2", uses=cheap, **reserved),
        Reserved(run="run.2", uses=short, **reserved),
        Granted(epsilon=3.0, delta=1e-5, order=16.0, allowed=1.0, person="", reason="", **link),
    ):
        with pytest.raises(LedgerError):
            ledger.apply(state, entry)
    assert ledger.apply(state, Committed(run="run.1", kind="train", key="c", **link)).spent > state.spent


@pytest.mark.parametrize("body", [b"", b"\x80", b"nonsense", b"\x81\xa4type\xa5other"])
def test_bytes_that_are_no_entry_are_refused(body):
    with pytest.raises(LedgerError):
        ledger_entry.decode(body)


def test_one_entry_has_one_spelling(entries):
    body = ledger_entry.encode(entries[2])
    other = msgspec.msgpack.encode(msgspec.to_builtins(entries[2]) | {"seq": 3.0})
    assert ledger_entry.decode(body) == entries[2]
    with pytest.raises(LedgerError):
        ledger_entry.decode(other)
    with pytest.raises(LedgerError):
        ledger_entry.decode(msgspec.msgpack.encode(msgspec.to_builtins(entries[2]) | {"more": 1}))
