import json
import math
from pathlib import Path
from typing import Any

import pytest

from carpool.experiments import ledgerfacts, plots_noise, promise, report_promise
from carpool.experiments.cli_common import out
from carpool.experiments.results import read_run
from carpool.experiments.show import document, screen
from carpool.privacy.dp.mechanism import CLAIMS

DP = {"mechanism": "distributed", "unit": "vehicle", "relation": "zero-out", "delta": 1e-5}


def rounds(*epsilons: float | None, real: float | None = 2.8, private: bool = True) -> list[dict[str, Any]]:
    noise = {"mechanism": "distributed", "noise_multiplier": 2.7, "realised_noise": real, "private": private}
    return [
        {"round": i, "asked": 50, "replied": 40, "void": False, "epsilon": spent, "dp": noise}
        | {"secagg": {"cryptography": "full", "sums": [{"vehicles": 40, "released": True}]}}
        for i, spent in enumerate(epsilons, 1)
    ]


def test_the_sentence_has_epsilon_delta_unit_and_against_whom():
    told = promise.sentence(DP, rounds(5.0, 7.9994))
    assert told == (
        "Epsilon 7.999 at delta 1e-05 for each vehicle, against the aggregator and whoever sees the released "
        "models, with as many vehicles on their side as the protocol allows."
    )


@pytest.mark.parametrize("mechanism", CLAIMS)
def test_each_mechanism_says_against_whom_it_holds(mechanism: str):
    told = promise.sentence(DP | {"mechanism": mechanism}, rounds(1.0))
    assert told is not None
    assert CLAIMS[mechanism].against in told
    assert promise.NOISE[mechanism].startswith(mechanism)


@pytest.mark.parametrize("dp", [{}, {"mechanism": "none"}, {"mechanism": None}, {"mechanism": "magic"}])
def test_without_a_mechanism_nothing_is_promised(dp: dict[str, Any]):
    assert promise.sentence(dp, rounds(1.0)) is None
    assert (promise.warnings(dp, rounds(1.0)), promise.facts(dp, rounds(1.0))) == ([], [])
    assert promise.document(dp, rounds(1.0), None) is None
    assert report_promise.section(dp, rounds(1.0), None, 10) is None


@pytest.mark.parametrize("records", [[], rounds(None), rounds(math.inf), rounds(3.0, None)])
def test_what_no_record_says_is_not_claimed(records: list[dict[str, Any]]):
    told = promise.sentence(DP, records)
    assert told is not None
    assert "nothing is claimed" in told
    found = promise.document(DP, records, None)
    assert found is not None
    assert found["epsilon"] is None
    json.dumps(found, allow_nan=False)


def test_seeded_noise_is_stamped_first_and_everywhere():
    records = rounds(4.0) + rounds(8.0, private=False)
    told = promise.sentence(DP, records)
    assert told is not None
    assert told.startswith("NOT PRIVATE")
    assert promise.warnings(DP, records)[0].startswith("NOT PRIVATE")
    section = report_promise.section(DP, records, None, 10)
    assert section is not None
    assert section["stamp"]
    assert not any("NOT" in one for one in section["warnings"])


def test_less_noise_than_planned_a_large_epsilon_and_bare_arithmetic_are_warned_of():
    assert promise.warnings(DP, rounds(8.0)) == []
    assert "1 of 2 rounds less noise" in promise.warnings(DP, rounds(3.0) + rounds(4.0, real=2.5))[0]
    assert "hardly a promise" in promise.warnings(DP, rounds(12.0))[0]
    bare = rounds(8.0)
    bare[0]["secagg"]["cryptography"] = "ring"
    assert "without keys and masks" in promise.warnings(DP, bare)[0]
    assert promise.warnings(DP | {"mechanism": "central"}, bare) == []


def test_what_a_test_can_do_is_never_above_one():
    assert "at most 30% of" in promise.meaning(8.0, 1e-5)
    assert "no bound" in promise.meaning(9.3, 1e-5)
    assert "no bound" in promise.meaning(1e9, 1e-5)


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ('[privacy.dp]\nmechanism = "central"\nepsilon = 3.0\n', 3.0),
        ('[privacy.dp]\nmechanism = "central"\nepsilon = 8.0\nnoise_multiplier = 2.0\n', None),
        ('[privacy.dp]\nmechanism = "none"\nepsilon = 8.0\n', None),
        ("", None),
        ("privacy = 3", None),
        ("not toml [", None),
    ],
)
def test_the_target_is_that_of_the_configuration(toml: str, expected: float | None):
    assert report_promise.target(toml) == expected


