"""The same federated work by Carpool, a plain torch loop, Apple's pfl and Flower on Ray, side by side.

    python benchmarks/simulation.py [--json] [--only mlp cnn large workers] [--passes 5] [--pfl PYTHON]

1000 vehicles x 50 examples, cohort 50, batch 10, one epoch, SGD; the same cohorts from the same first model.

    mlp      63-64-10, 4,746 parameters (63 numbers: a 3x7 picture of three colours)
    cnn      3x32x32, convolutions of 32, 64 and 64 channels, 168,110 parameters
    large    the same of 64, 128 and 256 channels, 1,602,982 parameters
    workers  the cnn by one and by two worker processes of one thread each, in wall time

The networks are in rivals/nets.py, written as usual (convolution, ReLU, max-pool) and the same for everybody;
pooling before the ReLU, channels-last and stacking are our engine's doing. Every engine is a process of its
own in rivals/, warm before it is measured, and they take turns, pass by pass. CPU time is that of the process
and its children, per vehicle trained; a ratio is the median of the ratios of single passes. After the first
pass the losses of all models on 1000 examples and the directions in which they moved are compared: the same
work gives about the same model.

    ours        `carpool run` on the engine inline, less evaluation, checkpoints and report
    ours bf16   the same with train.precision = "bfloat16", where the processor has it
    bare        forward, backward and step of our module on ready tensors; the rest of ours is framework time
    plain       PyTorch, one vehicle after another
    pfl         SimulatedBackend, one process
    flower      simulation engine on Ray, niceness 0

pfl wants an environment of its own, named by --pfl or CARPOOL_PFL_PYTHON, or found in .venv-pfl:
    python -m venv .venv-pfl && .venv-pfl/bin/pip install 'pfl[pytorch]' torch==2.13.0
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RIVALS = Path(__file__).parent / "rivals"
sys.path.insert(0, str(RIVALS))

import turns  # noqa: E402, I001  # sets the number of threads
import numpy as np  # noqa: E402
import psutil  # noqa: E402
import torch  # noqa: E402
from nets import NETS  # noqa: E402
from torch.nn import functional  # noqa: E402

VEHICLES, EXAMPLES, COHORT, BATCH = 1000, 50, 50, 10
SHAPES = {"mlp": (3, 7), "cnn": (32, 32), "large": (32, 32)}
ROUNDS = {"mlp": 20, "cnn": 2, "large": 1}
"""A turn: the MLP trains the whole fleet once, the CNNs 100 and 50 vehicles."""
LR = {"mlp": 0.05, "cnn": 0.05, "large": 0.02}
PARTS = ("mlp", "cnn", "large", "workers")
TARGETS = {
    ("mlp", "ours", "pfl"): 15.0,
    ("mlp", "ours", "flower"): 80.0,
    ("cnn", "ours", "pfl"): 1.6,
    ("cnn", "ours bf16", "pfl"): 2.4,
    ("large", "ours", "plain"): 1.0,
    ("workers", "two workers", "one worker"): 1.8,
}
"""(part, ours, rival): how many times faster is wanted."""
FRAMEWORK = 5.0
"""Percent of the time on the CNN that may be anything but the arithmetic of training."""
AGREEMENT = 0.9
"""Least cosine of an engine's update with that of ours: the order of batches differs, the work does not."""
Row = dict[str, Any]


