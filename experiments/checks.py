"""Rules that involve more than one key, that need the disk, or that refuse what this version lacks.

What is not there yet is refused, never ignored: an experiment that asks for privacy must not run without.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from carpool.experiments.hints import choose, shown
from carpool.experiments.masked_checks import masked_problems
from carpool.experiments.noise_checks import noise_problems

if TYPE_CHECKING:
    from carpool.experiments.config import Experiment
    from carpool.experiments.fields import Section

EXCLUSIVE = (
    (("train", "epochs"), ("train", "steps")),
    (("privacy", "dp", "epsilon"), ("privacy", "dp", "noise_multiplier")),
)
"""Pairs of which a file may give one."""

NO_PROMISE = ("bits", "rotate", "clip_norm", "ranges", "max_weight", "trip_s", "upload_s")
"""Keys of [privacy.secagg] that say how, not what is hidden: they may stand there while it is off."""

FACTORY = re.compile(r"^(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)$")
"""`path/to/file.py:function`."""

SOURCE_TARGETS = {
    "procedural": ("sign", "obstacle", "curvature", "offset"),
    "gtsrb": ("sign",),
    "udacity": ("steering", "throttle", "brake", "speed_mph"),
    "imagefolder": ("label",),
    "comma2k19": ("steering", "speed"),
}
"""Targets of the sources whose targets are known before any data is read."""

SOURCE_PATHS = {
    "gtsrb": "data/gtsrb (a folder)",
    "npz": "data/frames.npz",
    "udacity": "data/drive (the folder with driving_log.csv)",
    "imagefolder": "data/signs (a folder with one for each class)",
    "comma2k19": "data/Chunk_1 (a folder)",
    "parquet": "data/mnist (a folder)",
}
"""Sources that read files, with an example."""


@dataclass(frozen=True)
class Problem:
    """One fault: the dotted keys it is about (the first is where it is shown) and the sentence."""

    keys: tuple[str, ...]
    text: str


def cross_problems(e: Experiment) -> list[Problem]:
    """Every broken rule of an experiment whose single values are all in range; does not touch the disk."""
    rules = (
        _not_in_this_version,
        _engine,
        _selection,
        masked_problems,
        noise_problems,
        _fleet,
        _data,
        _pipeline,
        _exclusive,
    )
    return [Problem(keys, text) for rule in rules for keys, text in rule(e)]


Found = Iterator[tuple[tuple[str, ...], str]]


def _not_in_this_version(e: Experiment) -> Found:
    expected = (
        ("experiment.engine", e.experiment.engine, "ray" if e.experiment.engine == "ray" else "inline"),
        ("experiment.topology", e.experiment.topology, "server"),
        ("audit.canaries", e.audit.canaries, 0),
    )
    for key, value, possible in expected:
        if value != possible:
            word = key.rsplit(".", 1)[1]
            yield (key,), f"{key} {shown(value)} is not in this version; use {word} = {shown(possible)}"
    # A setting that promises privacy while its switch is off would be a false promise.
    if e.privacy.dp.mechanism == "none":
        switch = "privacy.dp.mechanism"
        yield from _idle(e.privacy.dp, "privacy.dp", switch, 'differential privacy (mechanism = "none")')
    if e.privacy.channel != "secagg":
        switch = "privacy.channel"
        what = f"secure aggregation (channel = {shown(e.privacy.channel)})"
        yield from _idle(e.privacy.secagg, "privacy.secagg", switch, what, fine=NO_PROMISE)
        yield from _idle(e.privacy.committee, "privacy.committee", switch, what)
        if e.privacy.protocol != "secagg+":
            text = f"privacy.protocol is {shown(e.privacy.protocol)}, but there is no {what}"
            yield ("privacy.protocol", switch), f'{text}; leave it at "secagg+", or use channel = "secagg"'


def _engine(e: Experiment) -> Found:
    engine, address, workers = e.experiment.engine, e.ray.address, e.experiment.workers
    if address and engine != "ray":
        yield (
            ("ray.address", "experiment.engine"),
            f"ray.address is {shown(address)}, which only engine ray uses, not {shown(engine)}; "
            "leave it empty",
        )
    if address.startswith("ray://"):
        yield (
            ("ray.address",),
            f"ray.address is {shown(address)}, which is for clients outside of the cluster; run carpool on a "
            'machine of the cluster with ray.address = "auto"',
        )
    if engine == "ray" and workers != 1:
        yield (
            ("experiment.workers", "experiment.engine"),
            f"experiment.workers is {workers}, but engine ray has one worker for each CPU of Ray's; leave it "
            'at 1, or use engine = "inline"',
        )


def _idle(section: Section, table: str, switch: str, what: str, fine: Collection[str] = ()) -> Found:
    for name, field in type(section).model_fields.items():
        key, value = f"{table}.{name}", getattr(section, name)
        if key != switch and name not in fine and value != field.default:
            default = "leave it out" if field.default is None else f"leave it at {shown(field.default)}"
            yield (key, switch), f"{key} is {shown(value)}, but there is no {what}; {default}"


def _selection(e: Experiment) -> Found:
    s, vehicles = e.selection, e.fleet.vehicles
    if s.asked > vehicles:
        yield (
            ("selection.cohort", "selection.over_select", "fleet.vehicles"),
            f"selection.cohort {s.cohort} with over_select {s.over_select} asks {s.asked} vehicles a round, "
            f"but fleet.vehicles is {vehicles}; lower cohort or over_select, or raise fleet.vehicles",
        )
    if s.quorum * s.cohort < 1:
        yield (
            ("selection.quorum", "selection.cohort"),
            f"selection.quorum {s.quorum} of cohort {s.cohort} is less than one vehicle; "
            f"quorum must be at least {1 / s.cohort:.3g}",
        )
    if s.deadline_min_s > s.deadline_max_s:
        yield (
            ("selection.deadline_min_s", "selection.deadline_max_s"),
            f"selection.deadline_min_s is {s.deadline_min_s} s, above deadline_max_s {s.deadline_max_s} s; "
            "lower the first or raise the second",
        )


def _fleet(e: Experiment) -> Found:
    fleet = e.fleet
    total = sum(value for _, value in fleet.leave)
    if total > 1 + 1e-9:
        keys = tuple(f"fleet.leave.{name}" for name in type(fleet.leave).model_fields)
        yield (
            keys,
            f"the probabilities in [fleet.leave] add up to {total:.4g}; together they must be at most 1",
        )
    if fleet.availability == "trace" and not fleet.trace:
        text = 'fleet.availability is "trace" but fleet.trace is empty; name a CSV or Parquet file there'
        yield ("fleet.availability", "fleet.trace"), text
    if fleet.trace and fleet.availability != "trace":
        yield (
            ("fleet.trace", "fleet.availability"),
            f'fleet.trace is {shown(fleet.trace)}, which only availability = "trace" reads, '
            f"not {shown(fleet.availability)}; set that, or leave trace empty",
        )
    if fleet.trace and not fleet.trace.lower().endswith((".csv", ".parquet")):
        yield ("fleet.trace",), f"fleet.trace is {shown(fleet.trace)}; it must end in .csv or .parquet"


def _data(e: Experiment) -> Found:
    data = e.data
    if data.source in SOURCE_PATHS and not data.path:
        example = SOURCE_PATHS[data.source]
        text = f"data.path is empty, but source {shown(data.source)} reads one; give it, such as {example}"
        yield ("data.path", "data.source"), text
    if data.source == "procedural" and data.path:
        yield (
            ("data.path", "data.source"),
            f'data.path is {shown(data.path)}, but source "procedural" reads no files; '
            f"set data.source to {', '.join(SOURCE_PATHS)} or file.py:factory, or leave path empty",
        )
    if data.on_demand == "always" and (data.source != "procedural" or data.split != "natural"):
        yield (
            ("data.on_demand", "data.source", "data.split"),
            f'data.on_demand is "always", but source {shown(data.source)} with split {shown(data.split)} is '
            'read as a whole; set it to "auto", or use procedural data with the natural split',
        )
    known = SOURCE_TARGETS.get(data.source)
    if data.path.lower().endswith(".npz"):
        known = None  # an archive has the columns that it has, whichever source reads it
    for target in data.targets:
        if known and target not in known:
            text = f"data.targets has {shown(target)}, which source {shown(data.source)} does not have; "
            yield ("data.targets", "data.source"), text + choose(target, known)


def _pipeline(e: Experiment) -> Found:
    steps, table = e.data.pipeline, "data.pipeline"
    for one, other in (("crop_top", "crop_bottom"), ("crop_left", "crop_right")):
        both = (getattr(steps, one), getattr(steps, other))
        if sum(both) >= 1:
            yield (
                (f"{table}.{one}", f"{table}.{other}"),
                f"{table}.{one} is {both[0]} and {other} {both[1]}, which leaves nothing of a picture; "
                "together they must be below 1",
            )
    if steps.normalise != "constants":
        for name in ("mean", "std"):
            value, default = getattr(steps, name), type(steps).model_fields[name].default
            if value != default:
                text = f'{table}.{name} is {shown(value)}, which only normalise = "constants" uses, '
                yield (
                    (f"{table}.{name}", f"{table}.normalise"),
                    f"{text}not {shown(steps.normalise)}; set that, or leave {name} out",
                )
    # The sums over the vehicles' pixels are formed in the clear and without noise: no promise may cover them.
    private = e.privacy.channel != "plain" or e.privacy.dp.mechanism != "none"
    if steps.normalise == "federated" and private:
        yield (
            (f"{table}.normalise", "privacy.channel", "privacy.dp.mechanism"),
            f'{table}.normalise is "federated", whose sums are not protected by [privacy] in this version; '
            'use "constants" or "picture" there, or channel = "plain" and mechanism = "none"',
        )


def _exclusive(e: Experiment) -> Found:
    for first, second in EXCLUSIVE:
        section: Section = e
        for name in first[:-1]:
            section = getattr(section, name)
        given = section.model_fields_set
        if first[-1] in given and second[-1] in given and getattr(section, second[-1]) is not None:
            one, two = ".".join(first), ".".join(second)
            yield (
                (two, one),
                f"{two} is {shown(getattr(section, second[-1]))} and {one} is given too; keep one",
            )


def file_problems(e: Experiment) -> list[Problem]:
    """Files and folders that the experiment names and that are not there."""
    found = []
    if e.data.path and not Path(e.data.path).exists():
        text = f"data.path is {shown(e.data.path)}, which does not exist; give the path of the data set"
        found.append(Problem(("data.path",), text))
    if e.fleet.trace and not Path(e.fleet.trace).is_file():
        text = f"fleet.trace is {shown(e.fleet.trace)}, which is no file; give the path of the trace"
        found.append(Problem(("fleet.trace",), text))
    factories = {"data.source": e.data.source, "model.name": e.model.name, "strategy.path": e.strategy.path}
    for key, value in factories.items():
        match = FACTORY.match(value)
        if match and not Path(match["file"]).is_file():
            text = f"{key} is {shown(value)}, but there is no file {match['file']}; correct the path"
            found.append(Problem((key,), text))
        elif key == "strategy.path" and value and not match:
            text = f'{key} is {shown(value)}; it must be file.py:function, such as "my_rule.py:build"'
            found.append(Problem((key,), text))
    return found


def strategy_problems(e: Experiment) -> list[str]:
    """What is wrong with [strategy], a sentence each: checking a rule of the user's own means running it."""
    from carpool.experiments import plugins

    return plugins.problems(e.strategy)
