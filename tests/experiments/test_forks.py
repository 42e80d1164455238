"""Worker processes are forks of one that only imports; it is begun early and leaves nothing behind."""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path

import psutil
import pytest

from carpool.experiments import forks
from carpool.experiments.load import load_experiment

Write = Callable[..., Path]
linux = pytest.mark.skipif(not forks.forks("cpu"), reason="workers are forked on Linux only")


def server() -> int | None:
    pid: int | None = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    return pid


def spent() -> None:
    sum(k for k in range(20_000_000))


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "IMPORTED", ["json"])
    forks.end()


def test_with_a_gpu_every_worker_is_a_fresh_interpreter() -> None:
    assert forks.context("cuda").get_start_method() == "spawn"
    assert server() is None


@linux
@pytest.mark.parametrize(
    ("sets", "begins"),
    [
        (("experiment.workers=2",), True),
        (("experiment.workers=1",), False),
        (("experiment.workers=2", "train.device=cuda"), False),
    ],
)
def test_it_begins_where_workers_will_be_forked(
    tiny: Write, sets: tuple[str, ...], begins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks, "GPU", Path("/nowhere"))
    forks.begin_early(load_experiment(tiny(), sets))
    pid = server()
    assert (pid is not None) is begins
    forks.end()
    assert server() is None
    assert pid is None or not psutil.pid_exists(pid)


@linux
@pytest.mark.slow
def test_the_time_of_workers_counts_as_that_of_children() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    process = forks.context("cpu").Process(target=spent)
    process.start()
    assert process.pid is not None
    assert psutil.Process(process.pid).ppid() == server() != os.getpid()
    forks.end()
    assert server() is not None  # it would wait for the worker
    process.join()
    assert not multiprocessing.active_children()
    forks.end()
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime > before + 0.1
