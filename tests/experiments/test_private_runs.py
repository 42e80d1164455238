"""Whole runs under differential privacy: mechanisms, strategies, budgets, odometers, engines, seeds."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carpool.experiments.load import load_experiment
from carpool.experiments.run import resume, start
from carpool.experiments.workshop import Workshop
from carpool.privacy.dp.ledgerfile import read
from carpool.privacy.errors import ConfigError, PrivacyRefused, UsageError
from carpool.privacy.wire import decode_contribution, encode
from carpool.server import checkpoint as checkpoints
from carpool.server import released

pytestmark = pytest.mark.slow
Write = Callable[..., Path]
STAY = tuple(
    f"fleet.leave.{stage}=0.0"
    for stage in ("before_training", "during_training", "before_upload", "during_upload", "after_upload")
)
COHORT = ("selection.cohort=8", "selection.over_select=0.25", "selection.quorum=0.75", *STAY)
PLAIN = (*COHORT, "privacy.channel=plain")
MASKED = (
    *COHORT,
    "privacy.channel=secagg",
    "privacy.secagg.n_min=4",
    "privacy.secagg.adversary=curious",
    "privacy.secagg.dropout_fraction=0.4",
    "experiment.rounds=2",
)
NAMED = ("privacy.protocol=one-shot", "privacy.committee.members=7", "privacy.committee.corrupt=2")
PROTOCOLS = {"secagg+": (), "one-shot": NAMED, "helpers": ("privacy.protocol=helpers",)}
RING = "privacy.secagg.full_rounds=1"
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")


def dp(mechanism: str, *more: str) -> tuple[str, ...]:
    return (f"privacy.dp.mechanism={mechanism}", *(f"privacy.dp.{one}" for one in more))


def go(file: Path, out: Path, *sets: str) -> dict[str, Any]:
    return start(load_experiment(file, sets), out=out)[1]


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def quiet(result: dict[str, Any]) -> None:
    """Nothing that vehicles say of themselves is in a result."""
    for record in result["rounds"]:
        assert record["train_loss"] is None
        assert record["dp"]["mechanism"] == result["privacy"]["mechanism"]
        assert (record.get("secagg") or {"clipped": 0})["clipped"] in (0, None, record["replied"])


@pytest.mark.parametrize("mechanism", ["central", "distributed", "local", "matrix"])
@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_every_mechanism_under_every_protocol_in_full_and_as_arithmetic(
    tiny: Write, tmp_path: Path, mechanism: str, protocol: str
) -> None:
    result = go(tiny(), tmp_path / "r", *MASKED, *PROTOCOLS[protocol], *dp(mechanism), RING)
    first, second = result["rounds"]
    assert [one["secagg"]["cryptography"] for one in (first, second)] == ["full", "ring"]
    assert not first["void"]
    assert not second["void"]
    quiet(result)
    assert first["dp"]["realised_noise"] == second["dp"]["realised_noise"]
    assert result["privacy"]["epsilon"] <= 8.0 * (1 + 1e-6)
    assert result["privacy"]["epsilon"] > 7.9
    state = read(tmp_path / "r" / "ledger.jsonl").state
    assert sum(len(one.published) for one in state.charges.values()) == 2
    assert result["stopped"] is None


LEAVING = tuple(one.replace("=0.0", "=0.03") for one in STAY)


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
@pytest.mark.parametrize("mechanism", ["central", "distributed"])
def test_the_arithmetic_alone_gives_the_sums_of_the_protocol(
    tiny: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mechanism: str, protocol: str
) -> None:
    """With seeded noise bit for bit, the same vehicles missing; but for one-shot, whose masks have errors."""
    # A run's name turns its vectors, and it follows from the whole configuration.
    monkeypatch.setattr("carpool.experiments.run.run_identity", lambda folder: "r" * 32)
    sets = (*MASKED, *LEAVING, *PROTOCOLS[protocol], *dp(mechanism, "randomness=seeded"))
    more = ("experiment.rounds=3", "selection.quorum=0.625", "privacy.secagg.dropout_fraction=0.5")
    full = go(tiny(), tmp_path / "full", *sets, *more)
    ring = go(tiny(), tmp_path / "ring", *sets, *more, RING)
    for one, two in zip(full["rounds"], ring["rounds"], strict=True):
        assert one["replied"] == two["replied"]
        assert one["dp"] == two["dp"]
        assert one["secagg"]["sums"] == two["secagg"]["sums"]
    assert [one["secagg"]["cryptography"] for one in ring["rounds"]] == ["full", "ring", "ring"]
    assert sum(one["dropped"] for one in full["rounds"]) > 0
    if protocol != "one-shot":
        assert digest(tmp_path / "full") == digest(tmp_path / "ring")


@pytest.mark.parametrize("channel", ["plain", "sealed"])
@pytest.mark.parametrize("mechanism", ["central", "local", "matrix"])
def test_channels_without_masks(tiny: Write, tmp_path: Path, mechanism: str, channel: str) -> None:
    result = go(tiny(), tmp_path / "r", *PLAIN, f"privacy.channel={channel}", *dp(mechanism))
    quiet(result)
    assert not any(one["void"] for one in result["rounds"])
    assert 7.9 < result["privacy"]["epsilon"] <= 8.0 * (1 + 1e-6)


STRATEGIES: dict[str, tuple[str, ...]] = {
    "fedavgm": (),
    "fedadam": (),
    "fedprox": (),
    "scaffold": (),
    "fednova": (),
    "feddyn": (),
    "mifa": (),
    "fedper": ("model.name=mlp",),
    "fedbn": ("model.name=cnn-small",),
    "qfedavg": (),
    "normbound": (),
    "diloco": (),
}


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_sum_strategies_with_all_channels_under_one_norm(tiny: Write, tmp_path: Path, name: str) -> None:
    result = go(
        tiny(), tmp_path / "r", *PLAIN, *dp("central"), f"strategy.name={name}", *STRATEGIES[name],
        "experiment.rounds=2", "privacy.dp.noise_multiplier=3.0",
    )  # fmt: skip
    quiet(result)
    assert not any(one["void"] for one in result["rounds"])


@pytest.mark.parametrize("name", ["median", "trimmedmean", "krum", "fltrust"])
def test_strategies_that_compare_updates_see_private_ones_under_local(
    tiny: Write, tmp_path: Path, name: str
) -> None:
    sets = (*PLAIN, f"strategy.name={name}", "experiment.rounds=2")
    result = go(tiny(), tmp_path / "r", *sets, *dp("local"))
    assert not any(one["void"] for one in result["rounds"])
    with pytest.raises(ConfigError, match="compares updates"):
        go(tiny(), tmp_path / "s", *sets, *dp("central"))


def test_what_is_not_charged_is_refused(tiny: Write, tmp_path: Path) -> None:
    for more, words in (
        (("strategy.name=rfa", "strategy.options.passes=2"), "several passes"),
        (("strategy.name=fedbuff",), "buffer"),
        (("compression.name=top-k",), "compression"),
        (("selection.name=oort",), "is claimed for"),
        (("privacy.dp.sampling=poisson",), "amplification"),
        (("privacy.dp.relation=add-remove", "privacy.dp.mechanism=local"), "add-remove"),
    ):
        with pytest.raises(ConfigError, match=words):
            go(tiny(), tmp_path / "r", *PLAIN, *dp("central"), *more)


@pytest.mark.parametrize("attack", ["label-flip", "sign-flip", "gaussian"])
@pytest.mark.parametrize("sets", [PLAIN, MASKED], ids=["plain", "masked"])
def test_attackers_are_clipped_and_counted_not_refused(
    tiny: Write, tmp_path: Path, attack: str, sets: tuple[str, ...]
) -> None:
    result = go(
        tiny(), tmp_path / "r", *sets, *dp("central"), f"attack.name={attack}", "attack.fraction=0.3",
        "experiment.rounds=1",
    )  # fmt: skip
    [record] = result["rounds"]
    assert (record["replied"], record["refused"]) == (10, 0)


BAD = {
    "nan": lambda v: np.full_like(v, np.nan),
    "inf": lambda v: np.full_like(v, -np.inf),
    "huge": lambda v: np.full_like(v, 3e38),
    "long": lambda v: np.full_like(v, 1e15),
    "denormal": lambda v: np.full_like(v, 1e-45),
    "short": lambda v: v[:-1].copy(),
}


@pytest.mark.parametrize("kind", list(BAD))
@pytest.mark.parametrize("channel", ["plain", "sealed", "secagg"])
def test_hostile_vehicles_are_dropped_or_clipped(
    tiny: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, channel: str
) -> None:
    true = Workshop.work

    def work(self: Workshop, wire: bytes, unit: Any) -> list[bytes | str]:
        found = true(self, wire, unit)
        with monkeypatch.context() as patches:
            patches.setattr("carpool.privacy.wire.check_vector", lambda *given: None)
            return [bad(one) if m.vehicle % 4 == 0 else one for one, m in zip(found, unit, strict=True)]

    def bad(data: bytes | str) -> bytes:
        assert isinstance(data, bytes)
        message = decode_contribution(data, 1 << 20)
        vectors = {name: BAD[kind](vector) for name, vector in message.vectors.items()}
        return encode(type(message)(**{**vars(message), "vectors": vectors, "examples": 10**9}))

    monkeypatch.setattr(Workshop, "work", work)
    sets = MASKED if channel == "secagg" else (*PLAIN, f"privacy.channel={channel}", "experiment.rounds=1")
    result = go(tiny(), tmp_path / "r", *sets, "experiment.rounds=1", *dp("central", "noise_multiplier=0.01"))
    [record] = result["rounds"]
    assert not record["void"]
    dropped = kind not in ("denormal", "long")
    assert (record["replied"] < record["asked"]) == dropped
    assert record["replied"] + record["dropped"] == record["asked"]
    # What is left moves the model by no more than a clip norm a vehicle, over the public cohort.
    held = released.read(tmp_path / "r")
    assert held is not None
    assert np.linalg.norm(held.vectors["delta"]) <= record["replied"] + 0.01 * 8 * held.vectors["delta"].size


def test_a_fleets_budget_is_shared_and_says_the_same_again(tiny: Write, tmp_path: Path) -> None:
    ledger = tmp_path / "fleet.jsonl"
    more = (f"privacy.dp.ledger={ledger}", "privacy.dp.fleet_epsilon=3.5", "experiment.rounds=3")
    sets = (*PLAIN, *dp("central", "noise_multiplier=2.0"), *more)
    with pytest.raises(PrivacyRefused, match="round 3 would take fleet fleet from") as first:
        go(tiny(), tmp_path / "one", *sets)
    result = json.loads((tmp_path / "one" / "result.json").read_text())
    assert result["stopped"] == str(first.value)
    assert len(result["rounds"]) == 2
    for name in ("model.safetensors", "report.html", "rounds.jsonl"):
        assert (tmp_path / "one" / name).is_file()
    with pytest.raises(PrivacyRefused) as again:
        resume(tmp_path / "one")
    assert str(again.value) == str(first.value)
    with pytest.raises(PrivacyRefused, match="round 1 would take"):
        go(tiny(), tmp_path / "two", *sets)
    assert json.loads((tmp_path / "two" / "result.json").read_text())["rounds"] == []
    assert (tmp_path / "two" / "model.safetensors").is_file()
    assert (tmp_path / "two" / "report.html").is_file()
    charges = read(ledger).state.charges.values()
    assert [one.release.round for one in charges] == [1, 2]
    with pytest.raises(UsageError, match="name another ledger"):
        go(tiny(), tmp_path / "three", *sets, "privacy.dp.delta=1e-6")


def test_a_ledger_that_is_gone_is_not_begun_anew(tiny: Write, tmp_path: Path) -> None:
    from carpool.experiments.session import Session

    class Stop(Exception):
        pass

    def commit(self: Session, checkpoint: Any) -> None:
        true(self, checkpoint)
        raise Stop

    true = Session.commit
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(Session, "commit", commit)
        with pytest.raises(Stop):
            go(tiny(), tmp_path / "r", *PLAIN, *dp("central"))
    for name in ("ledger.jsonl", "ledger.jsonl.head"):
        (tmp_path / "r" / name).unlink()
    with pytest.raises(PrivacyRefused, match="has 0 charges of this run"):
        resume(tmp_path / "r")
    assert not (tmp_path / "r" / "result.json").is_file(), "it may be put back"


def test_vehicles_refuse_by_themselves(tiny: Write, tmp_path: Path) -> None:
    sets = (*PLAIN, *dp("central", "noise_multiplier=2.0"), "experiment.rounds=4", "selection.quorum=0.125")
    result = go(tiny(), tmp_path / "r", *sets, "privacy.dp.vehicle_epsilon=3.0")  # two rounds of 2.94
    times = [one["replied"] for one in result["rounds"]]
    assert times[:2] == [10, 10]
    assert sum(times) <= 2 * 12
    assert sum(one["refused"] for one in result["rounds"]) == 40 - sum(times) > 0
    odometers = list((tmp_path / "r" / "odometers").glob("*.json"))
    assert len(odometers) == 12
    events = [json.loads(one.read_text())["events"] for one in odometers]
    assert max(sum(event["count"] for event in one) for one in events) == 2


def test_a_seeded_run_is_the_same_again_and_says_not_private(tiny: Write, tmp_path: Path) -> None:
    for mechanism, sets in (("central", PLAIN), ("local", PLAIN), ("matrix", PLAIN), ("distributed", MASKED)):
        more = (*sets, *dp(mechanism, "randomness=seeded"), "experiment.rounds=2")
        results = [go(tiny(), tmp_path / f"{mechanism}{i}", *more) for i in range(2)]
        assert digest(tmp_path / f"{mechanism}0") == digest(tmp_path / f"{mechanism}1"), mechanism
        assert results[0]["privacy"]["private"] is False
        assert not read(tmp_path / f"{mechanism}0" / "ledger.jsonl").state.private
        assert "NOT PRIVATE" in (tmp_path / f"{mechanism}0" / "report.html").read_text()
    two = go(
        tiny(), tmp_path / "workers", *PLAIN, *dp("local", "randomness=seeded"), "experiment.rounds=2",
        "experiment.workers=2",
    )  # fmt: skip
    assert two["privacy"]["private"] is False
    assert digest(tmp_path / "workers") == digest(tmp_path / "local0")
    system = [go(tiny(), tmp_path / f"system{i}", *PLAIN, *dp("central")) for i in range(2)]
    assert system[0]["privacy"]["private"] is True
    assert digest(tmp_path / "system0") != digest(tmp_path / "system1")


def test_workers_draw_noise_of_their_own(tiny: Write, tmp_path: Path) -> None:
    """Two processes with one stream would send the same noise; the sum would then be far too long."""
    sets = (*PLAIN, *dp("local", "noise_multiplier=50.0"), "experiment.rounds=1", "experiment.workers=2")
    go(tiny(), tmp_path / "r", *sets, "train.batching=sequential", "selection.over_select=0.0")
    held = released.read(tmp_path / "r")
    assert held is not None
    delta = held.vectors["delta"].astype(np.float64)
    spread, error = float(np.sqrt(np.mean(delta**2))) / (50.0 * np.sqrt(8)), 1 / np.sqrt(2 * delta.size)
    # Five standard errors, 6e-7; four pairs of vehicles alike would give sqrt(2).
    assert abs(spread - 1) < 5 * error < 0.2


def test_a_poisson_cohort_is_drawn_in_secret_and_always_released(tiny: Write, tmp_path: Path) -> None:
    sets = (*PLAIN, "selection.name=poisson", "selection.quorum=1.0", "experiment.rounds=3")
    result = go(tiny(), tmp_path / "r", *sets, *dp("central", "sampling=poisson", "noise_multiplier=1.0"))
    assert not any(one["void"] for one in result["rounds"])
    plain = go(tiny(), tmp_path / "s", *sets, *dp("central", "noise_multiplier=1.0"))
    assert result["privacy"]["epsilon"] < plain["privacy"]["epsilon"]
    assert (tmp_path / "r" / "keys" / "draws.secret").stat().st_mode & 0o777 == 0o600
    others = go(tiny(), tmp_path / "t", *sets, *dp("central", "sampling=poisson", "noise_multiplier=1.0"))
    asked = [[one["asked"] for one in found["rounds"]] for found in (result, others)]
    assert asked[0] != asked[1] or digest(tmp_path / "r") != digest(tmp_path / "t")
    with pytest.raises(ConfigError, match="secagg"):
        go(tiny(), tmp_path / "u", *MASKED, "selection.name=poisson", *dp("central", "sampling=poisson"))


@pytest.mark.parametrize(
    ("mechanism", "sets"), [("central", PLAIN), ("central", MASKED), ("distributed", MASKED)]
)
def test_the_clip_norm_adapts_and_costs_no_more(
    tiny: Write, tmp_path: Path, mechanism: str, sets: tuple[str, ...]
) -> None:
    """It begins ten times too large; 12 vehicles' bits under this noise show that within a few rounds."""
    more = ("noise_multiplier=0.5", "clip_norm=20.0", "adaptive.quantile=0.5", "adaptive.bits_noise=1.0")
    rounds = ("experiment.rounds=4", "privacy.dp.adaptive.lr=1.0")
    result = go(tiny(), tmp_path / "r", *sets, *dp(mechanism, *more), *rounds, "strategy.name=scaffold")
    fixed = go(tiny(), tmp_path / "s", *sets, *dp(mechanism, *more[:2]), rounds[0], "strategy.name=scaffold")
    assert not any(one["void"] for one in result["rounds"])
    assert result["privacy"]["epsilon"] == pytest.approx(fixed["privacy"]["epsilon"], rel=1e-3)
    found = checkpoints.read(tmp_path / "r" / "checkpoint")
    assert found is not None
    assert 0.5 < found.scalars["clip"] < 15.0
    with pytest.raises(ConfigError, match="bits_noise"):
        go(tiny(), tmp_path / "t", *sets, *dp(mechanism, *more[:3], "adaptive.bits_noise=0.01"))


