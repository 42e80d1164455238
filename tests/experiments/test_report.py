import base64
import dataclasses
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from carpool.experiments import report
from carpool.experiments.pictures import frame_uri, surround
from carpool.experiments.report import Evidence, SampleFrame, render, write_report
from carpool.experiments.results import attendance, losses

AROUND = ("front", "front_left", "left", "rear_left", "rear", "rear_right", "right", "front_right")
STAGES = ("before_training", "during_training", "before_upload", "during_upload", "after_upload")
HOSTILE = '<script src="https://evil.example/x.js"></script>"\'><img src=http://evil.example/y>$\\x$\x1b[31m'


def fake_records(rounds: int, *, seed: int = 0, classes: bool = True) -> list[dict[str, Any]]:
    rng = np.random.Generator(np.random.Philox(seed))
    records = []
    for index in range(1, rounds + 1):
        fate = rng.multinomial(30, [0.05, 0.10, 0.05, 0.05, 0.04, 0.01, 0.70])
        replied = int(fate[6] + fate[4])
        measured = index % 2 == 0 or index == rounds
        accuracy = 0.93 - 0.8 * math.exp(-index / 8) + 0.01 * float(rng.normal())
        records.append(
            {
                "round": index, "asked": 30, "replied": replied, "dropped": 30 - replied,
                "loss": 2.1 * math.exp(-index / 9) + 0.2 if measured else None,
                "accuracy": accuracy if measured and classes else None,
                "seconds": 3.9, "fleet_seconds": 610.0, "bytes_up": replied * 704_000,
                "bytes_down": 30 * 704_000,
                "epsilon": None, "void": replied < 20, "refused": 0,
                "left": {stage: int(n) for stage, n in zip(STAGES, fate[:5], strict=True)},
                "targets": {"sign": {"accuracy": accuracy}, "curvature": {"mae": 0.01}} if measured else None,
            }
        )  # fmt: skip
    return records


def fake_frame(views: tuple[str, ...], *, correct: bool, height: int = 48, width: int = 64) -> SampleFrame:
    rows, columns = np.mgrid[0:height, 0:width]
    sky, road = np.array([130, 170, 210]), np.array([70, 72, 76])
    pictures = []
    for index, view in enumerate(views):
        frame = np.where((rows < height * 0.45)[..., None], sky, road) - 6 * index
        lane = abs(columns - width / 2 - (rows - height * 0.45) * 0.4) < 1.2
        frame = np.where((lane & (rows > height * 0.45))[..., None], 235, frame)
        pictures.append((view, frame.clip(0, 255).astype(np.uint8)))
    prediction = {"sign": "stop" if correct else "yield", "curvature": "0.012 1/m"}
    return SampleFrame(
        pictures, {"sign": "stop", "curvature": "0.011 1/m"}, prediction, correct, "city, dusk, rain"
    )


def fake_evidence(rounds: int = 30, *, name: str = "quickstart", **changes: Any) -> Evidence:
    records = fake_records(rounds)
    rng = np.random.Generator(np.random.Philox(1))
    keys = (
        "round",
        "asked",
        "replied",
        "dropped",
        "loss",
        "accuracy",
        "seconds",
        "bytes_up",
        "bytes_down",
        "epsilon",
    )
    last = records[-1] if records else {"loss": None, "accuracy": None}
    result = {
        "experiment": name, "engine": "inline", "seed": 7, "strategy": "fedavg", "vehicles": 100,
        "rounds": [{key: record[key] for key in keys} for record in records],
        "final": {"loss": last["loss"], "accuracy": last["accuracy"]},
        "privacy": {
            "unit": None, "relation": None, "channel": "plain", "protocol": None, "mechanism": "none",
            "epsilon": None, "delta": None, "noise_multiplier": None,
        },
        "totals": {"seconds": 117.2, "bytes_up": 443_520_000, "bytes_down": 633_600_000, "energy_wh": None},
    }  # fmt: skip
    fields: dict[str, Any] = {
        "result": result,
        "records": records,
        "config_toml": '[experiment]\nname = "quickstart"\nseed = 7\n\n[fleet]\nvehicles = 100\n',
        "environment": {"carpool": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "cores": 2},
        "vehicle_accuracy": [*rng.beta(14, 2, 96).tolist(), math.nan],
        "vehicle_accuracy_note": "on each vehicle's own held-back drives",
        "frames": [fake_frame(AROUND, correct=index != 1) for index in range(4)],
        "notes": ["The trace ended before the run did."],
    }
    return Evidence(**(fields | changes))


