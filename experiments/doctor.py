"""Is this machine fit to run Carpool: versions, cores, memory, disk, GPU, and what to do about each."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import platformdirs
import psutil

Status = Literal["ok", "warn", "bad"]
GIB = 2**30
MIN_MEMORY, GOOD_MEMORY = 0.75 * GIB, 2 * GIB
MIN_DISK, GOOD_DISK = 0.25 * GIB, 2 * GIB
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
EXTRAS = {"onnx": "export", "pyarrow": "parquet", "ray": "ray"}


@dataclass(frozen=True)
class Check:
    """One line of the report; `fix` is what to do, empty if all is well."""

    name: str
    value: str
    status: Status = "ok"
    fix: str = ""


def report(folder: Path | None = None, cache: Path | None = None) -> list[Check]:
    """Every check of this machine; never raises.

    folder: where runs will be written, the present one by default. cache: that of rendered frames.
    """
    folder = folder or Path.cwd()
    cache = cache or platformdirs.user_cache_path("carpool")
    return [
        Check("carpool", version("carpool")),
        python(sys.version_info[:3]),
        *(package(name) for name in ("numpy", "flwr")),
        *torch_and_gpu(),
        cores(),
        load(),
        memory(available_memory()),
        disk("disk, runs", folder),
        disk("disk, cache", cache),
        writable("writing, runs", folder),
        writable("writing, cache", cache),
        *threads(dict(os.environ), usable_cores()),
        *(extra(name) for name in EXTRAS),
    ]


def python(found: tuple[int, int, int]) -> Check:
    """Python 3.11 or newer."""
    text = f"{'.'.join(map(str, found))} on {platform.system()} {platform.machine()}"
    if found < (3, 11, 0):
        return Check("python", text, "bad", "install Python 3.11 or newer")
    return Check("python", text)


def package(name: str) -> Check:
    """Is a package there, in a version that Carpool was made for?"""
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check(name, "missing", "bad", "install Carpool again: pip install carpool")
    wanted = next((r for r in requires("carpool") or () if re.match(rf"{name}\b", r)), name).removeprefix(
        name
    )
    if not fits(found, wanted):
        return Check(name, found, "warn", f"Carpool wants {name}{wanted}: pip install '{name}{wanted}'")
    return Check(name, found)


def fits(found: str, wanted: str) -> bool:
    """Whether a version is inside plain bounds such as `>=1.41,<1.43`.

    >>> fits("1.42.0", "<1.43,>=1.41"), fits("1.43.0", "<1.43,>=1.41"), fits("2.13.0+cpu", ">=2.13")
    (True, False, True)
    """
    mine = _numbers(found)
    for sign, bound in re.findall(r"(>=|<)\s*([\d.]+)", wanted.partition(";")[0]):
        limit = _numbers(bound)
        if (mine < limit) if sign == ">=" else (mine >= limit):
            return False
    return True


def _numbers(text: str) -> tuple[int, ...]:
    numbers = [int(part) for part in re.findall(r"\d+", text.partition("+")[0])[:3]]
    return tuple(numbers + [0] * (3 - len(numbers)))


def torch_and_gpu() -> Iterator[Check]:
    """PyTorch, its threads, and the GPU that device = "auto" would take."""
    checked = package("torch")
    if checked.status == "bad":
        yield checked
        return
    try:
        import torch
    except (ImportError, OSError) as error:  # a wheel for another machine fails on its shared libraries
        reason = " ".join(str(error).split())
        yield Check("torch", f"does not load: {reason}", "bad", "install it again: pip install torch")
        return
    yield Check("torch", f"{checked.value}, {torch.get_num_threads()} threads", checked.status, checked.fix)
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        yield Check("GPU", f"{properties.name}, {properties.total_memory / GIB:.0f} GiB")
    else:
        yield Check("GPU", 'none; device = "auto" means cpu')


def usable_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def cores() -> Check:
    """How many cores there are; one is enough to begin with."""
    count = usable_cores()
    return Check("cores", f"{count} of {os.cpu_count() or count}")


def load() -> Check:
    """How busy the cores are with other work."""
    minute, count = psutil.getloadavg()[0], usable_cores()
    text = f"{minute:.1f} over the last minute"
    if minute > 0.75 * count:
        return Check("load", text, "warn", "runs take longer while other programs use the cores")
    return Check("load", text)


def available_memory() -> int:
    """Bytes that may still be taken: the machine's, or what the container's limit leaves."""
    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no container, or its limit is the word "max"
        return free
    return min(free, max(limit - used, 0))


def memory(available: int) -> Check:
    """Memory for frames, model and training."""
    text = f"{available / GIB:.1f} GiB free"
    if available < MIN_MEMORY:
        return Check("memory", text, "bad", f"close programs: {MIN_MEMORY / GIB} GiB are the least")
    if available < GOOD_MEMORY:
        return Check("memory", text, "warn", "use fewer vehicles, smaller frames or fewer views")
    return Check("memory", text)


def disk(name: str, folder: Path) -> Check:
    """Room where runs and rendered frames go."""
    try:
        free = psutil.disk_usage(str(_existing(folder))).free
    except OSError as error:
        return Check(name, f"{folder}: {error.strerror}", "bad", "name a folder that can be read")
    text = f"{free / GIB:.1f} GiB free at {folder}"
    if free < MIN_DISK:
        return Check(name, text, "bad", f"free some space: {MIN_DISK / GIB} GiB are the least")
    if free < GOOD_DISK:
        return Check(name, text, "warn", f"free some space: {GOOD_DISK / GIB:.0f} GiB are comfortable")
    return Check(name, text)


def writable(name: str, folder: Path) -> Check:
    """Whether a file can be made there, tried out with one that leaves no trace."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)) as file:
            file.write(b"carpool")
    except OSError as error:
        fix = "set data.cache, or XDG_CACHE_HOME" if "cache" in name else "go to another folder, or use --out"
        return Check(name, f"{folder}: {(error.strerror or str(error)).lower()}", "bad", fix)
    return Check(name, str(folder))


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def threads(environment: dict[str, str], count: int) -> Iterator[Check]:
    """Variables that set the number of threads: more threads than cores make everything slower."""
    given = {name: environment[name] for name in THREADS if name in environment}
    if not given:
        yield Check("threads", f"not set; up to {count} are taken")
    for name, value in given.items():
        if not value.isdecimal() or int(value) < 1:
            yield Check(name, value, "warn", f"set it to a whole number from 1 to {count}, or unset it")
        elif int(value) > count:
            yield Check(name, value, "warn", f"set it to at most {count}, the number of cores")
        else:
            yield Check(name, value)


def extra(name: str) -> Check:
    """An optional package; missing is fine until a command needs it."""
    if importlib.util.find_spec(name) is None:
        return Check(name, f"not installed; only needed by carpool[{EXTRAS[name]}]")
    return Check(name, version(name))
