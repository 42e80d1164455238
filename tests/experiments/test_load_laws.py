import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from carpool.experiments.config import Experiment
from carpool.experiments.faults import leaves
from carpool.experiments.load import load_experiment, to_toml
from carpool.experiments.toml_files import put
from carpool.privacy.errors import ConfigError

SCALARS = (
    st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
    | st.sampled_from(["fedavg", "inline", "npz", "x.py:f", "procedural", "trace", 0, 1, 20, 0.5])
)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.sampled_from(["a", "lr"]), SCALARS)
KEYS = st.sampled_from(
    [*(key for key, _ in leaves()), ("trian", "lr"), ("x",), ("train",), ("fleet", "leave")]
)


@pytest.mark.slow
@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_whatever_the_file_says_the_answer_is_sentences(tmp_path_factory, values):
    document: dict[str, object] = {"experiment": {"name": "x"}}
    for key, value in sorted(values.items()):
        try:
            put(document, key, value)
        except ConfigError:
            continue  # below a value that is no table
    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    path.write_bytes(tomli_w.dumps(document).encode())
    try:
        load_experiment(path)
        told: tuple[str, ...] = (f"{path}: fine",)
    except ConfigError as error:
        told = error.problems
    assert told
    for problem in told:
        assert problem.startswith(str(path))
        assert "\n" not in problem
        assert "pydantic" not in problem


@pytest.mark.slow
@given(
    name=st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    seed=st.integers(0, 2**63 - 1),
    data_seed=st.none() | st.integers(0, 2**63 - 1),
    lr=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    steps=st.none() | st.integers(1, 2**40),
    leave=st.floats(0, 0.7),
    targets=st.sets(st.text(st.characters(exclude_categories=["Cs"])), max_size=3),
    options=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False),
        max_size=3,
    ),
)
def test_a_written_experiment_loads_as_an_equal_one(
    tmp_path_factory, name, seed, data_seed, lr, steps, leave, targets, options
):
    e = Experiment.model_validate(
        {
            "experiment": {"name": name, "seed": seed},
            "fleet": {"leave": {"during_training": leave}},
            "data": {"seed": data_seed, "source": "f.py:g", "targets": tuple(targets)},
            "model": {"options": options},
            "train": {"lr": lr, "steps": steps},
        }
    )
    path = tmp_path_factory.getbasetemp() / "round-trip.toml"
    path.write_bytes(to_toml(e).encode())
    loaded = load_experiment(path, check_files=False)
    # The path of a factory becomes absolute; once it is, nothing changes any more.
    assert loaded.model_copy(update={"data": e.data}) == e
    assert loaded.data.model_copy(update={"source": "f.py:g"}) == e.data
    path.write_bytes(to_toml(loaded).encode())
    assert load_experiment(path, check_files=False) == loaded
