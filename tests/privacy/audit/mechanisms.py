"""Carpool's own mechanisms as rounds of the audit: the code that runs in training, in a few lines each."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import replace

import numpy as np

from carpool.privacy.audit.rounds import Block, Claim, Part, Released
from carpool.privacy.dp import accounting, adaptive, matrix
from carpool.privacy.dp.central import CentralPlan
from carpool.privacy.dp.forms import GridForm
from carpool.privacy.dp.grid import STEPS, Grid
from carpool.privacy.dp.joint import clip_jointly, weigh
from carpool.privacy.dp.local import LocalPlan
from carpool.privacy.dp.matrix_noise import MatrixNoise
from carpool.privacy.dp.randomness import SeededBits, SystemBits
from carpool.privacy.errors import VehicleError
from carpool.privacy.vectors import Layout

PART = "model sum"
DELTA = 1e-5
CLIP = 0.7
SHAPES = {"body": (24, 50), "head": (30, 10), "bias": (30,)}


def number(ask, *what):
    """A seed from all that the audit says is the same."""
    text = repr((ask.randomness, ask.number, *what)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")


def bits_for(ask, *what):
    return SystemBits("audit") if ask.randomness is None else SeededBits(number(ask, *what))


class Mechanism:
    """What all have in common: hostile contributions are refused, each vehicle is taken once."""

    noise = "server"
    tolerated = 1.0
    mixing = None
    takes = (1,)

    def __init__(self, relation="zero-out", planned=12, z=1.3, rounds=10, shapes=SHAPES, split=False):
        self.shapes, self.relation, self.planned, self.z, self.rounds = shapes, relation, planned, z, rounds
        # One channel of the model, or two that are clipped together.
        halves = [{"body": shapes["body"]}, {k: v for k, v in shapes.items() if k != "body"}]
        parts = halves if split else [shapes]
        self.channels = {
            f"channel {place}": Layout(tuple(part), tuple(part.values())) for place, part in enumerate(parts)
        }
        self.sizes = {name: layout.size for name, layout in self.channels.items()}
        self.prepare()

    def prepare(self):
        """Make the plan."""

    def claim(self):
        events = [replace(event, count=event.count * (1 if self.mixing is not None else self.rounds))
                  for event in [self.planned_event()]]  # fmt: skip
        factor = accounting.factor(self.relation)
        part = Part(PART, self.blocks(), self.multiplier, factor * self.planned_event().sensitivity)
        epsilon = accounting.epsilon(events, DELTA, self.relation).epsilon
        return Claim(
            self.shapes, CLIP, (part,), self.planned, epsilon, DELTA, self.rounds, self.relation,
            self.noise, self.tolerated, self.mixing, self.takes,
        )  # fmt: skip

    @property
    def multiplier(self):
        return self.z

    def vectors(self, one):
        """The way into every mechanism: the model's channels, float32, clipped together."""
        if set(one.tensors) != set(self.shapes):
            raise VehicleError(f"tensors {sorted(one.tensors)}")
        try:
            with np.errstate(over="ignore"):
                channels = {
                    name: layout.flatten({key: one.tensors[key] for key in layout.names})
                    for name, layout in self.channels.items()
                }
        except ValueError as error:
            raise VehicleError(str(error)) from error
        return clip_jointly(weigh(channels, one.weight, 1.0, channels), CLIP)[0]

    def taken(self, ask, use):
        """Hand each sound contribution to `use`; names of those counted and refused."""
        counted, refused = [], []
        for one in ask.cohort:
            if one.vehicle in ask.lost:
                continue
            try:
                if one.vehicle in counted:
                    raise VehicleError("sent twice")
                use(one)
                counted.append(one.vehicle)
            except VehicleError:
                refused.append(one.vehicle)
        return tuple(counted), tuple(refused)


