"""The experiment file as frozen pydantic sections: every key, its default and its range.

`load.py` reads files into this; `checks.py` has the rules about more than one key. The disk is not touched.
"""

from __future__ import annotations

import math
import re
from pathlib import PurePath
from typing import Annotated, Literal

import pydantic
from pydantic import AfterValidator, Field

from carpool.client.camera.settings import VIEWS
from carpool.experiments.checks import FACTORY, Problem, cross_problems
from carpool.experiments.fields import (
    MAX_SEED,
    Count,
    Fraction,
    Names,
    NotNegative,
    NotNegativeInt,
    Options,
    Positive,
    Probability,
    Section,
    Seed,
    Triple,
    above_zero,
)
from carpool.experiments.hints import choose
from carpool.experiments.privacy_config import Privacy

MODELS = ("logistic", "mlp", "cnn-small", "cnn-multiview", "resnet-small")
SELECTORS = ("uniform", "poisson", "power-of-choice", "oort", "refl", "stratified")
ATTACKS = ("none", "sign-flip", "label-flip", "gaussian", "alie", "ipm", "mimic", "backdoor")
SOURCES = ("procedural", "gtsrb", "npz", "udacity", "imagefolder", "comma2k19", "parquet")


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value):
        raise ValueError("it names a folder, so it must be 1 to 64 letters, digits, - or _")
    return value


def _model_name(value: str) -> str:
    if value not in MODELS and not FACTORY.match(value):
        raise ValueError(choose(value, MODELS, "or path/to/file.py:factory"))
    return value


def _source(value: str) -> str:
    if value not in SOURCES and not FACTORY.match(value):
        raise ValueError(choose(value, SOURCES, "or path/to/file.py:factory"))
    return value


def _selector(value: str) -> str:
    if value not in SELECTORS:
        raise ValueError(choose(value, SELECTORS))
    return value


def _attack(value: str) -> str:
    if value not in ATTACKS:
        raise ValueError(choose(value, ATTACKS))
    return value


