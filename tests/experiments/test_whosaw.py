"""What the report says the server saw is what the records say, never more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.experiments import report_seen, whosaw
from carpool.experiments.plots_secagg import sums_svg
from carpool.experiments.whosaw import facts, outcome, read_round, read_rounds, sentence, warnings


def seen(
    round_: int = 1,
    *sums: int,
    held: str | None = None,
    n_min: int = 64,
    asked: int = 100,
    cryptography: str = "full",
    **dropped: int,
) -> dict:
    told = [{"vehicles": one, "released": True, "why": None} for one in sums]
    if held is not None:
        told.append({"vehicles": 3, "released": False, "why": held})
    secagg = {
        "protocol": "secagg+", "cryptography": cryptography, "n_min": n_min, "neighbours": 24,
        "threshold": 13, "committee": None, "steps": {"asked": asked}, "dropped": dropped, "sums": told,
        "released": bool(sums), "why": None if sums else held, "transcript": "ab" * 32, "clipped": 2,
        "bytes": {"vectors": 4000, "protocol": 500},
    }  # fmt: skip
    return {"round": round_, "asked": asked, "void": not sums, "secagg": secagg}


def test_the_sentence_counts_what_was_opened():
    records = [seen(1, 80), seen(2, 70, 65), seen(3, held="too few")]
    told = "The server saw 3 sums, each over at least 65 vehicles, and no single update."
    assert sentence("secagg", records) == told
    assert warnings("secagg", records) == []
    assert sentence("secagg", records[:1]) == "The server saw 1 sum over 80 vehicles, and no single update."


def test_void_rounds_alone_show_nothing():
    assert "saw no sum, and no single update" in sentence("secagg", [seen(1, held="too few")])


@pytest.mark.parametrize(
    ("records", "warning"),
    [
        ([seen(1, 80), seen(2, 63)], "Broken promise: round 2 opened a sum over 63 vehicles, fewer than the"),
        ([seen(1, 80), seen(2, 1, n_min=1)], "Broken promise: round 2 opened a sum over 1 vehicles"),
        ([seen(1, 80), {"round": 2, "secagg": None}], "1 of 2 rounds have no record of what the server saw"),
        ([seen(1, 80), {"round": 2}], "1 of 2 rounds have no record"),
        ([seen(1, 80), seen(2, 80, cryptography="ring")], "In 1 of 2 rounds only the protocol's arithmetic"),
        ([seen(1, 80), seen(2, 80, cryptography="new")], "In 1 of 2 rounds only the protocol's arithmetic"),
        ([seen(1, 80, n_min=63)], "Small: a sum may be over as few as 63 vehicles"),
    ],
)
def test_what_is_not_as_it_should_be_is_a_warning(records, warning):
    assert any(told.startswith(warning) for told in warnings("secagg", records))


@pytest.mark.parametrize(
    "records",
    [
        [seen(1, 80), seen(2, 1)],
        [seen(1, 80), {"round": 2}],
        [seen(1, 80, cryptography="ring")],
        [],
        [{"round": 1}],
    ],
)
def test_what_the_records_do_not_show_is_not_claimed(records):
    assert "no single update" not in sentence("secagg", records)


@pytest.mark.parametrize("channel", ["plain", "sealed", "x\x1b[1m"])
def test_other_channels_claim_no_sums(channel):
    told = sentence(channel, [seen(1, 80)])
    assert "sum" not in told
    assert "\x1b" not in told
    assert warnings(channel, []) == []
    assert whosaw.document(channel, []) is None
    assert report_seen.section(channel, [], None, 9) is None
    assert "saw every vehicle's update" in sentence("plain", [])


COUNTS = st.integers(0, 60)


@given(
    st.lists(COUNTS, max_size=4), st.dictionaries(st.sampled_from([*whosaw.BEFORE, *whosaw.AFTER]), COUNTS)
)
def test_those_asked_are_all_somewhere(sums, dropped):
    found = read_round(seen(1, *sums, asked=100, **dropped))
    assert found is not None
    assert all(part >= 0 for part in found.parts.values())
    assert sum(found.parts.values()) == max(100, sum(sums))
    assert found.parts["counted"] + found.parts["after"] == sum(sums)


def test_who_left_after_sending_is_in_the_sum():
    found = read_round(seen(1, 23, asked=30, advertise=4, share=1, mask=2, sign=0, open=1))
    assert found is not None
    wanted = {"counted": 22, "after": 1, "advertise": 4, "share": 1, "mask": 2, "unused": 0}
    assert {part: found.parts[part] for part in wanted} == wanted


def test_the_bars_of_several_passes_are_those_of_the_last():
    record = seen(1, 40, 45, 39, 44, asked=90)
    record["secagg"] |= {"passes": 2, "steps": {"asked": 90, "masked": 83}}
    found = read_round(record)
    assert found is not None
    assert found.parts["counted"] == 83
    assert found.sums == (40, 45, 39, 44)


@pytest.mark.parametrize("broken", [{}, {"sums": None, "steps": 3, "dropped": []}, {"sums": [1], "bytes": 2}])
def test_a_damaged_record_claims_nothing(broken):
    found = read_round({"round": 1, "secagg": broken})
    assert found is not None
    assert found.sums == ()
    assert not found.masked
    facts([found])
    assert report_seen.section("secagg", [{"round": 1, "secagg": broken}], None, 9)
    assert "no record" in sentence("secagg", [{"round": 1, "secagg": 3}]).lower()


def test_the_section_names_void_rounds_and_why():
    records = [seen(n, held=f"{n} came") for n in range(1, 9)] + [seen(9, 80, held="2 were left")]
    told = report_seen.section("secagg", records, None, 5)
    assert told is not None
    assert told["void"][-1] == (8, "8 came")
    assert told["void_left_out"] == 3
    assert told["rows_left_out"] == 4
    assert told["rows"][-1][2] == "a sum over 80; 1 not opened"
    assert told["rows"][-1][-1] == "2 were left"
    assert ("Transparency log", "none in this run's folder") in told["facts"]


def test_the_facts_of_each_protocol():
    told = dict(facts(read_rounds([seen(1, 80), seen(2, held="few")])))
    assert told["Shares"].startswith("each vehicle shares its secrets with 24 others; 13 of them open one")
    assert told["Sent by vehicles"] == "8 kB of masked updates, 1 kB of the protocol's"
    assert told["Clipped"].startswith("4 updates")
    assert "Committee" not in told
    record = seen(1, 80)
    record["secagg"] |= {"protocol": "one-shot", "threshold": None, "neighbours": None}
    record["secagg"]["committee"] = {"members": 60, "corrupt": 20, "quorum": 41, "answered": 58}
    told = dict(facts(read_rounds([record])))
    assert "experimental" in told["Status"]
    assert told["Committee"].endswith("58 answered in the last round")
    assert "Shares" not in told


def test_a_round_in_words():
    words = [outcome(found) for found in read_rounds([seen(1, 80), seen(2, 80, 70), seen(3, held="x")])]
    assert words == ["a sum over 80", "sums over 80, 70", "no sum"]
    late = seen(4, 80) | {"void": True}
    assert outcome(read_rounds([late])[0]) == "a sum over 80; void"


@pytest.mark.slow
def test_the_picture_marks_n_min_void_rounds_and_small_groups():
    assert sums_svg([]) is None
    one = sums_svg(read_rounds([seen(1, 80, advertise=20), seen(2, held="x", advertise=9)]))
    assert one is not None
    for word in ("n_min: 64 at least", "void round", "in a sum", "no answer to the task"):
        assert word in one
    assert "smallest sum" not in one
    assert "did not" not in one
    groups = sums_svg(read_rounds([seen(1, 70, 65)]))
    assert groups is not None
    assert "smallest sum" in groups
    assert "void round" not in groups
    many = sums_svg(read_rounds([seen(n, 70) for n in range(1, 300)]))
    assert many is not None
    assert "a bar is the mean of 3 rounds" in many
    assert "smallest sum" in many
