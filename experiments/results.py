"""Reading a run's folder back, and turning its figures into words: what show, compare and the report share.

Whatever is read here may have been written by a killed program: a torn last line of rounds.jsonl is dropped,
anything else that does not fit is one RunError sentence.
"""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carpool.privacy.errors import RunError, UsageError

Record = Mapping[str, Any]
"""One line of rounds.jsonl."""

STAGES = {
    "before_training": "left before training",
    "during_training": "left during training",
    "before_upload": "left before the upload",
    "during_upload": "left during the upload",
    "after_upload": "left after the upload",
}
"""Where a vehicle can leave a round, in the order of time, and how people call it."""


def number(value: object) -> float:
    """A finite float, or NaN for null, text, true/false, NaN and infinity.

    >>> number(0.5), number(None)
    (0.5, nan)
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return math.nan


def count(value: object) -> int:
    """A count from JSON; 0 where there is none.

    >>> count(3), count(None)
    (3, 0)
    """
    found = number(value)
    return 0 if math.isnan(found) else int(found)


def points(records: Sequence[Record], key: str) -> tuple[list[int], list[float]]:
    """Rounds and values of `key` where it was measured.

    >>> points([{"round": 1, "loss": None}, {"round": 2, "loss": 0.5}], "loss")
    ([2], [0.5])
    """
    pairs = [(int(record["round"]), number(record.get(key))) for record in records]
    kept = [(round_number, value) for round_number, value in pairs if not math.isnan(value)]
    return [pair[0] for pair in kept], [pair[1] for pair in kept]


@dataclass(frozen=True)
class Attendance:
    """Who was asked in a round and what became of them: `parts` add up to `asked`."""

    round: int
    asked: int
    parts: dict[str, int]
    void: bool


def attendance(record: Record) -> Attendance:
    """Split those asked into counted, lost by stage, refused and other.

    Vehicles that left after the upload have replied: they are a part of `replied`. An upload that was cut off
    is refused by the server too: it counts as left. What neither replied, nor left, nor was refused came too
    late ("other"); where stages are not known, "other" is all that was lost.
    """
    left = record.get("left") or {}
    asked, replied = count(record.get("asked")), count(record.get("replied"))
    after = min(count(left.get("after_upload")), replied)
    parts = {"counted": replied - after, "after_upload": after}
    parts |= {stage: count(left.get(stage)) for stage in STAGES if stage != "after_upload"}
    parts["refused"] = max(0, count(record.get("refused")) - parts["during_upload"])
    parts["other"] = max(0, asked - sum(parts.values()))
    return Attendance(int(record["round"]), asked, parts, bool(record.get("void")))


def losses(records: Sequence[Record]) -> dict[str, int]:
    """Sums over all rounds of what `attendance` gives, plus `asked`, `lost` and `void` (rounds)."""
    rows = [attendance(record) for record in records]
    keys = rows[0].parts if rows else {}
    sums = {key: sum(row.parts[key] for row in rows) for key in keys}
    kept = sums.get("counted", 0) + sums.get("after_upload", 0)
    return sums | {
        "asked": sum(row.asked for row in rows),
        "lost": sum(sums.values()) - kept,
        "void": sum(row.void for row in rows),
    }


@dataclass(frozen=True)
class Run:
    """A run's folder as read: `result` is empty while the run has not ended."""

    folder: Path
    config: dict[str, Any]
    config_toml: str
    result: dict[str, Any]
    records: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """The experiment's name."""
        return str(self.result.get("experiment") or self._setting("name", self.folder.name))

    @property
    def seed(self) -> int:
        """The experiment's seed."""
        return count(self.result.get("seed", self._setting("seed", 0)))

    @property
    def planned(self) -> int:
        """Rounds that the experiment asks for; 0 where unknown."""
        return count(self._setting("rounds", 0))

    @property
    def complete(self) -> bool:
        """Whether the run ended by itself, with every round done."""
        return bool(self.result) and len(self.records) >= self.planned

    @property
    def resumable(self) -> bool:
        """Whether `carpool run --resume` can go on with it."""
        return not self.complete and bool(self.config) and not self.result.get("stopped")

    def final(self, key: str) -> float:
        """The last measured loss or accuracy; NaN where there is none."""
        found = number((self.result.get("final") or {}).get(key))
        return found if not math.isnan(found) else next(reversed(points(self.records, key)[1]), math.nan)

    def total(self, key: str) -> float:
        """A total (seconds, bytes_up, bytes_down), summed from the rounds where the run has not ended."""
        found = number((self.result.get("totals") or {}).get(key))
        parts = points(self.records, key)[1]
        return math.fsum(parts) if math.isnan(found) and parts else found

    def _setting(self, key: str, default: object) -> object:
        section = self.config.get("experiment")
        return section.get(key, default) if isinstance(section, dict) else default


