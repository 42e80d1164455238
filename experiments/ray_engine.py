"""Engine `ray`: Flower's simulation engine on Ray, below the simulated fleet of `ray_grid.py`.

The server's half runs in this process, in the main thread, as on `inline`. Ray belongs to the run: it is
started with it, and nothing of it is left afterwards; a cluster that is up stays up.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import queue
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from carpool.experiments.ray_grid import vehicle_app
from carpool.experiments.signals import uninterrupted
from carpool.privacy.errors import RunError, UsageError

GPU_SHARE = 0.25
"""Of one GPU for each worker, where training is on GPUs."""
CONNECT_S = 5.0
PREFIX = "carpool-ray-"
"""Of the folder for Ray's sockets and logs; the number of our process follows."""
RESTARTS = 5
"""Of a worker that was killed; its vehicle is trained again."""
ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Of this process where it is not set, and of the workers: no telemetry, one thread, no noise."""


class Simulation:
    """Flower's simulation engine in threads of its own, on a Ray that is up.

    nodes: of Flower, as many as are trained in a round, since each takes one message at a time.
    Its ServerApp does nothing but hand its Grid over: ours runs in the main thread, which hears Ctrl-C.
    """

    def __init__(self, nodes: int, gpus: float) -> None:
        self._handed: queue.Queue[Grid] = queue.Queue()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        resources = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": RESTARTS, "max_task_retries": RESTARTS}
        self._thread = threading.Thread(target=self._simulate, args=(nodes, resources), daemon=True)
        self._nodes = nodes
        self._thread.start()

    def _simulate(self, nodes: int, resources: dict[str, float]) -> None:
        from flwr.simulation import run_simulation

        app = ServerApp()

        @app.main()
        def hand_over(grid: Grid, context: Context) -> None:
            self._handed.put(grid)
            self._stop.wait()

        try:
            run_simulation(app, vehicle_app, nodes, backend_config={"client_resources": resources})  # type: ignore[dict-item]
        except BaseException as error:  # of a thread: `check` raises it in the main one
            self._failure = error

    def grid(self) -> Grid:
        """Flower's Grid, once all nodes are there; raises RunError."""
        grid: Grid | None = None
        while grid is None or len(list(grid.get_node_ids())) < self._nodes:
            self.check()
            with suppress(queue.Empty):
                grid = self._handed.get(timeout=0.05) if grid is None else grid
        return grid

    def check(self) -> None:
        """Raise RunError if the engine has ended."""
        if not self._thread.is_alive():
            cause = self._failure.__cause__ or self._failure if self._failure else None
            raise RunError(
                f"Flower's simulation engine ended: {cause or 'no reason given'}; "
                "go on with carpool run --resume"
            ) from self._failure

    def stop(self, ray: Any) -> None:
        """End the workers, whatever they are at, then the threads."""
        self._stop.set()
        end_workers(ray)
        self._thread.join(timeout=60)


def end_workers(ray: Any) -> None:
    """Kill the actors of this run: Flower's threads would wait for a training under way to end."""
    # Flower keeps the actors to itself and Ray lists them only here; without it we wait for the trainings.
    with suppress(Exception):
        job = ray.get_runtime_context().get_job_id()
        state = importlib.import_module("ray._private.state")
        core = importlib.import_module("ray._private.worker").global_worker.core_worker
        for name, facts in state.actors().items():
            if facts["JobID"] == job:
                core.kill_actor(ray.ActorID.from_hex(name), True)


def require_ray(address: str) -> Any:
    """The module `ray`, made ready for a cluster's address or "" for this machine; raises UsageError."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError(
            "experiment.engine \"ray\" needs Ray, which is not installed; pip install 'carpool[ray]', "
            'or use engine = "inline"'
        )
    for name, value in ENVIRONMENT.items():  # Ray reads them when it is imported
        os.environ.setdefault(name, value)
    if not address:
        # Ray listens on every interface: without a token, whoever reaches a port could run code here.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    return importlib.import_module("ray")


@contextmanager
def simulation(nodes: int, *, address: str = "", gpu: bool = False) -> Iterator[Simulation]:
    """Ray and Flower's engine on it, until the block ends.

    address: of a cluster that is up; empty: a Ray of our own on this machine, gone afterwards, files too.
    gpu: workers train on GPUs. Raises UsageError, RunError.
    """
    ray = require_ray(address)
    if ray.is_initialized():
        raise UsageError("Ray is already in use in this process; call ray.shutdown() before the run")
    with quiet(), temporary_folder() as temporary:
        try:
            start_ray(ray, address, temporary)
            engine = Simulation(nodes, GPU_SHARE if gpu else 0.0)
            try:
                yield engine
            finally:
                engine.stop(ray)
        finally:
            ray.shutdown()


def start_ray(ray: Any, address: str, temporary: Path) -> None:
    """Start Ray here or connect to the cluster; raises UsageError, RunError."""
    common = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.CRITICAL}
    try:
        if address:
            del common["include_dashboard"]
            reachable(address)
            with own_sigterm():
                ray.init(address=address, runtime_env={"env_vars": ENVIRONMENT}, **common)
        else:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
            with uninterrupted():  # half a start leaves processes behind
                ray.init(address="local", num_cpus=cores, _temp_dir=str(temporary), **common)
    except SystemExit as ending:  # what Ray makes of SIGTERM while it starts
        raise KeyboardInterrupt from ending
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
        text = text.splitlines()[0].rstrip(".")
        if address:
            raise UsageError(
                f"ray.address is {address!r}, but no Ray cluster answers there ({text}); start one with "
                'ray start --head, or leave ray.address = "" for this machine alone'
            ) from error
        raise RunError(f'Ray does not start here ({text}); use experiment.engine = "inline"') from error


def reachable(address: str) -> None:
    """Raise OSError where nobody listens at host:port: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()


@contextmanager
def own_sigterm() -> Iterator[None]:
    """Ray takes SIGTERM for itself when it starts: give it back."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for Ray's sockets and logs, for this user only, gone after the block."""
    # Not $TMPDIR where it can be helped: the path of a socket has 107 bytes at most.
    parent = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())  # noqa: S108
    for old in parent.glob(f"{PREFIX}*-*"):  # of runs that were killed
        number = old.name.removeprefix(PREFIX).split("-")[0]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Neither Flower nor Ray writes to the terminal, and Flower sends and stores no telemetry."""
    telemetry: Any = importlib.import_module("flwr.supercore.telemetry")
    telemetry.FLWR_TELEMETRY_ENABLED = "0"  # read from the environment at the first import of flwr
    telemetry.state["source"] = "unavailable"  # else it makes a file in the user's home even so
    worker: Any = importlib.import_module("ray._private.worker")
    logger = logging.getLogger("flwr")
    before, shown = logger.level, getattr(worker, "_worker_logs_enabled", True)
    logger.setLevel(logging.CRITICAL + 1)
    worker._worker_logs_enabled = False  # Ray's own messages go to standard output
    try:
        yield
    finally:
        logger.setLevel(before)
        worker._worker_logs_enabled = shown