def test_matrix_keeps_vehicles_apart(tiny: Write, tmp_path: Path) -> None:
    sets = (*PLAIN, "selection.cohort=4", "selection.over_select=0.0", "experiment.rounds=6")
    more = ("matrix.min_separation=3", "matrix.max_participations=2", "noise_multiplier=2.0")
    result = go(tiny(), tmp_path / "r", *sets, *dp("matrix", *more))
    assert not any(one["void"] for one in result["rounds"])
    lines = (tmp_path / "r" / "participation").read_text().splitlines()[1:]
    rounds = [(int(at), set(ids)) for at, *ids in (line.split()[1:] for line in lines)]
    for at, ids in rounds:
        assert not any(ids & others for then, others in rounds if 0 < at - then < 3)
    state = read(tmp_path / "r" / "ledger.jsonl").state
    [charge] = state.charges.values()
    assert sorted(charge.published) == [1, 2, 3, 4, 5, 6]


@needs_ray
@pytest.mark.nightly
@pytest.mark.parametrize("mechanism", ["central", "distributed", "local"])
def test_ray(tiny: Write, tmp_path: Path, mechanism: str) -> None:
    sets = (*(MASKED if mechanism == "distributed" else PLAIN), *dp(mechanism), "experiment.engine=ray")
    flags = [one for pair in (*sets, "experiment.rounds=2") for one in ("--set", pair)]
    code = "from carpool.experiments.cli import main; main()"
    arguments = [sys.executable, "-c", code, "run", tiny(), "--out", tmp_path / "r", *flags]
    done = subprocess.run(arguments, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    quiet(result)
    assert not any(one["void"] for one in result["rounds"])
    assert 7.9 < result["privacy"]["epsilon"] <= 8.0 * (1 + 1e-6)
