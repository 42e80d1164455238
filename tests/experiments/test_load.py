from pathlib import Path

import pytest

from carpool.experiments.load import data_settings, load_experiment
from carpool.experiments.sets import parse_set
from carpool.experiments.toml_files import MAX_BYTES
from carpool.privacy.errors import ConfigError


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "e.toml") -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


NAME = '[experiment]\nname = "x"\n'


def problems(path: Path, *sets: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_experiment(path, sets)
    assert caught.value.exit_code == 2
    assert caught.value.source == str(path)
    return list(caught.value.problems)


def test_all_faults_at_once_in_file_order_with_lines(write):
    path = write(
        """\
[experiment]
name = "two words"
rounds = 0

[train]
learning_rate = 0.1
lr = -1

[data]
views = [
    "front",
    "frnt",
]

[selection]
cohort = 90

[privacy]
channel = "masked"
"""
    )
    told = problems(path, "experiment.engine=peers")
    assert [line.split(": ")[0] for line in told] == [
        "--set",
        "e.toml:2",
        "e.toml:3",
        "e.toml:6",
        "e.toml:7",
        "e.toml:10",
        "e.toml:16",
        "e.toml:19",
    ]
    assert told[0].endswith('experiment.engine "peers" is not in this version; use engine = "inline"')
    assert 'experiment.name is "two words"' in told[1]
    assert told[2].endswith("experiment.rounds is 0; it must be at least 1")
    assert told[3].endswith("unknown key train.learning_rate; did you mean train.lr?")
    assert told[4].endswith("train.lr is -1; it must be above 0")
    assert '"frnt" is no camera; did you mean "front"?' in told[5]
    assert "asks 135 vehicles" in told[6]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (NAME + "sed = 3", "e.toml:3: unknown key experiment.sed; did you mean experiment.seed?"),
        (NAME + "[trian]\nlr = 1", "e.toml:3: unknown key trian; did you mean [train]?"),
        ("rounds = 3\n" + NAME, "unknown key rounds; did you mean experiment.rounds?"),
        (NAME + "[train]\ncohort = 3", "unknown key train.cohort; did you mean selection.cohort?"),
        (NAME + "[fleet]\nclients = 3", "unknown key fleet.clients; did you mean fleet.vehicles?"),
        (NAME + "[audit]\nzzz = 3", "unknown key audit.zzz; [audit] has canaries"),
        (NAME + "[fleet.leaves]\nx = 3", "unknown key fleet.leaves; did you mean [fleet.leave]?"),
        (NAME + '[data]\nsplit = "dirichlett"', 'did you mean "dirichlet"? It must be one of natural, '),
        (NAME + '[model]\nname = "cnn-smal"', 'did you mean "cnn-small"?'),
        (NAME + '[strategy]\nname = "fedavgg"', 'did you mean "fedavg"?'),
        (NAME + '[data]\nsource = "udacty"', 'did you mean "udacity"?'),
        (
            NAME + "[data.pipeline]\nstd = [1, 0, 1]",
            "data.pipeline.std is [1, 0, 1]; all three must be above 0",
        ),
        (NAME + "[data.pipeline]\nmean = [0.5]", "data.pipeline.mean is [0.5]; it must have three numbers"),
        (NAME + "[train]\nlr = nan", "train.lr is nan; it must be a finite number"),
        (NAME + "[train]\nepochs = 1.5", "train.epochs is 1.5; it must be a whole number"),
        (NAME + '[train]\nepochs = "2"', 'train.epochs is "2"; it must be a whole number'),
        (NAME + "[train]\nepochs = true", "train.epochs is true; it must be a whole number"),
        (NAME + "[train]\nmomentum = 1.0", "train.momentum is 1.0; it must be at least 0 and below 1"),
        (NAME + "[data]\npath = 3", "data.path is 3; it must be a text in quotes"),
        (NAME + "[data]\ntargets = [3]", "data.targets is [3]; every entry must be a text in quotes, not 3"),
        (NAME + '[data]\nviews = "front"', 'data.views is "front"; it must be a list'),
        (NAME + '[data]\nviews = ["front", "front"]', "every name may stand in it once"),
        (NAME + "[model]\noptions = {a = [1]}", "model.options is a table; a must be a number"),
        (NAME + "[strategy]\noptions = 3", "strategy.options is 3; it must be a table"),
        ("train = 3\n" + NAME, "train is 3; it must be a table"),
        ("", "e.toml: experiment.name is missing; it has no default; give it"),
        ("[experiment]\nrounds = 3", "e.toml:1: experiment.name is missing"),
    ],
)
def test_one_fault_one_sentence(write, text, sentence):
    (told,) = problems(write(text))
    assert sentence in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[experiment]\nname = quick", "e.toml:2: this is not TOML, invalid value at line 2, column 8"),
        ("[experiment]\nname = [1,", "e.toml:2: this is not TOML, "),
        ("[a]\n[a]", "at line 2, column 3"),
    ],
)
def test_not_toml_says_line_and_column(write, text, place):
    (told,) = problems(write(text))
    assert place in told
    assert told.count("\n") == 0


def test_files_that_cannot_be_read(write, tmp_path):
    Path("b.toml").write_bytes(b"a = 1\nb = '\xff'")
    assert "e.toml" in problems(Path("e.toml"))[0]
    assert "line 2, column 6" in problems(Path("b.toml"))[0]
    Path("big.toml").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="more than 1000000 bytes"):
        load_experiment(Path("big.toml"))
    for text in ("a = " + "1" * 5000, "a = " + "[" * 5000):
        assert len(problems_any(write(text))) == 1
    assert "seed is a huge number" in problems_any(write(NAME + "seed = 0x" + "f" * 5000))[0]
    write(NAME, "d/experiment.toml")
    assert "did you mean d/experiment.toml?" in problems(Path("d"))[0]


