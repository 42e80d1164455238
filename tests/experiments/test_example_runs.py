"""Whole runs under example-level noise: what is told, refused, remembered over a kill, and who says no."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carpool.client.trainer import TrainSettings
from carpool.experiments.example_runs import NOISE, Odometers, Record, examples_for, frugal, within
from carpool.experiments.load import load_experiment
from carpool.experiments.private import LEDGER
from carpool.experiments.run import Nobody, resume, start
from carpool.privacy.dp import example_level
from carpool.privacy.dp.events import Event
from carpool.privacy.dp.example_level import Training
from carpool.privacy.dp.ledger import Ledger
from carpool.privacy.dp.odometer import Cap
from carpool.privacy.errors import ConfigError, PrivacyRefused, RunError, VehicleError

Write = Callable[..., Path]
SGD = (
    "privacy.dp.mechanism=sgd",
    "privacy.dp.unit=example",
    "privacy.dp.noise_multiplier=1.1",
    "experiment.rounds=3",
)
SEEDED = (*SGD, "privacy.dp.randomness=seeded")
MASKED = (
    "privacy.channel=secagg",
    "privacy.secagg.n_min=4",
    "privacy.secagg.adversary=curious",
    "privacy.secagg.dropout_fraction=0.5",
    "selection.cohort=8",
    "selection.over_select=0.25",
    "selection.quorum=0.625",
)
STAGES = ("before_training", "during_training", "before_upload", "during_upload", "after_upload")
STAY = tuple(f"fleet.leave.{stage}=0.0" for stage in STAGES)
SIZE, DELTA = 8, 1e-5
"""Examples of each vehicle of the tiny fleet, and the delta of the defaults."""


def go(file: Path, out: Path, *sets: str, **more: Any) -> dict[str, Any]:
    return start(load_experiment(file, sets), out=out, **more)[1]


def rounds(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def often(folder: Path, until: int = 99) -> list[int]:
    """In how many rounds each vehicle was asked, read from the lines themselves."""
    found = [0] * 12
    for line in (folder / "participation").read_text().splitlines()[1:]:
        _, round_, *ids = map(str, line.split(" "))
        for one in ids if int(round_) <= until else ():
            found[int(one) - 1] += 1
    return found


def cost(taken: list[int], noise: float, accountant: Any = "rdp") -> float:
    training = Training(4)
    sizes = [SIZE] * len(taken)
    return example_level.spent(
        sizes, taken, training, noise, DELTA, "zero-out", accountant=accountant
    ).epsilon


# ---- runs ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("sets", [(), ("privacy.channel=sealed",), MASKED], ids=["plain", "sealed", "secagg"])
def test_epsilon_is_the_dearest_vehicles_of_those_asked(tiny: Write, tmp_path: Path, sets: Any) -> None:
    result = go(tiny(), tmp_path / "run", *SGD, *sets)
    lines = rounds(tmp_path / "run")
    told = [one["epsilon"] for one in lines]
    for n, epsilon in enumerate(told[:-1], 1):
        assert epsilon == pytest.approx(cost(often(tmp_path / "run", n), 1.1), rel=1e-9)
    assert sum(often(tmp_path / "run")) == sum(one["asked"] for one in lines)
    assert told[0] < told[1]
    assert told[-1] == pytest.approx(cost(often(tmp_path / "run"), 1.1, "auto"), rel=1e-9)
    assert [one["train_loss"] for one in lines] == [None] * 3
    assert not any(one["void"] for one in lines)
    assert all(one["dp"]["realised_noise"] == 1.1 for one in lines)
    privacy = result["privacy"]
    assert (privacy["unit"], privacy["mechanism"], privacy["private"]) == ("example", "sgd", True)
    assert privacy["epsilon"] == told[-1]


@pytest.mark.slow
def test_the_ledger_has_a_charge_a_round_that_is_no_less(tiny: Write, tmp_path: Path) -> None:
    go(tiny(), tmp_path / "run", *SGD)
    with Ledger.open(tmp_path / "run" / LEDGER) as ledger:
        assert ledger.header.unit == "example"
        assert [one.release.round for one in ledger.charges] == [1, 2, 3]
        assert {one.event for one in ledger.charges} == {Event("gaussian", 1.1, 0.5, 2)}
        assert all(one.realised == 1.1 and one.published for one in ledger.charges)
        assert ledger.epsilon() >= rounds(tmp_path / "run")[-1]["epsilon"]


@pytest.mark.slow
def test_a_target_is_kept_by_whoever_is_asked_in_every_round(tiny: Write, tmp_path: Path) -> None:
    everybody = ("selection.cohort=12", "selection.over_select=0.0", *STAY)
    sets = (*(one for one in SGD if "noise" not in one), "privacy.dp.epsilon=3.0", *everybody)
    result = go(tiny(), tmp_path / "run", *sets)
    assert 2.99 < result["privacy"]["epsilon"] <= 3.0 * (1 + 1e-9)
    assert result["stopped"] is None
    assert [one["replied"] for one in rounds(tmp_path / "run")] == [12] * 3, "no odometer said no"
    kept = json.loads((tmp_path / "run" / NOISE).read_text())["noise_multiplier"]
    assert kept == result["privacy"]["noise_multiplier"]


class Killed(Nobody):
    """Dies after a round."""

    def __init__(self, after: int) -> None:
        self.after = after

    def round(self, record: Any) -> None:
        if record["round"] == self.after:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_seeded_run_is_the_same_resumed_and_in_workers_and_says_that_it_is_not_private(
    tiny: Write, tmp_path: Path
) -> None:
    whole = go(tiny(), tmp_path / "whole", *SEEDED)
    assert whole["privacy"]["private"] is False
    with Ledger.open(tmp_path / "whole" / LEDGER) as ledger:
        assert not ledger.private
    with pytest.raises(KeyboardInterrupt):
        go(tiny(), tmp_path / "killed", *SEEDED, watcher=Killed(2))
    _, again = resume(tmp_path / "killed")
    go(tiny(), tmp_path / "workers", *SEEDED, "experiment.workers=2")
    assert digest(tmp_path / "whole") == digest(tmp_path / "killed") == digest(tmp_path / "workers")
    assert again["privacy"]["epsilon"] == whole["privacy"]["epsilon"]
    assert often(tmp_path / "whole") == often(tmp_path / "killed") == often(tmp_path / "workers")


@pytest.mark.slow
def test_noise_of_the_system_is_new_in_every_run(tiny: Write, tmp_path: Path) -> None:
    for name in ("one", "two"):
        go(tiny(), tmp_path / name, *SGD, "experiment.rounds=1")
    assert digest(tmp_path / "one") != digest(tmp_path / "two")


@pytest.mark.slow
def test_what_a_killed_round_asked_stays_counted(
    tiny: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from carpool.server import private_round

    true = private_round.gathered

    def dies(strategy: Any, state: Any, plan: Any, *rest: Any) -> Any:
        if plan.facts.round == 2:
            rest[-1].begin(2, plan.facts.cohort)
            raise KeyboardInterrupt
        return true(strategy, state, plan, *rest)

    monkeypatch.setattr(private_round, "gathered", dies)
    with pytest.raises(KeyboardInterrupt):
        go(tiny(), tmp_path / "run", *SGD)
    asked = often(tmp_path / "run", 2)
    monkeypatch.undo()
    resume(tmp_path / "run")
    one, two, three = rounds(tmp_path / "run")
    assert two["void"]
    assert two["epsilon"] == pytest.approx(cost(asked, 1.1), rel=1e-9)
    assert one["epsilon"] <= two["epsilon"]
    assert three["dp"]["realised_noise"] == 1.1
    assert often(tmp_path / "run", 2) == asked


@pytest.mark.slow
def test_vehicles_that_have_spent_their_cap_are_not_asked_and_the_run_ends_without_them(
    tiny: Write, tmp_path: Path
) -> None:
    cap = cost([2], 1.1, "auto") * 1.0001
    everybody = ("selection.cohort=12", "selection.over_select=0.0", *STAY)
    sets = (*SGD, f"privacy.dp.vehicle_epsilon={cap}", *everybody)
    with pytest.raises(PrivacyRefused, match="round 3 needs 6 vehicles, but only 0 can"):
        go(tiny(), tmp_path / "run", *sets)
    assert len(rounds(tmp_path / "run")) == 2
    assert json.loads((tmp_path / "run" / "result.json").read_text())["stopped"]
    assert often(tmp_path / "run") == [2] * 12


@pytest.mark.slow
def test_odometers_refuse_by_themselves_and_the_run_goes_on(
    tiny: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server asks all of them: it has forgotten."""
    monkeypatch.setattr(Record, "allowed", lambda self, ids, round_: np.ones(len(ids), bool))
    cap = cost([2], 1.1, "auto") * 1.0001
    everybody = ("selection.cohort=12", "selection.over_select=0.0", *STAY)
    go(tiny(), tmp_path / "run", *SGD, f"privacy.dp.vehicle_epsilon={cap}", *everybody)
    assert [one["replied"] for one in rounds(tmp_path / "run")] == [12, 12, 0]
    assert rounds(tmp_path / "run")[-1]["void"]


