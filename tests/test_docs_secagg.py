"""What docs/secagg.md tells newcomers to write is valid as it stands, and what it shows is what they see."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from carpool.experiments.load import load_experiment
from carpool.experiments.privacy_config import Privacy
from carpool.experiments.whosaw import STATUS, sentence
from carpool.privacy.errors import ConfigError

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "secagg.md").read_text()
BLOCKS = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
QUICKSTART = ROOT / "experiments" / "quickstart.toml"


def sets(table: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """The table as settings of the command line."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from sets(value, f"{before}{key}.")
        else:
            yield f"{before}{key}={json.dumps(value)}"


@pytest.mark.parametrize(
    ("block", "protocol"), list(zip(BLOCKS, ("secagg+", "one-shot", "helpers"), strict=True))
)
def test_the_tables_of_the_page_can_be_copied(block: str, protocol: str) -> None:
    found = load_experiment(QUICKSTART, list(sets(tomllib.loads(block))))
    assert (found.privacy.channel, found.privacy.protocol) == ("secagg", protocol)


def test_the_quickstart_has_what_the_page_says() -> None:
    ours = load_experiment(QUICKSTART)
    page = load_experiment(QUICKSTART, list(sets(tomllib.loads(BLOCKS[0]))))
    assert ours.privacy == page.privacy
    assert ours.selection == page.selection


def test_the_sentences_that_are_inline_hold_too() -> None:
    assert "`members = 7`, `corrupt = 2`" in PAGE
    block = tomllib.loads(BLOCKS[1])
    named = [*sets(block), "privacy.committee.members=7", "privacy.committee.corrupt=2"]
    assert load_experiment(QUICKSTART, named).privacy.committee.members == 7
    with pytest.raises(ConfigError, match="n_min is 19"):
        load_experiment(QUICKSTART, ["privacy.secagg.n_min=19"])
    defaults = Privacy().secagg
    for key in ("clip_norm", "upload_s", "trip_s", "n_min", "corrupt_fraction", "dropout_fraction"):
        assert f"{key}" in PAGE
    assert (defaults.clip_norm, defaults.upload_s) == (100.0, 600.0)


def test_what_is_shown_is_what_is_said() -> None:
    sums = [23, 24, 18, 19, 26, 27]
    records = [
        {
            "round": place,
            "asked": 30,
            "secagg": {
                "protocol": "secagg+",
                "cryptography": "full",
                "n_min": 12,
                "sums": [{"vehicles": count, "released": True, "why": None}],
            },
        }
        for place, count in enumerate(sums, 1)
    ]
    said = sentence("secagg", records)
    assert said in re.sub(r"\s+", " ", PAGE)
    for protocol in STATUS:
        assert f"| `{protocol}`" in PAGE