class Page(HTMLParser):
    """Tags, references and readable text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.words: list[str] = []
        self.ids: list[str] = []
        self.handlers: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for key, value in attrs:
            if key in {"src", "href", "xlink:href", "action", "data", "poster", "srcset", "background"}:
                self.references.append(value or "")
            if key == "id":
                self.ids.append(value or "")
            if key.startswith("on"):
                self.handlers.append(key)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def check_self_contained(html: str) -> Page:
    page = Page(html)
    assert page.references
    assert [r[:80] for r in page.references if not r.startswith(("data:image/", "#"))] == []
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert page.handlers == []
    assert re.findall(r"url\((?!#)", html) == []
    assert "@import" not in html
    assert "default-src 'none'" in html
    assert len(page.ids) == len(set(page.ids))
    known = set(page.ids)
    assert [r for r in page.references if r.startswith("#") and r[1:] not in known] == []
    return page


@pytest.mark.slow
def test_a_report_is_self_contained_and_says_what_matters(tmp_path: Path) -> None:
    write_report(tmp_path, fake_evidence())
    html = (tmp_path / "report.html").read_text()
    page = check_self_contained(html)
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    assert report.PLAIN_WARNING in page.text
    assert "known to the simulator only: the server never sees a single vehicle's accuracy" in page.text
    assert "the stages are known to the simulator only" in page.text
    assert "on each vehicle's own held-back drives" in page.text
    assert "96 of 97" in page.text
    assert page.tags.count("img") == 4 * 8
    assert "[fleet] vehicles = 100" in page.text
    assert page.text.count("✗ wrong") == 1
    assert "The trace ended before the run did." in page.text
    assert len(html) < 600_000


@pytest.mark.slow
def test_hostile_names_stay_text() -> None:
    frame = SampleFrame(
        [(HOSTILE, np.zeros((4, 6, 3), np.uint8))], {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE}, None, HOSTILE
    )
    evidence = fake_evidence(
        3, name=HOSTILE, frames=[frame], notes=[HOSTILE, "\ud800"], config_toml=HOSTILE,
        environment={HOSTILE: {"x": HOSTILE}}, vehicle_accuracy_note=HOSTILE,
    )  # fmt: skip
    evidence.result["strategy"] = HOSTILE
    evidence.result["privacy"]["unit"] = HOSTILE
    evidence.records[-1]["targets"] = {HOSTILE: {HOSTILE: 0.5}}
    html = render(evidence)
    page = check_self_contained(html)
    assert page.tags.count("img") == 1
    assert '<script src="https://evil.example/x.js">' in page.text


@pytest.mark.slow
def test_a_run_without_rounds_classes_or_frames_still_has_a_report() -> None:
    page = Page(render(fake_evidence(0, frames=[], vehicle_accuracy=None, environment={}, notes=[])))
    assert "No round was done." in page.text
    assert "No round was evaluated." in page.text
    assert "serves each vehicle" not in page.text
    records = fake_records(4, classes=False)
    for record in records:
        record["left"] = None
    page = Page(render(fake_evidence(4, records=records, vehicle_accuracy=[math.nan])))
    assert "Accuracy: higher is better" not in page.text
    assert "Loss: lower is better" in page.text
    assert "the stages are known to the simulator only" not in page.text


@pytest.mark.slow
def test_a_long_run_with_many_large_frames_stays_small() -> None:
    rng = np.random.Generator(np.random.Philox(3))
    noise = [(view, rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)) for view in AROUND]
    frames = [SampleFrame(noise, {"sign": "stop"}, {"sign": "stop"}, True, "noise")] * 12
    html = render(fake_evidence(3000, frames=frames))
    assert len(html) < 3_000_000
    assert re.search(r"[1-9]\d* more sample frames are left out", html)
    assert "a bar is the mean of 25 rounds" in html
    assert "a void round among them" in html


@pytest.mark.slow
def test_another_channel_gets_other_words() -> None:
    evidence = fake_evidence(3)
    evidence.result["privacy"]["channel"] = "secagg"
    text = Page(render(evidence)).text
    assert "No privacy protection" not in text
    assert "the server could open sums of many of them only" in text
    assert "No record says what the server saw." in text


@pytest.mark.slow
def test_who_saw_what_under_secure_aggregation() -> None:
    evidence = fake_evidence(3)
    evidence.result["privacy"] |= {"channel": "secagg", "protocol": "secagg+"}
    for record in evidence.records:
        void, n = record["void"], record["replied"]
        sums = [{"vehicles": n, "released": not void, "why": HOSTILE if void else None}]
        record["secagg"] = {
            "protocol": "secagg+", "cryptography": "full", "n_min": 12, "sums": sums, "released": not void,
            "steps": {"asked": 30}, "dropped": {"advertise": 30 - n}, "transcript": "5f" * 32,
            "why": HOSTILE if void else None,
        }  # fmt: skip
    evidence.records[1] |= {"void": True}
    evidence.records[1]["secagg"] |= {"sums": [], "why": HOSTILE}
    head = {"file": HOSTILE, "verify": HOSTILE, "entries": 16, "root": "ab" * 32, "at": 0, "fault": None}
    page = check_self_contained(render(dataclasses.replace(evidence, log=head)))
    assert "and no single update." in page.text
    assert "Small: a sum may be over as few as 12 vehicles" in page.text
    assert "16 entries, the last signed 1970-01-01 00:00:00 UTC" in page.text
    assert "abab" in page.text
    assert "Round 2" in page.text
    assert "5f5f5f5f5f5f5f5f " in page.text
    assert "n_min: 12 at least" in page.text
    assert "this was a simulation" in page.text
    assert "Who saw what" not in Page(render(fake_evidence(3))).text


def test_attendance_adds_up_to_those_asked() -> None:
    record = {"round": 1, "asked": 30, "replied": 20, "refused": 2, "void": False}  # one of them cut off
    left = {
        "before_training": 3,
        "during_training": 2,
        "before_upload": 0,
        "during_upload": 1,
        "after_upload": 4,
    }
    row = attendance({**record, "left": left})
    assert row.parts["counted"] == 16
    assert row.parts["after_upload"] == 4
    assert row.parts["other"] == 3
    assert sum(row.parts.values()) == 30
    unknown = attendance({**record, "left": None})
    assert unknown.parts["counted"] == 20
    assert unknown.parts["other"] == 8
    assert losses([{**record, "left": left}])["lost"] == 10


def test_every_simulated_round_adds_up() -> None:
    records = fake_records(200)
    assert all(sum(attendance(record).parts.values()) == record["asked"] for record in records)
    assert losses(records)["lost"] == sum(record["dropped"] for record in records)


def test_cameras_sit_around_the_car() -> None:
    rows = surround([(name, name) for name in AROUND])
    names = [[[name for name, _ in cell] for cell in row] for row in rows]
    assert names == [
        [["front_left"], ["front"], ["front_right"]],
        [["left"], [], ["right"]],
        [["rear_left"], ["rear"], ["rear_right"]],
    ]
    assert len(surround([("front", ""), ("front_left", "")])) == 1


def test_spread_names_the_worst_tenth() -> None:
    found = report.spread([0.0, 0.2, *[1.0] * 18, math.nan])
    assert found is not None
    assert found["Worst 10 % (mean)"] == "10.0 %"
    assert found["Median"] == "100.0 %"
    assert found["Variance"] == f"{np.var([0.0, 0.2, *[1.0] * 18]):.4g}"
    assert found["Vehicles measured"] == "20 of 21"
    assert report.spread(None) is None


def test_models_of_their_own_stand_beside_the_fleets() -> None:
    own = [0.5] * 90 + [0.25] * 6 + [math.nan]
    page = check_self_contained(render(fake_evidence(vehicle_accuracy=[0.4] * 97, personal_accuracy=own)))
    assert "the fleet's model the vehicle's own Worst 10 % (mean) 40.0 % 35.0 %" in page.text
    assert "Vehicles measured 97 of 97 96 of 97" in page.text
    assert "8.4 points better than the fleet's" in page.text
    assert "known to the simulator only: the server never sees a single vehicle's accuracy" in page.text
    alone = Page(render(fake_evidence()))
    assert "the vehicle's own" not in alone.text


def test_the_summary_tells_the_story() -> None:
    evidence = fake_evidence(30)
    void = losses(evidence.records)["void"]
    assert void > 0
    text = report.summary(evidence.result, evidence.records)
    assert "100 vehicles trained one model together in 30 rounds" in text
    assert f"In {void} of the rounds too few replied" in text
    assert "The final model is right on" in text
    assert "was not measured" in report.summary({"vehicles": 3}, [])


@pytest.mark.parametrize("frame", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8)])
def test_a_frame_of_the_wrong_kind_is_refused(frame: Any) -> None:
    with pytest.raises(ValueError, match="a sample frame must be uint8"):
        frame_uri(frame)


def test_small_frames_are_kept_exactly() -> None:
    frame = np.random.Generator(np.random.Philox(5)).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    uri = frame_uri(frame)
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))))
    np.testing.assert_array_equal(decoded, frame)


def test_large_frames_are_made_smaller() -> None:
    uri = frame_uri(np.zeros((480, 640, 3), np.uint8))
    assert uri.startswith("data:image/jpeg;")
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))) as image:
        assert image.size == (256, 192)
