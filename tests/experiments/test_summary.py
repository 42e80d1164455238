"""result.json: its keys are a promise, its figures are sums and the last evaluation."""

from __future__ import annotations

import json

import pytest

from carpool.experiments.config import Experiment
from carpool.experiments.summary import build_result, privacy_facts


def experiment(**sections) -> Experiment:
    return Experiment(
        **{"experiment": {"name": "quick", "seed": 9}, "privacy": {"channel": "plain"}, **sections}
    )


def record(round_: int, loss: float | None = 0.5, **changes) -> dict:
    return {
        "round": round_,
        "loss": loss,
        "accuracy": None if loss is None else 1 - loss,
        "targets": None if loss is None else {"sign": {"loss": loss}},
        "fleet_seconds": 10.25,
        "bytes_up": 100,
        "bytes_down": 7,
        **changes,
    }


def test_the_keys_are_the_promised_ones():
    result = build_result(experiment(), [record(1)], 3.0)
    assert list(result) == [
        *("experiment", "engine", "seed", "strategy", "vehicles", "rounds", "final", "privacy", "totals"),
        *("stopped", "fairness", "personal"),
    ]
    assert list(result["final"]) == ["loss", "accuracy", "targets"]
    assert list(result["privacy"]) == [
        *("unit", "relation", "channel", "protocol", "mechanism", "epsilon", "delta", "noise_multiplier"),
        "private",
    ]
    assert list(result["totals"]) == ["seconds", "fleet_seconds", "bytes_up", "bytes_down", "energy_wh"]
    json.dumps(result, allow_nan=False)


def test_the_facts_are_those_of_the_experiment():
    result = build_result(experiment(), [], 0.0)
    assert (result["experiment"], result["engine"], result["seed"]) == ("quick", "inline", 9)
    assert (result["strategy"], result["vehicles"]) == ("fedavg", experiment().fleet.vehicles)


def test_totals_are_sums():
    result = build_result(experiment(), [record(r) for r in (1, 2, 3)], 1.23456)
    assert result["totals"] == {
        "seconds": 1.235,
        "fleet_seconds": pytest.approx(30.75),
        "bytes_up": 300,
        "bytes_down": 21,
        "energy_wh": None,
    }


def test_the_final_figures_are_those_of_the_last_evaluated_round():
    result = build_result(experiment(), [record(1, 0.75), record(2, 0.25), record(3, None)], 0.0)
    assert result["final"] == {"loss": 0.25, "accuracy": 0.75, "targets": {"sign": {"loss": 0.25}}}
    assert [r["round"] for r in result["rounds"]] == [1, 2, 3]


@pytest.mark.parametrize("records", [[], [record(1, None)]])
def test_without_an_evaluation_they_are_null(records):
    assert build_result(experiment(), records, 0.0)["final"] == {
        "loss": None,
        "accuracy": None,
        "targets": None,
    }


def test_a_loss_of_zero_is_a_loss():
    assert build_result(experiment(), [record(1, 0.5), record(2, 0.0)], 0.0)["final"]["loss"] == 0.0


def test_the_records_are_copied():
    records = [record(1)]
    build_result(experiment(), records, 0.0)["rounds"][0]["loss"] = 99
    assert records[0]["loss"] == 0.5


def test_without_protection_the_privacy_facts_claim_nothing():
    assert privacy_facts(experiment()) == {
        "unit": None,
        "relation": None,
        "channel": "plain",
        "protocol": None,
        "mechanism": "none",
        "epsilon": None,
        "delta": None,
        "noise_multiplier": None,
        "private": None,
    }