def test_the_rows_of_the_releases():
    records = rounds(3.0, real=2.5) + rounds(4.0)
    records[1] |= {"round": 2, "void": True, "secagg": None}
    section = report_promise.section(DP, records, None, 10)
    assert section is not None
    assert section["rows"] == [
        ["1", "40", "2.7", "2.5", "3", "less than planned"],
        ["2", "–", "2.7", "–", "4", "void: charged all the same"],
    ]
    last = report_promise.section(DP, records, None, 1)
    assert last is not None
    assert (len(last["rows"]), last["rows_left_out"]) == (1, 1)


@pytest.mark.parametrize("mechanism", ["matrix", "local", "sgd"])
def test_noise_that_is_not_a_sums_is_not_called_so(mechanism: str):
    records = rounds(8.0)
    records[0]["dp"] = records[0]["dp"] | {"mechanism": mechanism}
    told = dict(promise.facts(DP | {"mechanism": mechanism}, records))
    assert "Noise in a sum, in clip norms" not in told
    assert any("2.7" in value for value in told.values())
    assert plots_noise.noise_svg(records) is None


@pytest.mark.slow
def test_the_pictures_show_target_noise_and_its_lack():
    records = rounds(3.0) + rounds(4.0, real=2.5)
    records[1]["round"] = 2
    assert "target 8" in (plots_noise.epsilon_svg(records, 8.0) or "")
    assert "target" not in (plots_noise.epsilon_svg(records) or "")
    drawn = plots_noise.noise_svg(records) or ""
    assert "planned" in drawn
    assert "really there" in drawn
    assert "too little" in drawn
    assert "too little" not in (plots_noise.noise_svg(rounds(3.0)) or "")
    assert plots_noise.epsilon_svg(rounds(None)) is None
    assert plots_noise.noise_svg([{"round": 1, "epsilon": None}]) is None


def ledger_of(folder: Path, *, private: bool = True) -> Path:
    from carpool.privacy.dp.events import Event
    from carpool.privacy.dp.ledger import Ledger
    from carpool.privacy.dp.ledgerlines import Header, Release

    path = folder / "ledger.jsonl"
    with Ledger.open(path, Header("run", "r", "vehicle", "zero-out", 1e-5, private)) as ledger:
        ledger.charge(
            Release(
                run="r", round=1, what="model sum", mechanism="central", event=Event("gaussian", 1.0),
                unit="vehicle", relation="zero-out", delta=1e-5, clip_norm=1.0, cohort=40,
                noise_from="server", releases=1, separation=0, most=0, private=private,
            )
        )  # fmt: skip
    return path


def test_the_ledgers_head_and_epsilon_from_it_alone(tmp_path: Path):
    assert ledgerfacts.ledger_head(tmp_path) is None
    path = ledger_of(tmp_path)
    found = ledgerfacts.ledger_head(tmp_path)
    assert found is not None
    assert found["fault"] is None
    assert found["epsilon"] == pytest.approx(4.37718, abs=1e-4)
    assert (found["charges"], found["private"], len(found["hash"])) == (1, True, 64)
    quick = ledgerfacts.ledger_head(tmp_path, compute=False)
    assert quick is not None
    assert quick["epsilon"] is None
    assert quick["hash"] == found["hash"]
    rows = dict(promise.facts(DP, rounds(4.4), found))
    assert rows["Head of the ledger"].endswith(found["hash"])
    path.write_text(path.read_text().replace('"cohort":40', '"cohort":41'))
    damaged = ledgerfacts.ledger_head(tmp_path)
    assert damaged is not None
    assert damaged["fault"]
    assert damaged["epsilon"] is None
    assert dict(promise.facts(DP, rounds(4.4), damaged))["Ledger"].startswith("damaged")


@pytest.mark.parametrize("private", [True, False])
def test_show_says_the_promise_and_where_to_check_it(tmp_path: Path, private: bool):
    (tmp_path / "config.toml").write_text(
        '[experiment]\nname = "p"\nrounds = 1\n[privacy]\nchannel = "plain"\n'
        '[privacy.dp]\nmechanism = "central"\nunit = "vehicle"\nrelation = "zero-out"\ndelta = 1e-05\n'
    )
    (tmp_path / "rounds.jsonl").write_text(json.dumps(rounds(4.377, private=private)[0]) + "\n")
    ledger_of(tmp_path, private=private)
    run = read_run(tmp_path)
    found = document(run)["dp"]
    assert (found["epsilon"], found["private"], found["ledger"]["charges"]) == (4.377, private, 1)
    with out().capture() as captured:
        out().print(screen(run))
    told = " ".join(captured.get().split())
    assert "psilon 4.377 at delta 1e-05" in told
    assert "carpool privacy ledger" in told
    assert "none: the server saw" not in told
    assert ("NOT PRIVATE" in told) is not private