def test_extends_merges_tables_and_replaces_lists(write):
    write(NAME + '[train]\nlr = 0.1\nbatch_size = 8\n[data]\nviews = ["front", "rear"]', "base/a.toml")
    write('extends = "a.toml"\n[train]\nlr = 0.2\nepochs = 3', "base/b.toml")
    path = write(
        'extends = "base/b.toml"\n[experiment]\nname = "y"\n[train]\nsteps = 5\n[data]\nviews = ["left"]'
    )
    e = load_experiment(path)
    assert (e.experiment.name, e.train.lr, e.train.batch_size, e.data.views) == ("y", 0.2, 8, ("left",))
    assert (e.train.steps, e.train.epochs) == (5, 1)  # steps above replace the epochs below


def test_a_fault_in_the_base_names_the_base(write):
    write(NAME + "[train]\nlr = 0", "base.toml")
    path = write('extends = "base.toml"\n[train]\nepochs = 0')
    assert [line.split(": ")[0] for line in problems(path)] == ["base.toml:4", "e.toml:3"]


def test_extends_that_cannot_be(write):
    write('extends = "e.toml"', "b.toml")
    path = write('\nextends = "b.toml"')
    (told,) = problems_any(path)
    assert "b.toml:1: extends goes in a circle, e.toml -> b.toml -> e.toml" in told
    (told,) = problems_any(write('extends = "e.toml"'))
    assert "circle" in told
    (told,) = problems_any(write('extends = "gone.toml"'))
    assert "e.toml:1: extends names gone.toml, which does not exist" in told
    (told,) = problems_any(write("extends = 3"))
    assert "extends is 3" in told


def problems_any(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("train.lr=0.1", "train.lr", 0.1),
        ("train.epochs = 3", "train.epochs", 3),
        ("strategy.name=fedprox", "strategy.name", "fedprox"),
        ('strategy.name="fedprox"', "strategy.name", "fedprox"),
        ("experiment.name=2024", "experiment.name", "2024"),
        ("experiment.name=true", "experiment.name", "true"),
        ("data.path=", "data.path", ""),
        ("data.path=a=b.npz", "data.path", "a=b.npz"),
        ("data.views=front,rear", "data.views", ["front", "rear"]),
        ("data.views=[front, rear]", "data.views", ["front", "rear"]),
        ('data.views=["front"]', "data.views", ["front"]),
        ("data.views=[]", "data.views", []),
        ("strategy.options.nesterov=true", "strategy.options.nesterov", True),
        ("strategy.options={mu = 0.1}", "strategy.options", {"mu": 0.1}),
        ("data.source=" + "1" * 5000, "data.source", "1" * 5000),
        ("data.source=1\nevil=2", "data.source", "1\nevil=2"),
    ],
)
def test_set_values_of_all_kinds(text, key, value):
    assert parse_set(text) == (tuple(key.split(".")), value)


@pytest.mark.parametrize("text", ["train.lr", "=3", "a b=3", "a\n.b=3", "", "extends=x.toml"])
def test_set_that_is_no_assignment(text):
    with pytest.raises(ConfigError, match="--set"):
        parse_set(text)


def test_set_wins_and_replaces(write):
    path = write(NAME + "[train]\nepochs = 2\n[strategy]\nname = 'fedavgm'\noptions = {beta = 0.5}")
    sets = ["train.steps=9", "strategy.name=fedavg", "strategy.options={}", "train.lr=1", "train.lr=0.5"]
    e = load_experiment(path, sets)
    assert (e.train.steps, e.train.lr, e.strategy.options) == (9, 0.5, {})
    told = problems(path, "oops", "train.epochs.x=3", "extends=b.toml")
    assert told == [
        '--set is "oops"; it must be key=value, such as --set train.lr=0.1',
        "--set cannot change extends; write it into the file",
        "--set: train.epochs.x cannot be set: train.epochs is 2, not a table",
    ]
    assert "keep one" in problems(path, "train.steps=9", "train.epochs=1")[0]


def test_paths_from_here_then_from_the_file(write, tmp_path):
    body = NAME + '[data]\nsource = "npz"\npath = "d.npz"\n[model]\nname = "m.py:build"\n'
    path = write(body, "sub/e.toml")
    write("", "sub/d.npz")
    write("", "sub/m.py")
    e = load_experiment(path)
    assert e.data.path == str(tmp_path / "sub/d.npz")
    assert e.model.name == f"{tmp_path}/sub/m.py:build"
    write("", "d.npz")
    assert load_experiment(path).data.path == str(tmp_path / "d.npz")
    assert data_settings(load_experiment(path)).path == tmp_path / "d.npz"
    told = problems(path, "data.path=gone.npz")
    assert told == [
        f'--set: data.path is "{tmp_path}/gone.npz", which does not exist; give the path of the data set'
    ]
    assert load_experiment(path, ["data.path=gone.npz"], check_files=False).data.path.endswith("gone.npz")


def test_a_base_is_asked_for_its_own_files(write, tmp_path):
    write(NAME + '[data]\nsource = "npz"\npath = "d.npz"\n', "base/b.toml")
    write("", "base/d.npz")
    e = load_experiment(write('extends = "base/b.toml"'))
    assert e.data.path == str(tmp_path / "base/d.npz")
