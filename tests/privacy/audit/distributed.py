"""Noise on vehicles inside a secure sum, as a round of the audit."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import numpy as np

from carpool.privacy.audit.rounds import Block, Released
from carpool.privacy.dp.forms import NoisyForm, form_for
from carpool.privacy.dp.protection import Protection
from carpool.privacy.dp.samplers import add_skellam
from carpool.privacy.dp.skellam import quantised
from carpool.privacy.errors import RoundError
from carpool.privacy.secagg import noise_levels
from carpool.privacy.secagg.masks import shorten
from tests.privacy.audit.mechanisms import CLIP, PART, Mechanism, bits_for, number


class Distributed(Mechanism):
    """Skellam noise on vehicles, added up in the ring of the secure sum; what is looked at is that very sum.

    extras: components of XNoise; gamma: the share that lies, here by adding no noise; quorum: of the round,
    n_min unless given; decoded: look at the channels after the rotation is undone instead.
    """

    noise = "vehicle"

    def __init__(
        self,
        *arguments,
        n_min=6,
        bits=32,
        extras=0,
        gamma=0.0,
        leaving=0.5,
        quorum=0,
        decoded=False,
        **options,
    ):
        self.n_min, self.width, self.extras, self.gamma = n_min, bits, extras, gamma
        self.leaving, self.quorum, self.decoded = leaving, quorum or n_min, decoded
        super().__init__(*arguments, **options)

    def prepare(self):
        protection = Protection("distributed", CLIP, self.z, self.planned, relation=self.relation)
        self.form = form_for(
            protection, self.sizes, most=self.planned, n_min=self.n_min, bits=self.width,
            rotation=bytes(range(16)), gamma=self.gamma, delta=self.leaving, extras=self.extras, variance=0.0,
        )  # fmt: skip
        assert isinstance(self.form, NoisyForm)
        lying = math.floor(self.gamma * self.planned + 1e-9)
        self.liars = {f"vehicle-{number:04d}" for number in range(lying)}
        # How many may go until less than the target is left of the honest noise.
        kept = self.form.plan.honest + lying
        if self.extras:
            kept = self.planned - noise_levels.boundaries(self.planned, self.leaving, self.extras)[-1]
        self.tolerated = 1 - kept / self.planned

    def planned_event(self):
        return self.form.plan.event(self.form.plan.target)

    def blocks(self):
        if self.decoded:
            return {name: Block(size, CLIP) for name, size in self.sizes.items()}
        return {"ring": Block(self.form.numbers, float(self.form.plan.reach))}

    def encoded(self, ask, one, vectors):
        """The vehicle's numbers, and the same without noise: rounding and noise have streams of their own."""
        joined = np.concatenate([vectors[name] for name in self.form.grid.slices])
        rounding, noise = bits_for(ask, one.vehicle, "rounding"), bits_for(ask, one.vehicle, "noise")
        plain = quantised(self.form.plan, joined, self.form.rotation, rounding).view(np.uint32)
        if one.vehicle in self.liars:
            made = plain
        elif self.extras:
            made = replace(self.form, source=noise).finish(plain, self.planned, self.seeds(ask, one.vehicle))
        elif ask.randomness is None:
            made = replace(self.form, source=noise).encode(vectors, 1.0, 0.0, np.random.default_rng(0))
        else:
            made = plain.copy()
            add_skellam(noise, self.form.plan.variance, made)
            shorten(made, self.width)
        return made, plain

    def seeds(self, ask, vehicle):
        levels = len(noise_levels.shares(self.planned, self.leaving, self.extras)) - 1
        if ask.randomness is not None:
            return [number(ask, vehicle, k).to_bytes(16, "big") for k in range(levels)]
        return self.kept.setdefault(vehicle, [os.urandom(16) for _ in range(levels)])

    def __call__(self, ask):
        self.kept = {}
        total, exact = (np.zeros(self.form.numbers, np.uint32) for _ in range(2))

        def use(one):
            nonlocal total, exact
            made, plain = self.encoded(ask, one, self.vectors(one))
            total, exact = total + made, exact + plain

        counted, refused = self.taken(ask, use)
        if len(counted) < self.quorum:
            raise RoundError(f"{len(counted)} vehicles are in the sum, {self.quorum} are needed")
        gone = (
            noise_levels.revealed(self.planned, len(counted), self.leaving, self.extras)
            if self.extras
            else ()
        )
        seeds = {
            place: {k: self.seeds(ask, vehicle)[k - 1] for k in gone} for place, vehicle in enumerate(counted)
        }
        self.form.strip(total, self.planned, seeds)
        shorten(exact, self.width)
        event = self.form.event(self.planned, len(counted))
        return Released(
            self.seen(total, len(counted)), counted, refused, {PART: event}, self.seen(exact, len(counted))
        )

    def seen(self, ring, count):
        if self.decoded:
            return dict(self.form.decode(ring.copy(), count).sums)
        gap = np.uint32(32 - self.width)
        return {"ring": (ring << gap).view(np.int32) >> gap.astype(np.int32)}
