"""Whole runs with `privacy.channel = "sealed"`: the model of `plain`, and ciphertext alone on the wire."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message

from carpool.experiments import run as runs
from carpool.experiments.inline import InlineGrid
from carpool.experiments.load import load_experiment
from carpool.experiments.run import Nobody, engine, resume, start
from carpool.experiments.simfleet import KEYS
from carpool.experiments.workshop import Workshop
from carpool.privacy.errors import VehicleError
from carpool.privacy.sealed_update import OVERHEAD
from carpool.privacy.wire import RECORD, decode_contribution
from carpool.server.messages import wire_of

Write = Callable[..., Path]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")
CARPOOL = [sys.executable, "-c", "from carpool.experiments.cli import main; main()"]
SEALED = "privacy.channel=sealed"
STAY = tuple(
    f"fleet.leave.{stage}=0.0"
    for stage in ("before_training", "during_training", "before_upload", "during_upload", "after_upload")
)


def go(file: Path, out: Path, *sets: str, **more: Any) -> dict[str, Any]:
    return start(load_experiment(file, sets), out=out, **more)[1]


def model(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def both(file: Path, out: Path, *sets: str) -> tuple[list[Any], list[Any]]:
    """The rounds of a plain and of a sealed run of the same seed, which end with the same model."""
    found = []
    for channel in ("plain", "sealed"):
        result = go(file, out / channel, *sets, f"privacy.channel={channel}")
        assert result["privacy"]["channel"] == channel
        found.append(result["rounds"])
    assert model(out / "plain") == model(out / "sealed")
    return found[0], found[1]


def alike(plain: Iterable[Any], sealed: Iterable[Any]) -> None:
    """Every line is the same but for the wall clock and the length of what was sent."""
    for one, other in zip(plain, sealed, strict=True):
        same = {"seconds": 0, "bytes_up": 0}
        assert one | same == other | same


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ("experiment.workers=1",),
        ("experiment.workers=2",),
        ("strategy.name=median",),
        ("strategy.name=scaffold",),
        ("strategy.name=rfa",),
        ("strategy.name=fedbuff", "strategy.options.buffer=3", "selection.deadline_max_s=100.0"),
        ("compression.name=int8", "train.batching=stacked"),
        ("attack.name=alie", "attack.fraction=0.25", "strategy.name=krum", "selection.cohort=6"),
        ("attack.name=alie", "attack.fraction=0.25", "experiment.workers=2"),
    ],
    ids=" ".join,
)
def test_a_sealed_run_ends_with_the_model_of_a_plain_one(
    tiny: Write, tmp_path: Path, more: tuple[str, ...]
) -> None:
    alike(*both(tiny(), tmp_path, "experiment.rounds=4", *more))


@needs_ray
@pytest.mark.nightly
def test_a_sealed_run_on_ray_ends_with_the_model_of_a_plain_one(tiny: Write, tmp_path: Path) -> None:
    """And with that of `inline`: Ray's workers read the keys in the run's folder."""
    file, found = tiny(), {}
    for engine_, channel in (("ray", "plain"), ("ray", "sealed"), ("inline", "sealed")):
        out = tmp_path / f"{engine_}-{channel}"
        settings = ("experiment.rounds=2", f"experiment.engine={engine_}", f"privacy.channel={channel}")
        arguments = ["run", file, "--out", out, "--json", *(w for one in settings for w in ("--set", one))]
        done = subprocess.run(
            [*CARPOOL, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=True
        )
        found[out.name] = json.loads(done.stdout)["rounds"], model(out)
    alike(found["ray-plain"][0], found["ray-sealed"][0])
    assert sum(r["replied"] for r in found["ray-sealed"][0]) > 0
    assert len({model for _, model in found.values()}) == 1


@pytest.mark.slow
def test_the_bytes_of_the_totals_are_the_sealed_ones(tiny: Write, tmp_path: Path) -> None:
    for one, other in zip(*both(tiny(), tmp_path, "experiment.rounds=3", *STAY), strict=True):
        assert one["asked"] == one["replied"] == other["replied"] == 6
        assert other["bytes_up"] == one["bytes_up"] + 6 * OVERHEAD
        assert other["bytes_down"] == one["bytes_down"]


class StopAfterTwo(Nobody):
    def round(self, record: Any) -> None:
        if record["round"] == 2:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_resumed_run_finds_its_keys(tiny: Write, tmp_path: Path) -> None:
    go(tiny(), tmp_path / "whole", "experiment.rounds=4", SEALED)
    with pytest.raises(KeyboardInterrupt):
        go(tiny(), tmp_path / "cut", "experiment.rounds=4", SEALED, watcher=StopAfterTwo())
    keys = {path.name: path.read_bytes() for path in (tmp_path / "cut" / KEYS).iterdir()}
    assert set(keys) == {"ca.key", "aggregator.key", "sealing.key"}
    resume(tmp_path / "cut")
    assert {path.name: path.read_bytes() for path in (tmp_path / "cut" / KEYS).iterdir()} == keys
    assert model(tmp_path / "cut") == model(tmp_path / "whole")


@pytest.mark.slow
def test_a_plain_run_has_no_keys(tiny: Write, tmp_path: Path) -> None:
    go(tiny(), tmp_path / "r", "experiment.rounds=1")
    assert not (tmp_path / "r" / KEYS).exists()


class Relay(InlineGrid):
    """Between vehicles and server: keeps what it sees, and changes what it delivers."""

    seen: list[tuple[int, bytes]]
    change: Callable[[int, bytes], bytes]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for reply in super().pull_messages(message_ids):
            node, wire = reply.metadata.src_node_id, wire_of(reply)
            self.seen.append((node, wire))
            changed = type(self).change(node, wire)
            reply.content[RECORD] = ConfigRecord({RECORD: changed})
            yield reply


def relayed(
    tiny: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[int, bytes], bytes]
) -> tuple[list[Any], list[tuple[int, bytes]]]:
    seen: list[tuple[int, bytes]] = []
    relay = type("Changing", (Relay,), {"seen": seen, "change": staticmethod(change)})
    monkeypatch.setattr(runs, "InlineGrid", relay)
    sets = ("experiment.rounds=3", *STAY, SEALED)
    return go(tiny(), tmp_path / "r", *sets)["rounds"], seen


@pytest.mark.slow
def test_the_relay_sees_ciphertext(tiny: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a message of ours nor anything that compresses; the same task is never sealed alike."""
    rounds, seen = relayed(tiny, tmp_path, monkeypatch, lambda node, wire: wire)
    assert sum(r["replied"] for r in rounds) == len(seen) == 18
    for _, wire in seen:
        with pytest.raises(VehicleError):
            decode_contribution(wire)
        assert b"delta" not in wire
    bits = np.unpackbits(np.frombuffer(b"".join(wire[OVERHEAD - 16 :] for _, wire in seen), np.uint8))
    # 50 standard deviations would be a plain float's; 5 are passed by chance in one of 1.7 million runs.
    assert abs(bits.mean() - 0.5) < 5 * 0.5 / np.sqrt(bits.size)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["swapped", "replayed", "flipped", "cut", "emptied"])
