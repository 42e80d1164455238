"""Engine `ray`: the same fleet above Flower's Grid as on `inline`; real runs end alike and leave nothing."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from carpool.experiments import ray_engine, ray_grid
from carpool.experiments.availability import Bernoulli, Leave
from carpool.experiments.cli import run as carpool
from carpool.experiments.inline import RUN_ID, InlineGrid, SimulatedGrid, VirtualClock, node_of
from carpool.experiments.pace import Pace
from carpool.experiments.ray_grid import PLAYED, RayGrid, vehicle_app
from carpool.privacy.errors import RunError
from carpool.privacy.wire import FAILURES, RECORD
from carpool.server.round import wire_of

Write = Callable[..., Path]
VEHICLES = 14
RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not RAY, reason="Ray is not installed: pip install 'carpool[ray]'")


def reply_of(index: int) -> bytes:
    return bytes([index]) * 500


class Flower:
    """Stands for Flower's in-memory Grid: two nodes, replies in the wrong order and not at once."""

    run = Run.create_empty(7)

    def __init__(self) -> None:
        self.waiting: list[Message] = []
        self.trained: list[int] = []
        self.nodes: list[int] = []
        self.pulls = 0
        self.error: Error | None = None

    def get_node_ids(self) -> list[int]:
        return [901, 902]

    def push_messages(self, messages: list[Message]) -> list[str]:
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"flower-{len(self.nodes)}"
            self.nodes.append(message.metadata.dst_node_id)
            self.waiting.append(message)
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, ids: list[str]) -> list[Message]:
        self.pulls += 1
        if not self.waiting or self.pulls % 2:
            return []
        message = self.waiting.pop()
        assert message.metadata.message_id in ids, "a reply that was had is asked for again"
        index = int(message.content[PLAYED]["vehicle"])
        self.trained.append(index)
        content = self.error or RecordDict({RECORD: ConfigRecord({RECORD: reply_of(index)})})
        return [Message(content, reply_to=message)]


class Fleet:
    """The same simulated fleet on `inline` or above Flower."""

    def __init__(self, engine: str, **leave: float) -> None:
        self.clock, self.flower, self.dead = VirtualClock(), Flower(), False
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            wire = reply_of(int(context.node_config["partition-id"]))
            return Message(RecordDict({RECORD: ConfigRecord({RECORD: wire})}), reply_to=message)

        availability = Bernoulli(VEHICLES, Leave(**leave), seed=1)
        pace = Pace(VEHICLES, 1, seconds_per_example=1.0, spread=0.3, uplink_mbit=0.01, downlink_mbit=1.0)
        fleet = (availability, pace, np.full(VEHICLES, 20), self.clock)

        def context(index: int) -> Context:
            return Context(RUN_ID, node_of(index), {"partition-id": index}, RecordDict(), {})

        self.grid: SimulatedGrid = InlineGrid(app, *fleet, context)
        if engine == "ray":
            self.grid = RayGrid(self.flower, Path("/run"), *fleet, self.check)  # type: ignore[arg-type]

    def check(self) -> None:
        if self.dead:
            raise RunError("gone")

    def ask(self, round_: int = 1, ttl: float | None = None) -> list[str]:
        task = RecordDict({RECORD: ConfigRecord({RECORD: bytes(2000)})})
        nodes = self.grid.get_node_ids()
        return list(
            self.grid.push_messages(
                [self.grid.create_message(task, "train", n, str(round_), ttl) for n in nodes]
            )
        )

    def replies(self, ids: list[str]) -> list[tuple[float, str, bytes]]:
        """(when, which vehicle, what) of everything that comes."""
        found = []
        for _ in range(3 * VEHICLES):
            found += [
                (self.clock.now(), m.metadata.src_node_id, wire_of(m)) for m in self.grid.pull_messages(ids)
            ]
            self.clock.wait(self.clock.now() + 1e6)
        return found