def _parse(path: Path, kind: str) -> dict[str, Any]:
    """A TOML or JSON file as a table; {} where it is not there; raises RunError where it is damaged."""
    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text) if kind == "toml" else json.loads(text)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RunError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); delete it and resume the run") from error
    if not isinstance(found, dict):
        raise RunError(f"{path} is damaged (not a table); delete it and resume the run")
    return found


def _records(path: Path) -> list[dict[str, Any]]:
    """The rounds; a torn last line is dropped; raises RunError naming any other damaged line."""
    if not path.exists():
        return []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RunError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    found: list[dict[str, Any]] = []
    for index, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
            found.append({**record, "round": int(record["round"])})
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(f"{path} is damaged in line {index}; run the experiment again") from error
    return found


def read_run(folder: Path) -> Run:
    """Everything that a run's folder says about itself; raises UsageError (not a run), RunError (damaged)."""
    if not any((folder / name).is_file() for name in ("config.toml", "result.json", "rounds.jsonl")):
        what = "name one that carpool run wrote"
        if (folder / "index.json").is_file():
            what = f"it is a sweep's, so name its runs: {folder}/[0-9]*"
        raise UsageError(f"{folder} is not a run's folder: it has no config.toml; {what}")
    config, result = _parse(folder / "config.toml", "toml"), _parse(folder / "result.json", "json")
    text = (folder / "config.toml").read_text(encoding="utf-8") if config else ""
    records = _records(folder / "rounds.jsonl")
    if not records and isinstance(result.get("rounds"), list):
        records = [dict(record) for record in result["rounds"]]
    return Run(folder, config, text, result, records)


def find_run(name: str, root: Path = Path("runs")) -> Path:
    """The folder of RUN: a folder, a name under `root`, or the start of just one such name.

    Raises UsageError that names the nearest runs, or all that fit where several do.
    """
    for folder in (Path(name), root / name):
        if name and folder.is_dir():
            return folder
    known = sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
    fitting = [entry for entry in known if name and entry.startswith(name)]
    if len(fitting) == 1:
        return root / fitting[0]
    if fitting:
        shown = ", ".join(fitting[:8]) + (", …" if len(fitting) > 8 else "")
        raise UsageError(f"{len(fitting)} runs start with {name!r}: {shown}; write one of them in full")
    if not known:
        raise UsageError(f"no run {name!r}: there are no runs in {root}/; start one with carpool run FILE")
    starts = {entry.rsplit("-", 1)[0]: entry for entry in known}  # a name without its short id
    near = difflib.get_close_matches(name, [*known, *starts], n=5, cutoff=0.4) or known[-3:]
    nearest = list(dict.fromkeys(starts.get(entry, entry) for entry in near))[:3]
    raise UsageError(f"no run {name!r} in {root}/; nearest: {', '.join(nearest)}")


def clean(text: object) -> str:
    r"""One line for people out of a hostile string: what does not print (ANSI, bidi, surrogates) becomes "?".

    >>> clean("a\x1b[31mb")
    'a?[31mb'
    """
    return "".join(character if character.isprintable() else "?" for character in str(text))


def percent(value: float, digits: int = 1) -> str:
    """A share as text; a dash for NaN.

    >>> percent(0.8734), percent(math.nan)
    ('87.3 %', '–')
    """
    return "–" if math.isnan(value) else f"{value:.{digits}%}".replace("%", " %")


def decimal(value: float) -> str:
    """Four significant digits; a dash for NaN.

    >>> decimal(0.31234), decimal(math.nan)
    ('0.3123', '–')
    """
    return "–" if math.isnan(value) else f"{value:.4g}"


def size(value: float) -> str:
    """Bytes in powers of 1000; a dash for NaN.

    >>> size(950), size(12_345_678)
    ('950 B', '12.3 MB')
    """
    if math.isnan(value):
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} TB" if value < 999.5 else f"{value:,.0f} TB"


def duration(seconds: float) -> str:
    """Seconds as people say it; a dash for NaN.

    >>> duration(4.21), duration(192), duration(93_600)
    ('4.2 s', '3 min 12 s', '1 d 2 h')
    """
    if math.isnan(seconds):
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next(index for index, (value, _) in enumerate(parts) if value)
    return " ".join(f"{value} {unit}" for value, unit in parts[first : first + 2] if value)


def sparkline(values: Iterable[float], width: int = 40) -> str:
    """Values as a line of blocks, at most `width` characters (means of neighbours), lowest to highest.

    >>> sparkline([0, 1, 2, 3])
    '▁▃▆█'
    """
    shown = [value for value in values if not math.isnan(value)]
    step = max(1, math.ceil(len(shown) / width))
    means = [
        math.fsum(part) / len(part) for part in (shown[i : i + step] for i in range(0, len(shown), step))
    ]
    if not means:
        return ""
    low, span = min(means), max(means) - min(means)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (value - low) / span) if span else 0] for value in means)