@pytest.mark.parametrize(
    ("sets", "word"),
    [
        (("privacy.dp.unit=vehicle",), 'use "example"'),
        (("privacy.dp.relation=add-remove",), "zero-out"),
        (("train.batching=stacked",), '"sequential"'),
        (("compression.name=int8",), "compression"),
        (("privacy.dp.sampling=poisson",), "sampling"),
        (("strategy.name=qfedavg",), "loss"),
        (("strategy.name=ditto",), "more than once"),
        (("strategy.name=fltrust",), "trusted samples"),
        (("selection.name=oort",), "oort"),
        (("strategy.name=fedbuff",), "rounds"),
    ],
)
def test_what_does_not_fit_is_refused_once(tiny: Write, sets: tuple[str, ...], word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(tiny(), (*SGD, *sets))
    (told,) = caught.value.problems
    assert word in told


# ---- parts -----------------------------------------------------------------------------------------------


def examples(tiny: Write, sizes: list[int], *sets: str, folder: Path | None = None) -> Any:
    e = load_experiment(tiny(), (*SGD, *sets))
    return examples_for(e, np.array(sizes), TrainSettings(batch_size=4), folder)


def test_without_the_mechanism_there_is_nothing(tiny: Write) -> None:
    e = load_experiment(tiny())
    assert examples_for(e, np.array([8]), TrainSettings()) is None


def test_the_charge_is_the_dearest_vehicles_and_each_part_its_own(tiny: Write) -> None:
    found = examples(tiny, [100, 0, 8, 50])
    assert found.event == found.part(2).event == Event("gaussian", 1.1, 0.5, 2)
    assert found.part(0).event == Event("gaussian", 1.1, 0.04, 25)
    assert found.part(0).own_sampling


def test_epsilon_over_sizes_is_that_of_each_vehicle_by_itself(tiny: Write) -> None:
    sizes, taken = [100, 0, 8, 50, 8], [9, 5, 1, 2, 3]
    found = examples(tiny, sizes, "experiment.rounds=9")
    every = [
        example_level.spent([s], [n], Training(4), 1.1, DELTA, "zero-out", accountant="rdp").epsilon
        for s, n in zip(sizes, taken, strict=True)
        if s
    ]
    assert found.spent(np.array(taken)) == pytest.approx(max(every))
    assert found.spent(np.zeros(5, np.int64)) == 0


@pytest.mark.parametrize("bad", ["{}", "no json", '{"noise_multiplier": NaN}', '{"noise_multiplier": 0.0}'])
def test_a_kept_noise_that_cannot_be_is_found_anew(
    tiny: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    (tmp_path / NOISE).write_text(bad)
    monkeypatch.setattr(example_level, "noise_multiplier", lambda *given: 5.0)
    e = load_experiment(tiny(), (*SGD[:2], "experiment.rounds=3"))
    found = examples_for(e, np.array([8]), TrainSettings(batch_size=4), tmp_path)
    assert found is not None
    assert found.noise.noise_multiplier == 5.0
    assert json.loads((tmp_path / NOISE).read_text()) == {"noise_multiplier": 5.0}


@pytest.mark.slow
def test_a_kept_noise_is_used_if_it_is_enough_and_only_then(
    tiny: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example_level, "noise_multiplier", lambda *given: 5.0)
    e = load_experiment(tiny(), (*SGD[:2], "experiment.rounds=3"))
    for kept, used in ((6.0, 6.0), (0.3, 5.0)):
        (tmp_path / NOISE).write_text(json.dumps({"noise_multiplier": kept}))
        found = examples_for(e, np.array([8]), TrainSettings(batch_size=4), tmp_path)
        assert found is not None
        assert found.noise.noise_multiplier == used


@pytest.mark.parametrize("noise", ["1e-9", "1e30"])
def test_a_noise_that_cannot_be_meant_does_not_start(tiny: Write, noise: str) -> None:
    with pytest.raises(ConfigError, match="noise multiplier"):
        examples(tiny, [8], f"privacy.dp.noise_multiplier={noise}")


def test_a_fleet_without_examples_does_not_start(tiny: Write) -> None:
    with pytest.raises(ConfigError, match="no vehicle has an example"):
        examples(tiny, [0, 0])


def halted(why: str) -> None:
    raise AssertionError(why)


def test_the_record_survives_and_knows_whom_a_killed_process_admitted(tiny: Write, tmp_path: Path) -> None:
    found = examples(tiny, [8, 8, 8])
    record = Record(found, tmp_path, 0.0, 1, halted)
    assert record.epsilon() == 0
    record.admit(np.array([1, 3]), 1)
    again = Record(found, tmp_path, 0.0, 1, halted)
    assert again.taken().tolist() == [1, 0, 1]
    again.admit(np.array([1, 2]), 1)  # killed before the charge: the round is begun once more
    assert again.taken().tolist() == [1, 1, 1]
    again.admit(np.array([2]), 2)
    assert again.taken().tolist() == [1, 2, 1]
    assert again.epsilon() == pytest.approx(cost([2], 1.1))
    (tmp_path / "participation").write_text("00000000 nonsense\n")
    with pytest.raises(RunError):
        Record(found, tmp_path, 0.0, 1, halted)


@pytest.mark.slow
def test_only_those_who_can_pay_are_allowed(tiny: Write, tmp_path: Path) -> None:
    found, why = examples(tiny, [8, 800, 0]), list[str]()
    record = Record(found, tmp_path, cost([1], 1.1, "auto") * 1.0001, 1, why.append)
    ids = np.array([1, 2, 3])
    assert record.allowed(ids, 1).tolist() == [True, True, False]
    record.admit(np.array([1, 2]), 1)
    assert record.allowed(ids, 2).tolist() == [False, True, False]
    assert record.allowed(ids[1:], 2).tolist() == [True, False]
    strict = Record(found, tmp_path, cost([1], 1.1, "auto") * 1.0001, 2, why.append)
    with pytest.raises(PrivacyRefused, match="round 2 needs 2 vehicles, but only 1 can"):
        strict.allowed(ids, 2)
    assert len(why) == 1


def test_the_quick_bound_is_enough_where_it_is_low_and_the_tight_one_decides_where_it_is_not() -> None:
    events = (Event("gaussian", 1.1, 0.5, 2),)
    quick = cost([1], 1.1)
    assert frugal(quick)(events, DELTA, "zero-out") == pytest.approx(quick)
    assert within(events[0], DELTA, "zero-out", quick)
    assert not within(events[0], DELTA, "zero-out", 0.5)


@pytest.mark.slow
def test_an_odometer_is_charged_before_and_says_no(tiny: Write, tmp_path: Path) -> None:
    found = examples(tiny, [8, 800])
    cap = cost([2], 1.1, "auto") * 1.0001
    odometers = Odometers(found, Cap(cap, DELTA, frugal(cap)), tmp_path)
    odometers.charge(0)
    odometers.charge(0)
    with pytest.raises(VehicleError, match="does not take part"):
        odometers.charge(0)
    odometers.charge(1)
    assert (tmp_path / "000000.json").stat().st_mode & 0o777 == 0o600
    (tmp_path / "000001.json").write_text("{}")
    with pytest.raises(VehicleError, match="does not hold"):
        odometers.charge(1)