@pytest.fixture(autouse=True)
def a_task() -> Iterator[None]:
    """Messages are made inside a task; a process that a failed test began is ended, and Ray with it."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, 1, 0
    yield
    while BEGUN:
        process = BEGUN.pop()
        process.kill()
        process.communicate()


@pytest.mark.parametrize("leave", [{}, dict.fromkeys(Leave.__dataclass_fields__, 0.15)])
def test_who_replies_with_what_and_when_is_as_on_inline(leave: dict[str, float]) -> None:
    inline, ray = Fleet("inline", **leave), Fleet("ray", **leave)
    for round_ in (1, 2):
        expected = inline.replies(inline.ask(round_))
        assert expected
        assert ray.replies(ray.ask(round_)) == expected
        assert ray.grid.left(round_) == inline.grid.left(round_)
    assert len({len(wire) for _, _, wire in expected}) > (1 if leave else 0), "some break off"


def test_only_those_whose_reply_is_needed_are_trained_and_nodes_share_them() -> None:
    fleet = Fleet("ray", before_training=0.4, before_upload=0.3)
    replies = fleet.replies(fleet.ask())
    assert 0 < len(replies) < VEHICLES
    assert sorted(fleet.flower.trained) == sorted(node - 1 for _, node, _ in replies)
    assert abs(fleet.flower.nodes.count(901) - fleet.flower.nodes.count(902)) <= 1


def test_what_comes_after_the_longest_round_is_not_trained() -> None:
    whole = Fleet("ray")
    times = [when for when, _, _ in whole.replies(whole.ask())]
    middle = float(np.median(times))
    fleet = Fleet("ray")
    found = fleet.replies(fleet.ask(ttl=middle))
    assert [when for when, _, _ in found] == [when for when in times if when <= middle]
    assert len(fleet.flower.nodes) == len(found)


def test_a_forgotten_round_ends_unheard() -> None:
    fleet = Fleet("ray")
    old = fleet.ask(1)
    fleet.clock.wait(1e6)
    assert len(list(fleet.grid.pull_messages(old))) == 1
    assert fleet.grid._trained, "others are trained and not yet due"  # type: ignore[attr-defined]
    fleet.grid.forget(1)
    assert not fleet.grid._trained, "a reply that nobody waits for is not kept"  # type: ignore[attr-defined]
    new = fleet.ask(2)
    assert len(fleet.replies(old + new)) == VEHICLES
    for _ in range(4 * VEHICLES):
        fleet.grid.pull_messages(old)
    assert not fleet.grid._asked
    assert not fleet.grid._trained  # type: ignore[attr-defined]


def test_a_vehicle_that_refuses_is_not_a_worker_that_fails() -> None:
    fleet, broken = Fleet("ray"), Fleet("ray")
    fleet.flower.error = Error(1001, FAILURES[1001])
    ids = fleet.ask()
    fleet.clock.wait(1e6)
    [reply] = fleet.grid.pull_messages(ids)
    assert (reply.error.code, reply.error.reason) == (1001, FAILURES[1001])
    broken.flower.error = Error(
        2, "<class 'ray.X'>:<'ray::run()\n  File 1\nX: Message: no such file: a.npz'>"
    )
    ids = broken.ask()
    broken.clock.wait(1e6)
    with pytest.raises(RunError, match=r"failed: no such file: a\.npz; .*inline"):
        broken.grid.pull_messages(ids)


def test_an_engine_that_ends_is_noticed() -> None:
    fleet = Fleet("ray")
    ids = fleet.ask()
    fleet.clock.wait(1e6)
    fleet.dead = True
    with pytest.raises(RunError, match="gone"):
        fleet.grid.pull_messages(ids)


def test_a_node_plays_the_vehicle_that_the_message_names(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def play(message: Message, context: Context) -> Message:
        seen.extend([context.node_id, context.node_config, context.run_config])
        return Message(RecordDict(), reply_to=message)

    monkeypatch.setattr(ray_grid, "client_app", play)
    content = RecordDict({PLAYED: ConfigRecord({"vehicle": 4, "folder": "/runs/a"})})
    node = Context(RUN_ID, 901, {"partition-id": 0}, RecordDict(), {})
    vehicle_app(Message(content, 901, "train", group_id="1"), node)
    assert seen == [5, {"partition-id": 4}, {"carpool-folder": "/runs/a"}]


def test_without_ray_the_hint_says_what_to_install(
    tiny: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine.importlib.util, "find_spec", lambda name: None)
    arguments = ["run", str(tiny()), "--set", "experiment.engine=ray", "--out", str(tmp_path / "r")]
    assert carpool(arguments) == 2
    assert "pip install 'carpool[ray]'" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["ray.address=auto"], "which only engine ray uses"),
        (["experiment.engine=ray", "experiment.workers=2"], "one worker for each CPU"),
        (["experiment.engine=ray", "ray.address=ray://host:10001"], 'ray.address = "auto"'),
    ],
)
def test_what_does_not_fit_together_is_refused(
    tiny: Write, capsys: pytest.CaptureFixture[str], sets: list[str], words: str
) -> None:
    arguments = ["validate", str(tiny())]
    for value in sets:
        arguments += ["--set", value]
    assert carpool(arguments) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_the_folder_of_a_killed_run_is_removed_by_the_next() -> None:
    root = Path("/tmp")
    dead, living = root / f"{ray_engine.PREFIX}99999999-x", root / f"{ray_engine.PREFIX}{os.getppid()}-test"
    for folder in (dead, living):
        folder.mkdir(exist_ok=True)
    try:
        with ray_engine.temporary_folder() as own:
            assert own.is_dir()
            assert own.stat().st_mode & 0o077 == 0, "nobody else reads the logs"
            assert not dead.exists()
            assert living.is_dir()
        assert not own.exists()
    finally:
        living.rmdir()


BEGUN: list[subprocess.Popen[str]] = []
CARPOOL = [sys.executable, "-c", "from carpool.experiments.cli import main; main()"]


def hear_interruptions() -> None:
    """A shell that runs its jobs in the background lets them ignore Ctrl-C; these are to hear it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def begin(*arguments: str | Path) -> subprocess.Popen[str]:
    """Carpool as a process, in a process group of its own as on a terminal."""
    process = subprocess.Popen(
        [*CARPOOL, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_interruptions,
    )
    BEGUN.append(process)
    return process


def descendants(process: subprocess.Popen[str], name: str = "") -> list[psutil.Process]:
    """The living processes below this one whose title holds `name`."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if name in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def wait_until(true: Callable[[], Any], seconds: float = 120.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(true())


def lines(folder: Path) -> list[dict[str, Any]]:
    file = folder / "rounds.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def compare(folder: Path, other: Path) -> None:
    """The same number of replies in every round and the same accuracy within a point."""
    ours, theirs = lines(folder), lines(other)
    for name in ("asked", "replied", "refused", "left", "fleet_seconds"):
        assert [r[name] for r in ours] == [r[name] for r in theirs], name
    for one, two in zip(ours, theirs, strict=True):
        assert abs(one["accuracy"] - two["accuracy"]) <= 0.01


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@needs_ray
@pytest.mark.slow
def test_a_run_on_ray_ends_as_on_inline_and_leaves_nothing(tiny: Write, tmp_path: Path) -> None:
    file = tiny()
    assert carpool(["run", str(file), "--out", str(tmp_path / "inline"), "--json"]) == 0
    process = begin("run", file, "--out", tmp_path / "ray", "--json", "--set", "experiment.engine=ray")
    assert wait_until(lambda: lines(tmp_path / "ray") or process.poll() is not None)
    everybody = descendants(process)
    [raylet] = [child for child in everybody if child.name() == "raylet"]
    assert raylet.environ()["RAY_AUTH_MODE"] == "token", "Ray listens on every interface"
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert json.loads(out)["engine"] == "ray"
    assert err == "", "--json is quiet"
    compare(tmp_path / "ray", tmp_path / "inline")
    assert wait_until(lambda: not any(child.is_running() for child in everybody), 20), everybody


@needs_ray
@pytest.mark.nightly
def test_a_killed_worker_and_ctrl_c_change_nothing(tiny: Write, tmp_path: Path) -> None:
    file = tiny()
    file.write_text(
        file.read_text()
        .replace("rounds = 6", "rounds = 60")
        .replace("[train]", '[train]\nbatching = "sequential"')
    )
    assert carpool(["run", str(file), "--out", str(tmp_path / "inline"), "--json"]) == 0
    process = begin("run", file, "--out", tmp_path / "ray", "--set", "experiment.engine=ray")
    assert wait_until(lambda: len(lines(tmp_path / "ray")) >= 2 or process.poll() is not None)
    everybody = descendants(process)
    # An actor's title is set a moment after it began, and changes with what it does.
    assert wait_until(lambda: bool(descendants(process, "ray::ClientAppActor")))
    workers = descendants(process, "ray::ClientAppActor")
    workers[0].kill()
    assert wait_until(lambda: len(lines(tmp_path / "ray")) >= 12 or process.poll() is not None)
    everybody += descendants(process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"carpool run --resume {tmp_path / 'ray'}" in " ".join(err.split())
    assert "Traceback" not in err
    assert 12 <= len(lines(tmp_path / "ray")) < 60
    assert wait_until(lambda: not any(child.is_running() for child in everybody), 20), everybody
    process = begin("run", "--resume", tmp_path / "ray")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    compare(tmp_path / "ray", tmp_path / "inline")
    assert digest(tmp_path / "ray") == digest(tmp_path / "inline"), "folded in the same order"


@needs_ray
@pytest.mark.nightly
def test_ctrl_c_does_not_wait_for_a_training_under_way(tiny: Write, tmp_path: Path) -> None:
    file = tiny()
    source = tmp_path / "tiny_source.py"
    slow = "    import sys, time\n    time.sleep(120 if 'default_worker' in sys.argv[0] else 0)\n    rng ="
    source.write_text(source.read_text().replace("    rng =", slow, 1))
    process = begin("run", file, "--out", tmp_path / "ray", "--set", "experiment.engine=ray")
    assert wait_until(lambda: process.poll() is not None or descendants(process, "ray::ClientAppActor.run"))
    everybody = descendants(process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert wait_until(lambda: not any(child.is_running() for child in everybody), 20), everybody
