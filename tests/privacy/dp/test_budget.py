"""The budget: a release that would exceed it does not begin, in a run, in a fleet, or after losses."""

from __future__ import annotations

import math
import shutil

import pytest

from carpool.privacy.dp.budget import Books, Budget, quick
from carpool.privacy.dp.ledger import Ledger, tight
from carpool.privacy.dp.ledgerfile import read
from carpool.privacy.errors import PrivacyRefused, RunError
from tests.privacy.dp.ledgers import DELTA, FLEET, HEADER, digest, gaussian, opened, release


def count(events, delta, relation):
    """An accountant for tests: 1 for each release over its noise."""
    return sum(one.count / one.noise_multiplier for one in events)


def plain(epsilon, **more):
    return Budget(epsilon, DELTA, **{"reported": count, "ahead": count, **more})


@pytest.fixture
def ledger(tmp_path):
    with opened(tmp_path / "run.jsonl") as made:
        yield made


@pytest.fixture
def fleet(tmp_path):
    with opened(tmp_path / "fleet.jsonl", FLEET) as made:
        yield made


def test_exactly_the_budget_may_be_spent(ledger):
    books = Books((ledger, plain(3.0)))
    for i in range(3):
        books.charge(release(i))
    before = ledger.path.read_bytes()
    with pytest.raises(PrivacyRefused) as told:
        books.charge(release(3))
    assert ledger.path.read_bytes() == before
    for words in ("model sum of round 3", "from epsilon 3 to 4", "budget of 3 at delta 1e-05", "run first"):
        assert words in str(told.value)
    assert told.value.exit_code == 3


def test_the_quick_bound_decides_only_where_it_says_yes(ledger):
    asked = []

    def slow(events, delta, relation):
        asked.append(len(events))
        return count(events, delta, relation)

    budget = plain(4.0, ahead=lambda *facts: 2 * count(*facts), reported=slow)
    books = Books((ledger, budget))
    for i in range(4):
        books.charge(release(i))
    assert asked == [3, 4]  # 2 and 4 of the quick bound fit
    with pytest.raises(PrivacyRefused):
        books.charge(release(4))


def test_a_plan_that_fits_is_asked_once(ledger):
    asked = []

    def slow(events, delta, relation):
        asked.append(1)
        return count(events, delta, relation)

    books = Books((ledger, plain(10.0, ahead=slow, reported=slow)))
    assert books.plan(gaussian(count=10))
    assert len(asked) == 1
    for i in range(10):
        books.charge(release(i))
    assert len(asked) == 1
    assert not books.plan(gaussian())
    with pytest.raises(PrivacyRefused):
        books.charge(release(10))


def test_more_noise_of_another_kind_is_not_part_of_the_plan(ledger):
    budget = plain(2.0)
    assert budget.fits([gaussian(count=2)], "zero-out")
    assert not budget.fits([gaussian(), gaussian(0.5)], "zero-out")
    assert not budget.fits([gaussian(count=3)], "replace-one")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_does_not_fit(ledger, bad):
    budget = Budget(8.0, DELTA, reported=lambda *_: bad, ahead=lambda *_: bad)
    with pytest.raises(PrivacyRefused):
        budget.check(ledger, gaussian())


def test_no_noise_never_fits(ledger):
    with pytest.raises(PrivacyRefused, match="to inf"):
        Budget(1000.0, DELTA).check(ledger, gaussian(0.0))


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(0, 1e-5), (math.inf, 1e-5), (math.nan, 1e-5), (8, 0), (8, 1)]
)
def test_budgets_that_are_none(epsilon, delta):
    with pytest.raises(ValueError, match="finite epsilon"):
        Budget(epsilon, delta)


def test_a_fleet_s_budget_is_shared_by_its_experiments(tmp_path, fleet):
    for name in ("first", "second"):
        with opened(tmp_path / f"{name}.jsonl") as run:
            books = Books((run, plain(3.0)), (fleet, plain(4.0)))
            for i in range(2):
                books.charge(release(i, run=name))
    with opened(tmp_path / "third.jsonl") as run:
        books = Books((run, plain(3.0)), (fleet, plain(4.0)))
        with pytest.raises(PrivacyRefused, match="fleet north"):
            books.charge(release(0, run="third"))
        assert (len(run.charges), len(fleet.charges)) == (0, 4)


def test_losses_are_charged_before_unmasking_or_the_round_is_void(ledger, fleet):
    books = Books((ledger, plain(2.0)), (fleet, None))
    one, two = (books.charge(release(i, noise_from="vehicles")) for i in range(2))
    books.realised(one, 1.0, 20)
    with pytest.raises(PrivacyRefused, match="noise that is left of charge 2"):
        books.realised(two, 0.5, 5)
    assert ledger.find(two).survived is fleet.find(two).survived is None
    with pytest.raises(PrivacyRefused, match="not charged yet"):
        books.publish(two, digest("a"))
    books.void(two, "too few were left")
    books.publish(one, digest("a"))
    books.publish(one, digest("a"))
    assert ledger.pending("first") == fleet.pending("first") == []
    assert count(ledger.events(), DELTA, "zero-out") == 2.0


