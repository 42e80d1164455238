"""The report's words about differential privacy: `promise` in the form that the template shows."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from carpool.experiments import plots_noise, promise
from carpool.experiments.results import Record, count, number


def section(
    dp: Mapping[str, Any], records: Sequence[Record], ledger: Mapping[str, Any] | None, most_rows: int
) -> dict[str, Any] | None:
    """What the template shows; None without a mechanism. ledger: `ledgerfacts.ledger_head`."""
    if promise.claim(dp) is None:
        return None
    private, warnings = promise.private(records), promise.warnings(dp, records)
    return {
        "sentence": promise.sentence(dp, records),
        "stamp": None if private else promise.STAMP,
        "warnings": warnings if private else warnings[1:],
        "facts": promise.facts(dp, records, ledger),
        "verify": None if ledger is None else ledger["verify"],
        "heads": ["round", "in the sum", "noise planned", "really there", "ε so far", ""],
        "rows": [_row(record) for record in records[-most_rows:]],
        "rows_left_out": max(0, len(records) - most_rows),
    }


def pictures(records: Sequence[Record], config_toml: str) -> dict[str, str | None]:
    """Epsilon and noise over the rounds, as SVG; None where no record says."""
    return {
        "epsilon": plots_noise.epsilon_svg(records, target(config_toml)),
        "noise": plots_noise.noise_svg(records),
    }


def target(config_toml: str) -> float | None:
    """Epsilon that the configuration asks for; None where it gives the noise instead, or no mechanism."""
    try:
        dp = tomllib.loads(config_toml).get("privacy", {}).get("dp", {})
    except (tomllib.TOMLDecodeError, AttributeError):
        return None
    if dp.get("mechanism") in (None, "none") or dp.get("noise_multiplier") is not None:
        return None
    found = number(dp.get("epsilon"))
    return found if found > 0 else None


def _row(record: Record) -> list[str]:
    told = record.get("dp")
    noise = told if isinstance(told, Mapping) else {}
    sums = [one for one in (record.get("secagg") or {}).get("sums") or () if one.get("released")]
    inside = sum(count(one.get("vehicles")) for one in sums) if sums else count(record.get("replied"))
    void = bool(record.get("void"))
    return [
        str(record.get("round")),
        "–" if void else f"{inside:,}",
        _shown(noise.get("noise_multiplier")),
        "–" if void else _shown(noise.get("realised_noise")),
        _shown(record.get("epsilon")),
        "void: charged all the same" if void else "less than planned" if promise.thin(record) else "",
    ]


def _shown(value: object) -> str:
    found = number(value)
    return "–" if found != found else f"{found:.4g}"