class Central(Mechanism):
    """GridSum and the aggregator's discrete Gaussian; `ring`: the sum comes out of a secure aggregation."""

    def __init__(self, *arguments, ring=False, **options):
        self.ring = ring
        super().__init__(*arguments, **options)

    def prepare(self):
        self.plan = CentralPlan(CLIP, self.z, self.sizes, self.planned)

    def planned_event(self):
        return self.plan.event()

    def blocks(self):
        # One clip norm is STEPS grid steps, a hair above CLIP: as they come out.
        one = self.plan.grid.floats(np.full(self.plan.grid.size, STEPS, np.int64))
        return {name: Block(vector.size, float(vector[0]), self.planned) for name, vector in one.items()}

    def __call__(self, ask):
        total, kept = self.plan.begin(), self.plan.begin()
        form = GridForm(self.plan.grid, self.planned, 32)
        ring = np.zeros(form.numbers, np.uint32)

        def use(one):
            nonlocal ring
            vectors = self.vectors(one)
            total.add(vectors)
            ring = ring + form.encode(vectors, one.weight, 0.0, np.random.default_rng(0))
            kept.add(vectors)

        counted, refused = self.taken(ask, use)
        bits = bits_for(ask, "server")
        vectors = self.plan.release(ring if self.ring else total, bits)
        exact = self.plan.grid.floats(kept.take())
        return Released(vectors, counted, refused, {PART: self.plan.event()}, exact)


class Adaptive(Central):
    """The same with the clip bit beside the channels; both under one noise."""

    def prepare(self):
        self.split = adaptive.Split(self.z, self.planned / 5)
        sizes = {**self.sizes, adaptive.BIT: 1}
        self.plan = CentralPlan(self.split.joint_norm(CLIP), self.z, sizes, self.planned)

    def vectors(self, one):
        if one.silent:  # the message is zeros, its bit too
            return {name: np.zeros(size, np.float32) for name, size in self.plan.grid.sizes.items()}
        clipped = super().vectors(one)
        norm = math.sqrt(sum(float(vector @ vector) for vector in clipped.values()))
        return adaptive.with_bit(clipped, norm > CLIP * (1 - 1e-6), CLIP, self.split)


class Local(Mechanism):
    """One vehicle's own message, which is what is released of it."""

    noise, tolerated = "vehicle", 0.0

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **{**options, "planned": 1})

    def prepare(self):
        self.plan = LocalPlan(CLIP, self.z, self.sizes)

    def planned_event(self):
        return self.plan.event()

    def blocks(self):
        one = self.plan.grid.floats(np.full(self.plan.grid.size, STEPS, np.int64))
        return {name: Block(vector.size, float(vector[0])) for name, vector in one.items()}

    def __call__(self, ask):
        left = {}

        def use(one):
            vectors = self.vectors(one)
            left.update(self.plan.noised(vectors, bits_for(ask, one.vehicle)))
            left["exact"] = self.plan.grid.floats(self.plan.grid.whole(vectors).astype(np.int64))

        counted, refused = self.taken(ask, use)
        exact = left.pop("exact", None)
        return Released(left, counted, refused, {PART: self.plan.event()} if left else {}, exact)


class Matrix(Mechanism):
    """GridSum with the correlated noise of a training of a few rounds, published as running sums' gains."""

    def __init__(self, make, *arguments, mixing, takes, **options):
        self.make, self.mixing, self.takes = make, mixing, takes
        super().__init__(*arguments, **{**options, "rounds": len(mixing)})

    def prepare(self):
        self.plan = self.make(self.rounds)
        self.width = self.plan.width(self.z)
        self.grid = Grid(self.sizes, CLIP)
        self.key, self.made = os.urandom(16), {}

    @property
    def multiplier(self):
        return self.width

    def planned_event(self):
        return matrix.event(self.plan, self.width)

    def blocks(self):
        one = self.grid.floats(np.full(self.grid.size, STEPS, np.int64))
        return {name: Block(vector.size, float(vector[0])) for name, vector in one.items()}

    def noise_of(self, ask):
        secret = self.key if ask.randomness is None else ask.randomness
        if secret not in self.made:
            noise = MatrixNoise(self.plan, self.width, self.grid.size, secret)
            self.made[secret] = [noise.next() for _ in range(self.rounds)]
        return self.made[secret][ask.number - 1]

    def __call__(self, ask):
        total = np.zeros(self.grid.size, np.int64)

        def use(one):
            nonlocal total
            total = total + self.grid.whole(self.vectors(one))

        counted, refused = self.taken(ask, use)
        # Released in whole grid steps: nothing of a training is rounded on its way to the audit.
        scale = self.grid.floats(np.full(self.grid.size, STEPS, np.int64))
        vectors, exact = (
            {name: row[place] * (float(scale[name][0]) / STEPS) for name, place in self.grid.slices.items()}
            for row in (total + self.noise_of(ask), total)
        )
        charged = {PART: self.planned_event()} if ask.number == 1 else {}
        return Released(vectors, counted, refused, charged, exact)