@pytest.mark.parametrize("kept", [False, True])
def test_a_kill_after_the_charge(tmp_path, kept):
    """A kept sum is published under its one charge; a lost one makes the round void, and the charge stays."""
    with opened(tmp_path / "a") as run, opened(tmp_path / "b", FLEET) as fleet:
        ticket = Books((run, None), (fleet, None)).charge(release(7))
    with opened(tmp_path / "a") as run, opened(tmp_path / "b", FLEET) as fleet:
        books = Books((run, None), (fleet, None))
        (open_,) = books.resume("first")
        assert (open_.ticket, open_.release.round) == (ticket, 7)
        if kept:
            books.publish(ticket, digest("a"))
            with pytest.raises(PrivacyRefused):
                books.publish(ticket, digest("b"))
        else:
            books.void(ticket, "killed")
            with pytest.raises(PrivacyRefused):
                books.publish(ticket, digest("a"))
        assert books.resume("first") == []
        assert run.events() == fleet.events() == [gaussian()]


def test_a_kill_between_two_ledgers_is_void_in_the_one(ledger, fleet, monkeypatch):
    books = Books((ledger, None), (fleet, None))
    books.charge(release(0))
    with monkeypatch.context() as patch:
        patch.setattr(fleet, "charge", lambda *_: (_ for _ in ()).throw(RunError("full")))
        with pytest.raises(RunError):
            books.charge(release(1))
    assert [one.release.round for one in books.resume("first")] == [0]
    assert [one.void != "" for one in ledger.charges] == [False, True]
    assert (len(ledger.events()), len(fleet.events())) == (2, 1)  # dearer, never cheaper


def test_a_kill_between_two_publications_is_finished(ledger, fleet):
    books = Books((ledger, None), (fleet, None))
    ticket = books.charge(release(0))
    ledger.publish(1, digest("a"))
    assert [one.ticket for one in books.resume("first")] == [ticket]
    with pytest.raises(PrivacyRefused):
        books.publish(ticket, digest("b"))
    books.publish(ticket, digest("a"))
    assert books.resume("first") == []


def test_a_ticket_that_was_not_charged(ledger, fleet):
    ledger.charge(release(), "ab" * 16)
    with pytest.raises(PrivacyRefused, match="not charged everywhere"):
        Books((ledger, None), (fleet, None)).publish("ab" * 16, digest("a"))
    with pytest.raises(ValueError, match="one ledger or more"):
        Books()


def test_the_same_ticket_is_not_charged_twice(ledger):
    ledger.charge(release(), "ab" * 16)
    with pytest.raises(PrivacyRefused, match="was used"):
        ledger.charge(release(1), "ab" * 16)


def test_private_only_if_all_are(ledger, fleet):
    books = Books((ledger, None), (fleet, None))
    assert books.private
    fleet.charge(release(private=False))
    assert not books.private


@pytest.mark.slow
def test_the_quick_bound_is_never_below_the_reported_value():
    for rate in (1.0, 0.05):
        events = [gaussian(2.0, count=20, sampling_rate=rate)]
        assert quick(events, DELTA, "zero-out") >= tight(events, DELTA, "zero-out") > 0
    assert quick([], DELTA, "zero-out") == 0


def test_a_real_budget_stops_before_it_is_exceeded(tmp_path, ledger):
    """Gaussian z = 5: 25 releases cost 4.37718 (the reference value), so 26 are too many."""
    books = Books((ledger, Budget(4.3772, DELTA)))
    for done in range(25):
        books.publish(books.charge(release(done, gaussian(5.0))), digest("a"))
    with pytest.raises(PrivacyRefused, match=r"to 4\.4"):
        books.charge(release(25, gaussian(5.0)))
    running = ledger.epsilon()
    assert running == pytest.approx(4.37718, abs=1e-4)
    # Whoever has the ledger alone comes to the very same value.
    shutil.copy(ledger.path, tmp_path / "alone.jsonl")
    state = read(tmp_path / "alone.jsonl").state
    assert tight([one.event for one in state.charges.values()], DELTA, "zero-out") == running


def test_a_ledger_is_opened_again_for_another_run(tmp_path):
    for name in ("a", "b"):
        with opened(tmp_path / "fleet" / "ledger.jsonl", FLEET) as fleet:
            Books((fleet, plain(2.0))).charge(release(run=name))
    with Ledger.open(tmp_path / "fleet" / "ledger.jsonl") as fleet:
        assert fleet.header == FLEET != HEADER
        assert len(fleet.charges) == 2