@dataclass
class Engine:
    """One engine in a process of its own; `fresh`: a new one for every turn (Ray's never keep still)."""

    name: str
    script: str
    python: str
    folder: Path
    fresh: bool = False
    process: subprocess.Popen[str] | None = None
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    @property
    def model(self) -> Path:
        return self.folder / f"{self.name.replace(' ', '-')}.npy"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name.replace(' ', '-')}.log"

    def turn(self) -> None:
        """The rounds of one turn, after one to warm up where the process is new."""
        if self.process is None:
            with self.log.open("w") as log:
                self.process = subprocess.Popen(
                    [self.python, str(RIVALS / self.script), str(self.folder)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
            self._wait(self.process)
        before, began = cpu_seconds(self.process.pid), time.perf_counter()
        self._say(self.process, f"go {self.model}")
        self._wait(self.process)
        self.cpu.append(cpu_seconds(self.process.pid) - before)
        self.wall.append(time.perf_counter() - began)
        if self.fresh:
            self.stop()

    def _say(self, process: subprocess.Popen[str], word: str) -> None:
        assert process.stdin is not None
        print(word, file=process.stdin, flush=True)

    def _wait(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{self.name} failed:\n{self.log.read_text()[-3000:]}")

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        try:
            self._say(process, "stop")
            process.wait(timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            process.kill()
            process.wait()


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, its living descendants, and those of them that have ended."""
    total, root = 0.0, psutil.Process(pid)
    for one in [root, *root.children(recursive=True)]:
        try:
            times = one.cpu_times()
            total += (
                clock_of(one.pid, times.user + times.system) + times.children_user + times.children_system
            )
        except (psutil.Error, OSError):
            continue  # it has just ended
    return total


def clock_of(pid: int, otherwise: float) -> float:
    """CPU time of a process to the nanosecond where the kernel tells it; psutil counts in ticks of 10 ms."""
    return time.clock_gettime((~pid << 3) | 2) if sys.platform == "linux" else otherwise


def make_work(folder: Path, net: str) -> None:
    """The files that turns.py describes: ten noisy scenes, the same for everybody."""
    (height, width), rng = SHAPES[net], np.random.default_rng(0)
    labels = rng.integers(0, 10, VEHICLES * EXAMPLES)
    scenes = rng.integers(96, 160, (10, 1, height, width, 3)).astype(np.float32)
    shape, new = (len(labels), 1, height, width, 3), np.lib.format.open_memmap
    frames = new(folder / "frames.npy", "w+", np.uint8, shape)
    x = new(folder / "x.npy", "w+", np.float32, (len(labels), 3, height, width))
    for at in range(0, len(labels), 1000):
        now = slice(at, at + 1000)
        noise = 60 * rng.standard_normal((1000, *shape[1:]), np.float32)
        frames[now] = np.clip(scenes[labels[now]] + noise, 0, 255)
        x[now] = (frames[now, 0].transpose(0, 3, 1, 2) - np.float32(127.5)) / np.float32(63.75)
    np.save(folder / "y.npy", labels)
    torch.manual_seed(0)
    np.save(folder / "start.npy", turns.dump(NETS[net]()))
    cohorts = [rng.choice(VEHICLES, COHORT, replace=False) for _ in range(200)]
    np.save(folder / "cohorts.npy", np.stack(cohorts))
    write_settings(folder, net)


def write_settings(folder: Path, net: str, workers: int = 1, train: Row | None = None) -> None:
    settings = {"net": net, "rounds": ROUNDS[net], "vehicles": VEHICLES, "examples": EXAMPLES}
    settings |= {"batch": BATCH, "lr": LR[net], "workers": workers, "train": train or {}}
    (folder / "work.json").write_text(json.dumps(settings))


def variant(folder: Path, name: str, net: str, **settings: Any) -> Path:
    """The same files with other settings for ours."""
    other = folder / name
    other.mkdir()
    for file in ("frames", "x", "y", "start", "cohorts"):
        (other / f"{file}.npy").symlink_to(folder / f"{file}.npy")
    write_settings(other, net, **settings)
    return other


def engines_of(part: str, folder: Path, available: dict[str, str]) -> list[Engine]:
    """Who takes part, ours first."""
    net, script, here = net_of(part), "carpool_engine.py", sys.executable
    if part == "workers":
        two = variant(folder, "two", net, workers=2)
        return [Engine("one worker", script, here, folder), Engine("two workers", script, here, two)]
    engines = [Engine("ours", script, here, folder)]
    if part != "mlp":
        if "bf16" in available:
            half = variant(folder, "half", net, train={"precision": "bfloat16"})
            engines.append(Engine("ours bf16", script, here, half))
        engines.append(Engine("bare", "bare_loop.py", here, folder))
    engines.append(Engine("plain", "plain_torch.py", here, folder))
    if "pfl" in available:
        engines.append(Engine("pfl", "pfl_simulation.py", available["pfl"], folder))
    if "flower" in available and part != "large":
        engines.append(Engine("flower", "flower_simulation.py", here, folder, fresh=True))
    return engines


def net_of(part: str) -> str:
    return "cnn" if part == "workers" else part


def final_loss(folder: Path, net: str, model: Path) -> float:
    """Mean cross-entropy of an engine's model on the first 1000 examples."""
    module = NETS[net]()
    turns.load(module, np.load(model))
    x = torch.from_numpy(np.load(folder / "x.npy", mmap_mode="c")[:1000])
    y = torch.from_numpy(np.load(folder / "y.npy")[:1000])
    with torch.no_grad():
        return float(functional.cross_entropy(module(x), y))


def measure(part: str, passes: int, available: dict[str, str]) -> Row:
    """One part: figures of every engine and what is to be compared with a target."""
    net, loads, losses, moved = net_of(part), [os.getloadavg()[0]], {}, {}
    with tempfile.TemporaryDirectory(prefix="carpool-benchmark-") as temporary:
        folder = Path(temporary)
        make_work(folder, net)
        engines, start = engines_of(part, folder, available), np.load(folder / "start.npy")
        try:
            for number in range(passes):
                for engine in engines:
                    engine.turn()
                    if number == 0 and engine.name != "bare":
                        losses[engine.name] = final_loss(folder, net, engine.model)
                        moved[engine.name] = np.load(engine.model) - start
                loads.append(os.getloadavg()[0])
        finally:
            for engine in engines:
                engine.stop()
        same = None
        if part == "workers":
            first, second = (np.load(engine.model) for engine in engines)
            same = bool(np.array_equal(first, second))
    clients, by_name = ROUNDS[net] * COHORT, {engine.name: engine for engine in engines}
    first = moved[engines[0].name]
    cosines = {n: float(first @ m / np.linalg.norm(first) / np.linalg.norm(m)) for n, m in moved.items()}
    return {
        "part": part,
        "vehicles_a_pass": clients,
        "cpu_ms": {e.name: round(statistics.median(e.cpu) / clients * 1e3, 4) for e in engines},
        "wall_ms": {e.name: round(statistics.median(e.wall) / clients * 1e3, 4) for e in engines},
        "loss": {name: round(loss, 4) for name, loss in losses.items()},
        "cosine": {name: round(cosine, 4) for name, cosine in cosines.items()},
        "same_work": min(cosines.values()) >= AGREEMENT,
        "same_model": same,
        "compared": compared(part, by_name),
        "load_average": [round(min(loads), 2), round(max(loads), 2)],
    }


def ratio(over: list[float], under: list[float]) -> float:
    """Median over the passes of one engine's time over another's."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def compared(part: str, engines: dict[str, Engine]) -> list[Row]:
    """What is wanted of this part and what was measured."""
    found = []
    for (where, ours, rival), target in TARGETS.items():
        if where == part and ours in engines and rival in engines:
            a, b = engines[rival], engines[ours]
            value = ratio(a.wall, b.wall) if part == "workers" else ratio(a.cpu, b.cpu)
            text = f"{ours} is so many times faster than {rival}"
            found.append({"what": text, "value": round(value, 2), "wanted": target, "ok": value >= target})
    if "bare" in engines and part == "cnn":
        value = 100 * (1 - ratio(engines["bare"].cpu, engines["ours"].cpu))
        text = "framework time of ours, percent"
        found.append({"what": text, "value": round(value, 1), "wanted": FRAMEWORK, "ok": value <= FRAMEWORK})
    return found


def find(options: argparse.Namespace) -> tuple[dict[str, str], list[str]]:
    """What can be measured here, and what is left out and why."""
    available: dict[str, str] = {}
    left_out = []
    default = Path(__file__).parent.parent / ".venv-pfl" / "bin" / "python"
    pfl = options.pfl or os.environ.get("CARPOOL_PFL_PYTHON") or (str(default) if default.is_file() else "")
    command = [pfl, "-c", "import pfl.model.pytorch"]
    if pfl and subprocess.run(command, capture_output=True, check=False).returncode == 0:
        available["pfl"] = pfl
    else:
        left_out.append("pfl: not installed" if not pfl else f"pfl: {pfl} cannot import pfl.model.pytorch")
    if importlib.util.find_spec("ray"):
        available["flower"] = sys.executable
    else:
        left_out.append("flower: ray is not installed (pip install 'carpool[ray]')")
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        available["bf16"] = sys.executable
    else:
        left_out.append("ours bf16: this processor has no bfloat16")
    return available, left_out


def show(rows: list[Row], left_out: list[str]) -> None:
    """The same as a table."""
    for row in rows:
        low, high = row["load_average"]
        print(f"\n{row['part']}: {row['vehicles_a_pass']} vehicles a pass, load average {low} to {high}")
        print(f"  {'engine':<12}{'CPU ms a vehicle':>18}{'wall ms':>10}{'loss':>9}{'cosine':>9}")
        for name, cpu in row["cpu_ms"].items():
            loss, cosine = row["loss"].get(name, ""), row["cosine"].get(name, "")
            print(f"  {name:<12}{cpu:>18.3f}{row['wall_ms'][name]:>10.3f}{loss:>9}{cosine:>9}")
        if not row["same_work"]:
            print("  THE MODELS DIFFER: not the same work")
        if row["same_model"] is not None:
            print("  the same model to the bit" if row["same_model"] else "  THE MODELS DIFFER")
        for one in row["compared"]:
            print(
                f"  {'ok  ' if one['ok'] else 'MISS'}  {one['what']}: {one['value']} (wanted {one['wanted']})"
            )
    for line in left_out:
        print("left out:", line)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--pfl", default="", metavar="PYTHON", help="of the environment with pfl")
    parser.add_argument(
        "--without", nargs="+", default=[], metavar="NAME", help="leave out pfl, flower, bf16"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    available, left_out = find(options)
    for name in options.without:
        available.pop(name, None)
        left_out.append(f"{name}: --without")
    rows = [measure(part, options.passes, available) for part in options.only]
    machine = {"python": platform.python_version(), "torch": torch.__version__, "cores": os.cpu_count()}
    if options.json:
        document = {"machine": machine, "passes": options.passes, "parts": rows, "left_out": left_out}
        print(json.dumps(document, indent=2))
    else:
        show(rows, left_out)


if __name__ == "__main__":
    main()
