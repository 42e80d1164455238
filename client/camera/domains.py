"""Where, when and with which camera a vehicle drives: the part of the procedural data that makes it non-IID.

A vehicle has one `Domain` for life; each of its drives has `Conditions` drawn from the domain's habits.
Everything follows from (seed, vehicle), never from the size of the fleet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Setting = Literal["highway", "city", "country"]
Country = Literal["EU", "US"]
Time = Literal["day", "dusk", "night"]
Weather = Literal["clear", "fog", "rain"]
F32 = NDArray[np.float32]

SETTINGS: tuple[Setting, ...] = ("city", "country", "highway")
COUNTRIES: tuple[Country, ...] = ("EU", "US")
TIMES: tuple[Time, ...] = ("day", "dusk", "night")
WEATHERS: tuple[Weather, ...] = ("clear", "fog", "rain")

SIGNS = (
    "none",
    "stop",
    "yield",
    "speed_limit",
    "no_entry",
    "warning",
    "priority",
    "keep_right",
    "no_stopping",
    "crossing",
)
"""The classes of the target `sign`; 0 is a picture without a sign near enough."""

_SIGN_HABITS = {
    "city": (1.5, 1.3, 1.0, 1.5, 0.8, 1.0, 1.3, 1.5, 1.8),
    "country": (1.0, 1.3, 1.3, 0.7, 2.0, 1.6, 0.7, 0.7, 0.8),
    "highway": (0.6, 1.0, 2.2, 0.9, 1.7, 0.8, 1.2, 1.2, 0.5),
}
_LANE = {"city": (2.9, 3.2), "country": (3.0, 3.4), "highway": (3.5, 3.75)}

# Streams of randomness under one vehicle; a new use takes a new number, so that old pictures do not change.
STREAM_DOMAIN, STREAM_DRIVE, STREAM_VIEW = range(3)


def generator(seed: int, vehicle: int, *stream: int) -> np.random.Generator:
    """The random numbers of one purpose of one vehicle; seed and vehicle are not negative."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, vehicle, *stream))))


@dataclass(frozen=True)
class Domain:
    """What stays the same in all drives of a vehicle.

    time, weather: what it meets most. lane_width, wall, mount_height: m (wall: lateral distance of the
    facades or trees from the lane's centre). horizon: fraction of the picture's height. sensor: RGB gain,
    about 1. noise: standard deviation in grey levels by day. vignette: darkening of the corners, 0..1.
    traffic: 0..1. sign_weights: probability of each sign class but "none". palette: of the walls, 0..3.
    """

    setting: Setting
    country: Country
    time: Time
    weather: Weather
    lane_width: float
    wall: float
    mount_height: float
    horizon: float
    sensor: tuple[float, float, float]
    noise: float
    vignette: float
    traffic: float
    sign_weights: tuple[float, ...]
    palette: int

    @property
    def words(self) -> str:
        """For people, e.g. "city, EU, mostly dusk, mostly rain": a single drive may be otherwise."""
        return f"{self.setting}, {self.country}, mostly {self.time}, mostly {self.weather}"


@dataclass(frozen=True)
class Conditions:
    """What stays the same in one drive.

    haze: extinction in 1/m. rain: 0 (dry) .. 1. sun: azimuth of the sun, rad, anticlockwise from ahead.
    brightness: exposure, about 1.
    """

    time: Time
    weather: Weather
    haze: float
    rain: float
    sun: float
    brightness: float


def draw_domain(seed: int, vehicle: int) -> Domain:
    """The domain of one vehicle."""
    rng = generator(seed, vehicle, STREAM_DOMAIN)
    setting = SETTINGS[rng.choice(3, p=(0.45, 0.3, 0.25))]
    country = COUNTRIES[rng.choice(2, p=(0.6, 0.4))]
    time = TIMES[rng.choice(3, p=(0.55, 0.22, 0.23))]
    weather = WEATHERS[rng.choice(3, p=(0.6, 0.15, 0.25))]
    wall = {"city": (6.5, 10.0), "country": (7.5, 14.0), "highway": (10.0, 16.0)}[setting]
    cast = 1.0 + 0.05 * rng.standard_normal(3)
    weights = np.asarray(_SIGN_HABITS[setting]) * rng.gamma(1.5, size=len(SIGNS) - 1)
    weights = weights / weights.sum() * 0.85 + 0.15 / len(weights)
    return Domain(
        setting=setting,
        country=country,
        time=time,
        weather=weather,
        lane_width=float(rng.uniform(*_LANE[setting])),
        wall=float(rng.uniform(*wall)),
        mount_height=float(rng.uniform(1.2, 1.65)),
        horizon=float(rng.uniform(0.40, 0.47)),
        sensor=(float(cast[0]), float(cast[1]), float(cast[2])),
        noise=float(rng.uniform(1.0, 4.0)),
        vignette=float(rng.uniform(0.0, 0.3)),
        traffic=float(rng.uniform(0.15, 0.75)),
        sign_weights=tuple(float(w) for w in weights),
        palette=int(rng.integers(4)),
    )


def draw_conditions(domain: Domain, rng: np.random.Generator) -> Conditions:
    """Time of day and weather of one drive: mostly what the domain meets most."""
    time = domain.time if rng.random() < 0.75 else TIMES[rng.integers(3)]
    weather = domain.weather if rng.random() < 0.7 else WEATHERS[rng.integers(3)]
    haze = {"clear": (0.001, 0.006), "fog": (0.025, 0.05), "rain": (0.008, 0.018)}[weather]
    return Conditions(
        time=time,
        weather=weather,
        haze=float(rng.uniform(*haze)),
        rain=float(rng.uniform(0.4, 1.0)) if weather == "rain" else 0.0,
        sun=float(rng.uniform(-np.pi, np.pi)),
        brightness=float(rng.uniform(0.88, 1.12)),
    )
