"""What an experiment asks of secure aggregation comes to the same form at the vehicle and at the server."""

from __future__ import annotations

import pytest

from carpool.privacy.secagg.plus_policy import Policy
from carpool.privacy.secagg.settings import Settings
from carpool.strategies.contract import Channel

CHANNELS = (Channel("delta", clip=1.0), Channel("steps", size=1, weight="one", clip=50.0))
SIZES = {"delta": 10, "steps": 1}


def made(**changes: object) -> Settings:
    return Settings(**{"protocol": "secagg+", "n_min": 12, "most_weight": 20.0, **changes})


def test_a_strategys_channels_are_the_parts_of_the_form() -> None:
    form = made().form(CHANNELS, SIZES, most=40, about="run/1/1")
    assert [(p.name, p.size, p.clip, p.weighted) for p in form.parts] == [
        ("delta", 10, 1.0, True),
        ("steps", 1, 50.0, False),
    ]
    assert (form.most, form.most_weight, form.bits, form.rotation) == (40, 20.0, 32, None)
    assert form.numbers == 14


def test_a_channel_without_a_norm_has_no_range() -> None:
    with pytest.raises(ValueError, match="channel delta has no clip norm"):
        made().form((Channel("delta"),), SIZES, most=40, about="run/1/1")


def test_a_ring_that_is_too_small_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match="a sum of 40000 vehicles does not fit into 16 bits; use more bits"):
        made(bits=16).form(CHANNELS, SIZES, most=40_000, about="run/1/1")


def test_the_rotation_is_public_and_another_in_every_pass() -> None:
    told = [
        made(rotate=True).form(CHANNELS, SIZES, most=40, about=about).rotation
        for about in ("run/1/1", "run/1/1", "run/1/2", "run/2/1", "other/1/1")
    ]
    assert told[0] == told[1]
    assert len({*told}) == 4
    assert all(one is not None and len(one) == 16 for one in told)


def test_the_protocols_error_narrows_the_levels() -> None:
    plain, shot = (
        made(bits=24).form(CHANNELS, SIZES, most=100, about="r", variance=v).levels for v in (0.0, 16.0)
    )
    assert shot < plain


def test_a_vehicles_policy_is_that_of_the_settings() -> None:
    settings = made(gamma=0.1, delta=0.2, adversary="curious", extras=3)
    assert settings.policy == Policy(12, 0.1, 0.2, "curious", 3)
    with pytest.raises(ValueError, match="n_min is 1"):
        _ = made(n_min=1).policy