def test_what_the_relay_does_to_one_vehicle_is_refused_and_counted(
    tiny: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    """From the second round on; the run goes on with the others."""
    kept: list[tuple[int, bytes]] = []
    victims: list[int] = []

    def change(node: int, wire: bytes) -> bytes:
        number = len(kept) // 6
        kept.append((node, wire))
        own = [w for n, w in kept[: 6 * number] if n == node]
        others = [w for n, w in kept if n != node]
        if number == 0 or number in victims or (attack == "replayed" and not own):
            return wire
        victims.append(number)
        return {
            "swapped": others[-1],
            "replayed": own[-1] if own else b"",
            "flipped": wire[:-1] + bytes([wire[-1] ^ 1]),
            "cut": wire[: len(wire) // 2],
            "emptied": b"",
        }[attack]

    rounds, _ = relayed(tiny, tmp_path, monkeypatch, change)
    assert victims
    assert [r["refused"] for r in rounds] == [int(n in victims) for n in range(3)]
    assert [r["replied"] for r in rounds] == [6 - r["refused"] for r in rounds]
    assert not any(r["void"] for r in rounds)


def test_vehicles_of_a_sealed_run_hand_nothing_over(tiny: Write, tmp_path: Path) -> None:
    with engine(tmp_path, Workshop(load_experiment(tiny(), (SEALED,)), "r"), 0.0) as grid:
        assert isinstance(grid, InlineGrid)
        assert grid.by_wire
