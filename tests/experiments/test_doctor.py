from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from carpool.experiments import doctor


def test_versions():
    assert doctor.python((3, 11, 0)).status == "ok"
    assert doctor.python((3, 10, 9)).status == "bad"
    assert doctor.package("numpy").status == "ok"
    assert doctor.package("flwr").status == "ok"


def test_a_missing_and_a_wrong_package(monkeypatch):
    def version(name: str) -> str:
        if name == "numpy":
            raise PackageNotFoundError(name)
        return "1.99.0"

    monkeypatch.setattr(doctor, "version", version)
    assert doctor.package("numpy").status == "bad"
    check = doctor.package("flwr")
    assert (check.status, check.value) == ("warn", "1.99.0")
    assert "<1.43" in check.fix


@pytest.mark.parametrize(
    ("found", "wanted", "fits"),
    [
        ("1.41.0", ">=1.41,<1.43", True),
        ("1.40.9", ">=1.41,<1.43", False),
        ("1.43.0", ">=1.41,<1.43", False),
        ("1.42.9", "<1.43,>=1.41; extra == 'dev'", True),
        ("2.13.0+cpu", ">=2.13", True),
        ("3.0.0rc1", ">=2.13", True),
        ("7", "", True),
    ],
)
def test_bounds(found, wanted, fits):
    assert doctor.fits(found, wanted) is fits


def test_memory_and_disk_have_three_answers(monkeypatch, tmp_path):
    sizes = {0.5: "bad", 1: "warn", 4: "ok"}
    assert {size: doctor.memory(int(size * doctor.GIB)).status for size in sizes} == sizes
    for free, status in {0.1: "bad", 1: "warn", 4: "ok"}.items():
        usage = type("Usage", (), {"free": int(free * doctor.GIB)})
        monkeypatch.setattr(doctor.psutil, "disk_usage", lambda _, usage=usage: usage)
        check = doctor.disk("disk", tmp_path / "not" / "yet")
        assert check.status == status
        assert bool(check.fix) == (status != "ok")


def test_writing_is_tried(tmp_path):
    assert doctor.writable("writing, cache", tmp_path / "new").status == "ok"
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "file"
    file.touch()
    check = doctor.writable("writing, cache", file)
    assert check.status == "bad"
    assert "data.cache" in check.fix
    assert doctor.writable("writing, runs", Path("/proc")).status == "bad"


def test_threads():
    (check,) = doctor.threads({}, 2)
    assert check.status == "ok"
    given = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "many", "X": "0"}
    assert [(c.name, c.status) for c in doctor.threads(given, 2)] == [
        ("OMP_NUM_THREADS", "ok"),
        ("MKL_NUM_THREADS", "warn"),
        ("OPENBLAS_NUM_THREADS", "warn"),
    ]


def test_load(monkeypatch):
    monkeypatch.setattr(doctor, "usable_cores", lambda: 2)
    for minute, status in {0.2: "ok", 1.9: "warn"}.items():
        monkeypatch.setattr(doctor.psutil, "getloadavg", lambda minute=minute: (minute, 0, 0))
        assert doctor.load().status == status


def test_extras_are_optional(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    check = doctor.extra("onnx")
    assert check.status == "ok"
    assert "carpool[export]" in check.value


@pytest.mark.slow
def test_the_report_is_whole(tmp_path):
    names = [check.name for check in doctor.report(tmp_path, tmp_path / "cache")]
    assert len(names) == len(set(names))
    wanted = {
        "carpool",
        "python",
        "numpy",
        "flwr",
        "torch",
        "GPU",
        "cores",
        "load",
        "memory",
        "onnx",
        "pyarrow",
    }
    assert wanted <= set(names)
    assert not (tmp_path / "cache").exists()
