"""The parts of an experiment: its model, how that is trained, and what of it travels."""

from __future__ import annotations

from typing import Any

import torch

from carpool.client.camera.samples import FleetData, Schema
from carpool.client.flat import FlatModel
from carpool.client.halves import check_bfloat16
from carpool.client.losses import to_tensors
from carpool.client.models import build
from carpool.client.paths import Batching, choose, made_up
from carpool.client.stacked import stack
from carpool.client.trainer import TrainSettings
from carpool.experiments.config import Experiment
from carpool.experiments.load import data_settings
from carpool.privacy.errors import ConfigError
from carpool.privacy.vectors import Layout
from carpool.strategies.contract import Strategy
from carpool.strategies.sharing import Sharing


def pick_device(wanted: str) -> str:
    """ "cpu" or "cuda" for train.device; raises ConfigError where cuda is asked for and absent."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(['train.device is "cuda", but torch finds no GPU; use "cpu" or "auto"'])
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def check_precision(settings: TrainSettings, model: FlatModel, schema: Schema) -> None:
    """Raise ConfigError where this machine or model cannot train in the precision that is asked for."""
    if settings.precision == "bfloat16":
        pool = made_up(schema, 32)
        check_bfloat16(
            model, model.floats(pool.frames), to_tensors(pool.targets, schema, model.device), schema
        )


def pick_batching(
    experiment: Experiment, model: FlatModel, schema: Schema, settings: TrainSettings
) -> Batching:
    """How vehicles are trained: as the experiment says, or by a short trial; raises ConfigError."""
    wanted = experiment.train.batching
    if experiment.privacy.dp.mechanism == "sgd":  # example by example
        return "sequential"
    if wanted == "auto":
        return choose(model, schema, settings, cache=data_settings(experiment).cache)
    if wanted == "stacked" and stack(model.module) is None:
        name = experiment.model.name
        raise ConfigError([f'train.batching is "stacked", but {name} has no stacked form; use "auto"'])
    return wanted


def share(strategy: Strategy[Any], layout: Layout) -> Sharing:
    """What of the model travels; raises ConfigError where the strategy would leave nothing."""
    try:
        return strategy.sharing(layout)
    except ValueError as error:
        raise ConfigError([f"[strategy]: {strategy.name}: {error}"]) from error


def build_model(experiment: Experiment, data: FleetData) -> FlatModel:
    """The model of the experiment with its first parameters; raises ConfigError."""
    model, device = experiment.model, pick_device(experiment.train.device)
    module = build(model.name, data.schema, model.options, experiment.experiment.seed)
    pipeline = data.schema.pipeline
    return FlatModel(module, buffers=model.buffers, device=device, pipeline=pipeline)


def train_settings(experiment: Experiment) -> TrainSettings:
    """The [train] section for the trainer."""
    train = experiment.train
    return TrainSettings(
        epochs=train.epochs,
        steps=train.steps or 0,
        batch_size=train.batch_size,
        lr=train.lr,
        momentum=train.momentum,
        weight_decay=train.weight_decay,
        clip_grad=train.clip_grad,
        augment=train.augment,
        precision=train.precision,
    )
