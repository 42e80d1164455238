"""How worker processes begin: as forks of one process that has imported everything, begun early.

To import torch and Flower takes two seconds of CPU. Forking the main process would be quicker still, but it
has threads, and a lock that one of them holds stays locked in the fork for ever. The process that is forked
here does nothing but import. Elsewhere than on Linux, and with a GPU (CUDA does not survive a fork), every
worker is a fresh interpreter.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from carpool.experiments.config import Experiment

IMPORTED = ["carpool.experiments.workshop"]
GPU = Path("/dev/nvidiactl")
"""There where a GPU may be; to ask torch would take as long as what is to be saved."""


def forks(device: str) -> bool:
    """Whether workers for this device ("cpu", "cuda", ...) are forked."""
    return sys.platform == "linux" and device == "cpu"


def begin_early(experiment: Experiment) -> None:
    """Have another core import what workers need, while this process does; before it has imported torch."""
    general, device = experiment.experiment, experiment.train.device
    device = "cpu" if device == "auto" and not GPU.exists() else device
    if general.workers > 1 and general.engine == "inline" and forks(device):
        with suppress(OSError):  # then it begins, or fails, with the first worker
            _ready()


def context(device: str) -> ForkServerContext | SpawnContext:
    """What worker processes are made by."""
    if not forks(device):
        return multiprocessing.get_context("spawn")
    _ready()
    return multiprocessing.get_context("forkserver")


def _ready() -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # so that importing starts no threads, which a fork would lose
    forkserver.set_forkserver_preload(IMPORTED)
    if threading.current_thread() is not threading.main_thread():
        forkserver.ensure_running()
        return
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the child: Ctrl-C is this process's to handle
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, heard)


def end() -> None:
    """End the process that is forked, so that its CPU time, and its forks', is that of a child that ended.

    Not while it has forks left: it would wait for them. It begins again where it is needed again.
    """
    if multiprocessing.active_children():
        return
    with suppress(AttributeError, OSError):  # Python's own tests end it like this; there is no public way
        forkserver._forkserver._stop()  # type: ignore[attr-defined]
