"""The built-in models fit every schema; a user's own file is loaded, or refused with what went wrong."""

from __future__ import annotations

import textwrap

import pytest
import torch
from torch import nn

from carpool.client.camera.samples import Schema, Target
from carpool.client.flat import FlatModel
from carpool.client.layers import stages_for, standardise
from carpool.client.models import BUILT_IN, build, conv_stage
from carpool.privacy.errors import ConfigError

SIZES = [(16, 16), (48, 64), (64, 48), (32, 32), (17, 23), (96, 96), (16, 96), (33, 40)]
SIGN = Target("sign", "class", classes=tuple("abcde"))
OFFSET = Target("offset", "value")


def schema(views: int, height: int, width: int, targets: tuple[Target, ...]) -> Schema:
    return Schema(tuple(f"v{i}" for i in range(views)), height, width, targets)


def obstacle(width: int) -> Target:
    return Target("obstacle", "flags", width=width)


def targets_for(views: int) -> list[tuple[Target, ...]]:
    return [
        (SIGN,),
        (OFFSET,),
        (obstacle(views),),
        (obstacle(views + 3),),
        (OFFSET, obstacle(views), SIGN, Target("near", "flags", width=views), Target("rain", "value")),
    ]


@pytest.mark.parametrize("name", sorted(BUILT_IN))
@pytest.mark.parametrize("views", [1, 3, 8])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_every_model_gives_every_output_at_every_size(name, views, height, width):
    options = {"channels": 8} if "cnn" in name or "resnet" in name else {"hidden": 8} if name == "mlp" else {}
    kinds = targets_for(views) if (height, width) == (16, 16) else targets_for(views)[-1:]
    for targets in kinds:
        model = build(name, schema(views, height, width, targets), options, 0)
        outputs = model(torch.zeros(2, views, 3, height, width))
        assert {n: tuple(o.shape) for n, o in outputs.items()} == {t.name: (2, t.outputs) for t in targets}
        assert all(torch.isfinite(o).all() for o in outputs.values())


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_parameter_is_used_and_nothing_but_parameters_travels(name):
    targets = (SIGN, OFFSET, obstacle(2))
    model = FlatModel(build(name, schema(2, 16, 16, targets), {}, 0))  # would refuse buffers
    frames = torch.randn(4, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    sum(output.square().sum() for output in model.module(frames).values()).backward()
    for parameter_name, part in model.layout.slices.items():
        assert model.grad[part].abs().sum() > 0, parameter_name


@pytest.mark.slow  # the first convolution of a process
@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_samples_of_a_batch_do_not_touch_each_other(name):
    model = build(name, schema(2, 16, 24, (SIGN, obstacle(2))), {}, 0).eval()
    frames = torch.randn(3, 2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    together = model(frames)
    for i in range(3):
        alone = model(frames[i : i + 1])
        for key in together:
            torch.testing.assert_close(alone[key][0], together[key][i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "size"), [("cnn-small", 176_139), ("resnet-small", 242_811)])
def test_convolutional_models_have_about_200_thousand_parameters(name, size):
    signs = Target("sign", "class", classes=tuple(str(i) for i in range(43)))
    assert FlatModel(build(name, schema(1, 32, 32, (signs,)), {}, 0)).trainable == size


@pytest.mark.slow  # the first convolution of a process
def test_a_stage_is_convolution_pool_group_norm_and_relu_written_out():
    stage = conv_stage(3, 16)
    x = torch.randn(4, 3, 9, 10, generator=torch.Generator().manual_seed(0))
    convolved = nn.functional.conv2d(x, stage[0].weight, padding=1)
    pooled = convolved[:, :, :8, :].unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2))
    groups = pooled.reshape(4, 8, -1)
    normed = (groups - groups.mean(-1, keepdim=True)) / (
        groups.var(-1, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    wanted = normed.reshape(pooled.shape).clamp(min=0)
    assert stage(x).shape == (4, 16, 4, 5)
    torch.testing.assert_close(stage(x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", range(8, 200))
def test_the_shorter_side_comes_down_to_at_most_four_pixels_and_no_further_than_needed(side):
    stages = stages_for(side, 400)
    assert 2 <= side >> stages <= 4  # a group of one pixel would always be zero
    assert stages == 1 or side >> (stages - 1) > 4
    assert stages_for(400, side) == stages


def test_night_and_day_look_alike_after_standardising():
    frames = torch.randn(2, 3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    out = standardise(frames)
    torch.testing.assert_close(out.mean(dim=(2, 3, 4)), torch.zeros(2, 3), rtol=0, atol=1e-6)
    torch.testing.assert_close(out.square().mean(dim=(2, 3, 4)), torch.ones(2, 3), rtol=1e-3, atol=0)
    torch.testing.assert_close(standardise(frames * 0.25 - 1), out, rtol=0, atol=0.01)
    assert torch.isfinite(standardise(torch.zeros(1, 1, 3, 8, 8))).all()


def test_per_view_flags_are_read_from_their_own_view():
    model = build("cnn-multiview", schema(3, 16, 16, (obstacle(3), SIGN)), {}, 0).eval()
    frames = torch.randn(1, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    before = model(frames)
    frames[:, 1] = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(1))
    after = model(frames)
    changed = (before["obstacle"] != after["obstacle"])[0].tolist()
    assert changed == [False, True, False]
    assert not torch.equal(before["sign"], after["sign"])


def test_the_seed_fixes_the_parameters_and_leaves_torchs_generator_alone():
    shape = schema(1, 16, 16, (SIGN,))
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    a, b, c = (FlatModel(build("mlp", shape, {}, seed)).numpy() for seed in (3, 3, 4))
    assert torch.equal(torch.rand(1), wanted)
    assert (a == b).all()
    assert not (a == c).all()


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("mlp", {"hiden": 3}, "model.options.hiden is unknown; mlp takes hidden, layers"),
        ("logistic", {"hidden": 3}, "model.options.hidden is unknown; logistic takes no options"),
        ("mlp", {"layers": 9}, "layers is 9; it must be a whole number 1..8"),
        ("mlp", {"hidden": 0}, "hidden is 0; it must be a whole number 1..16384"),
        ("mlp", {"hidden": True}, "hidden is True"),
        ("mlp", {"hidden": 3.0}, r"hidden is 3\.0"),
        ("mlp", {"hidden": "8"}, "hidden is '8'"),
        (
            "cnn-small",
            {"channels": 12},
            r"channels is 12; it must be a whole number 8\.\.1024 divisible",
        ),
        ("cnn-small", {"channels": 2048}, "channels is 2048"),
        ("cnn-multiview", {"embedding": -1}, "embedding is -1"),
        ("resnet-small", {"blocks": 0}, r"blocks is 0; it must be a whole number 1\.\.16"),
        (
            "resnet",
            {},
            "is 'resnet'; use one of logistic, mlp, cnn-small, cnn-multiview, resnet-small, or path",
        ),
    ],
)
def test_a_wrong_name_or_option_is_refused_with_the_fix(name, options, said):
    with pytest.raises(ConfigError, match=said):
        build(name, schema(1, 16, 16, (SIGN,)), options, 0)


@pytest.mark.parametrize(("name", "least"), [("cnn-small", 8), ("cnn-multiview", 16), ("resnet-small", 16)])
def test_pictures_that_are_too_small_are_refused(name, least):
    build(name, schema(1, least, least, (SIGN,)), {}, 0)(torch.zeros(1, 1, 3, least, least))
    for height, width in ((least - 1, least), (least, least - 1)):
        said = f"needs pictures of at least {least}x{least}, not {width}x{height}"
        with pytest.raises(ConfigError, match=said):
            build(name, schema(1, height, width, (SIGN,)), {}, 0)


# -- the user's own file -----------------------------------------------------------------------------

GOOD = """
    from __future__ import annotations
    from dataclasses import dataclass
    import torch
    from torch import nn

    @dataclass
    class Sizes:
        hidden: int = 4

    class Own(nn.Module):
        def __init__(self, schema, sizes):
            super().__init__()
            self.body = nn.Linear(3 * schema.height * schema.width, sizes.hidden)
            self.head = nn.Linear(sizes.hidden, 5)

        def forward(self, frames):
            return {"sign": self.head(torch.relu(self.body(frames.flatten(1))))}

    def factory(schema, hidden=4):
        return Own(schema, Sizes(hidden))
"""


def user_file(tmp_path, text: str):
    path = tmp_path / "own_model.py"
    path.write_text(textwrap.dedent(text))
    return path


def test_a_users_factory_is_called_with_the_schema_and_the_options(tmp_path):
    path = user_file(tmp_path, GOOD)
    model = build(f"{path}:factory", schema(1, 8, 8, (SIGN,)), {"hidden": 6}, 0)
    assert model(torch.zeros(2, 1, 3, 8, 8))["sign"].shape == (2, 5)
    assert model.body.out_features == 6


def test_a_users_model_is_seeded_too(tmp_path):
    reference = f"{user_file(tmp_path, GOOD)}:factory"
    a, b = (FlatModel(build(reference, schema(1, 8, 8, (SIGN,)), {}, 1)).numpy() for _ in range(2))
    assert (a == b).all()


@pytest.mark.parametrize(
    ("text", "attribute", "said"),
    [
        (GOOD, "missing", "failed with AttributeError: .*missing"),
        ("def factory(:", "factory", "failed with SyntaxError"),
        ("import no_such_module_anywhere", "factory", "failed with ModuleNotFoundError"),
        ("def factory(schema): raise RuntimeError('boom')", "factory", "failed with RuntimeError: boom"),
        ("def factory(schema): return 5", "factory", "gave a int; it must return a torch.nn.Module"),
        ("factory = 7", "factory", "failed with TypeError"),
        ("def factory(schema, *, depth): pass", "factory", "failed with TypeError: .*depth"),
    ],
)
def test_a_users_file_that_does_not_work_is_refused_with_what_went_wrong(tmp_path, text, attribute, said):
    with pytest.raises(ConfigError, match=said):
        build(f"{user_file(tmp_path, text)}:{attribute}", schema(1, 8, 8, (SIGN,)), {}, 0)


@pytest.mark.parametrize("reference", ["missing.py:f", "folder:f", "file.txt:f", ":f", ""])
def test_a_reference_to_no_file_is_refused(tmp_path, monkeypatch, reference):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(ConfigError, match=r"use one of logistic, .* or path/to/file.py:factory"):
        build(reference, schema(1, 8, 8, (SIGN,)), {}, 0)


def test_an_unknown_option_of_a_users_factory_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"failed with TypeError: .*width"):
        build(f"{user_file(tmp_path, GOOD)}:factory", schema(1, 8, 8, (SIGN,)), {"width": 3}, 0)