def _views(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if value not in VIEWS:
            raise ValueError(f'"{value}" is no camera; {choose(value, VIEWS)}')
    return _distinct(values)


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise ValueError("every name may stand in it once")
    return values


class General(Section):
    """[experiment]"""

    name: Annotated[str, AfterValidator(_name)]
    seed: Seed = 7
    rounds: Count = 30
    engine: Literal["inline", "ray", "superlink", "peers"] = "inline"
    workers: Count = 1
    topology: Literal["server", "ring", "torus", "exponential", "random", "epidemic", "contacts"] = "server"
    evaluate_every: Count = 1


class Leave(Section):
    """[fleet.leave]: probability that an asked vehicle leaves at this stage of a round."""

    before_training: Probability = 0.05
    during_training: Probability = 0.10
    before_upload: Probability = 0.05
    during_upload: Probability = 0.05
    after_upload: Probability = 0.05


class Markov(Section):
    """[fleet.markov]: a vehicle comes and goes; the day curve bends how long it is away."""

    mean_present_h: Positive = 8.0
    mean_absent_h: Positive = 2.0
    day_amplitude: Probability = 0.5
    start_hour: Annotated[float, Field(ge=0, lt=24)] = 22.0


class Pace(Section):
    """[fleet.pace]: how fast vehicles compute and talk, on the virtual clock."""

    seconds_per_example: Positive = 0.02
    spread: NotNegative = 0.4
    uplink_mbit: Positive = 8.0
    downlink_mbit: Positive = 40.0


class Fleet(Section):
    """[fleet]"""

    vehicles: Count = 100
    availability: Literal["bernoulli", "markov", "trace"] = "bernoulli"
    trace: str = ""
    leave: Leave = Leave()
    markov: Markov = Markov()
    pace: Pace = Pace()


class Pipeline(Section):
    """[data.pipeline]: from a camera's picture to a model's numbers; `carpool.client.camera.pipeline`."""

    crop_top: Fraction = 0.0
    crop_bottom: Fraction = 0.0
    crop_left: Fraction = 0.0
    crop_right: Fraction = 0.0
    colour: Literal["rgb", "gray", "yuv"] = "rgb"
    normalise: Literal["constants", "picture", "federated"] = "constants"
    mean: Triple = (0.5, 0.5, 0.5)
    std: Annotated[Triple, AfterValidator(above_zero)] = (0.25, 0.25, 0.25)


class Data(Section):
    """[data]; the defaults are those of `carpool.client.camera.settings.DataSettings`."""

    source: Annotated[str, AfterValidator(_source)] = "procedural"
    path: str = ""
    split: Literal["natural", "dirichlet", "shards", "iid"] = "natural"
    alpha: Positive = 0.3
    shards: Count = 2
    quantity_skew: Annotated[float, Field(ge=0, le=5)] = 0.0
    holdout: Fraction = 0.2
    stride: Count = 1
    views: Annotated[Names, AfterValidator(_views)] = ()
    targets: Annotated[Names, AfterValidator(_distinct)] = ()
    width: NotNegativeInt = 0
    height: NotNegativeInt = 0
    drives: Count = 4
    frames: Count = 16
    seed: Seed | None = None
    cache: str = ""
    on_demand: Literal["auto", "always", "never"] = "auto"
    pipeline: Pipeline = Pipeline()


class Model(Section):
    """[model]"""

    name: Annotated[str, AfterValidator(_model_name)] = "cnn-small"
    buffers: Literal["refuse", "average"] = "refuse"
    options: Options = {}


class Train(Section):
    """[train]: what a vehicle does with its own frames in one round."""

    epochs: Count = 1
    steps: Count | None = None
    batch_size: Count = 32
    optimizer: Literal["sgd"] = "sgd"
    momentum: Fraction = 0.0
    weight_decay: NotNegative = 0.0
    lr: Positive = 0.05
    lr_schedule: Literal["constant", "cosine"] = "constant"
    lr_final: Probability = 0.0
    warmup_rounds: NotNegativeInt = 0
    clip_grad: NotNegative = 0.0
    augment: Literal["none", "sign", "light"] = "none"
    batching: Literal["auto", "stacked", "sequential"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Literal["cpu", "cuda", "auto"] = "auto"


class Strategy(Section):
    """[strategy]; `plugins.py` checks it. With a path, name is a label, by default the file's name."""

    name: str = "fedavg"
    path: str = ""
    root_samples: Count = 100
    bucket: NotNegativeInt = 0
    options: Options = {}


class Selection(Section):
    """[selection]; the catalogue of selectors checks the options."""

    name: Annotated[str, AfterValidator(_selector)] = "uniform"
    cohort: Count = 20
    over_select: NotNegative = 0.5
    quorum: Annotated[float, Field(gt=0, le=1)] = 0.9
    deadline_mads: NotNegative = 5.0
    deadline_min_s: Positive = 60.0
    deadline_max_s: Positive = 3600.0
    options: Options = {}

    @property
    def asked(self) -> int:
        """Vehicles asked a round, cohort × (1 + over_select) rounded up."""
        return math.ceil(round(self.cohort * (1 + self.over_select), 6))

    @property
    def needed(self) -> int:
        """Replies without which a round is void, quorum × cohort rounded up."""
        return math.ceil(round(self.quorum * self.cohort, 6))


class Asynchrony(Section):
    """[asynchrony]: steps without rounds; a strategy with a buffer of its own (fedbuff) needs none here."""

    buffer: NotNegativeInt = 0
    concurrency: NotNegativeInt = 0
    max_staleness: NotNegativeInt = 20
    staleness: Literal["constant", "polynomial", "hinge"] = "polynomial"
    exponent: NotNegative = 0.5
    hinge: NotNegative = 4.0


class Compression(Section):
    """[compression] of what vehicles send."""

    name: Literal["none", "int8", "int4", "top-k", "random-k"] = "none"
    block: Annotated[int, Field(ge=8, le=1 << 16)] = 256
    keep: Annotated[float, Field(ge=1e-9, lt=1)] = 0.01
    error_feedback: bool = True


class Audit(Section):
    """[audit]"""

    canaries: NotNegativeInt = 0


class Attack(Section):
    """[attack]: vehicles that the simulator lets misbehave; the catalogue of attacks checks the options."""

    name: Annotated[str, AfterValidator(_attack)] = "none"
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    options: Options = {}


class Ray(Section):
    """[ray]"""

    address: str = ""


class Experiment(Section):
    """One experiment, whole and checked; raises pydantic.ValidationError where a rule does not hold.

    `data.seed` is always a number afterwards: without one in the file it is `experiment.seed`.
    """

    experiment: General
    fleet: Fleet = Fleet()
    data: Data = Data()
    model: Model = Model()
    train: Train = Train()
    strategy: Strategy = Strategy()
    selection: Selection = Selection()
    asynchrony: Asynchrony = Asynchrony()
    compression: Compression = Compression()
    privacy: Privacy = Privacy()
    audit: Audit = Audit()
    attack: Attack = Attack()
    ray: Ray = Ray()

    @pydantic.model_validator(mode="before")
    @classmethod
    def _resolve_seed(cls, document: object) -> object:
        if not isinstance(document, dict):
            return document
        general, data = document.get("experiment"), document.get("data", {})
        if not isinstance(general, dict) or not isinstance(data, dict) or data.get("seed") is not None:
            return document
        seed = general.get("seed", General.model_fields["seed"].default)
        if type(seed) is not int or not 0 <= seed <= MAX_SEED:
            return document  # experiment.seed is reported by itself
        return {**document, "data": {**data, "seed": seed}}

    @pydantic.model_validator(mode="before")
    @classmethod
    def _label(cls, document: object) -> object:
        strategy = document.get("strategy") if isinstance(document, dict) else None
        if not isinstance(document, dict) or not isinstance(strategy, dict) or "name" in strategy:
            return document
        match = FACTORY.match(path) if isinstance(path := strategy.get("path"), str) else None
        if match is None:
            return document
        return {**document, "strategy": {**strategy, "name": PurePath(match["file"]).stem}}

    @pydantic.model_validator(mode="after")
    def _rules(self, info: pydantic.ValidationInfo) -> Experiment:
        problems = cross_problems(self)
        collected: list[Problem] | None = (info.context or {}).get("problems")
        if collected is not None:
            collected.extend(problems)
        elif problems:
            raise ValueError("; ".join(problem.text for problem in problems))
        return self
