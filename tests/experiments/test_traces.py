"""Trace files: what is read, and the one sentence for what cannot be."""

import math
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpool.experiments.traces import Table, read, seconds
from carpool.privacy.errors import DataError, UsageError

HEAD = "vehicle,start,end\n"


def written(tmp_path: Path, text: str, name: str = "trace.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def rows(table: Table) -> list[tuple[str, float, float]]:
    return [
        (table.ids[v], float(s), float(e))
        for v, s, e in zip(table.vehicle, table.start, table.end, strict=True)
    ]


def test_numbers_count_from_the_earliest_start(tmp_path: Path) -> None:
    table = read(written(tmp_path, HEAD + "b,100,160.5\na,130,140\n\nb,90,95\n"))
    assert table.ids == ("a", "b")
    assert rows(table) == [("b", 10.0, 70.5), ("a", 40.0, 50.0), ("b", 0.0, 5.0)]


def test_timestamps_with_and_without_zone(tmp_path: Path) -> None:
    text = (
        HEAD
        + "a,2024-03-31T00:30:00Z,2024-03-31T03:00:00+02:00\na,2024-03-31 02:00:00,2024-03-31T02:00:10.5\n"
    )
    assert rows(read(written(tmp_path, text))) == [("a", 0.0, 1800.0), ("a", 5400.0, 5410.5)]


def test_only_eligible_rows_are_presence_but_all_name_vehicles_and_time(tmp_path: Path) -> None:
    text = (
        "state,end,vehicle,start,note\nhome,10,c,0,x\nEligible,30,a,20,x\n"
        "available,50,b,40,x\n,70,a,60,x\ndriving,90,a,80,x\n"
    )
    table = read(written(tmp_path, text))
    assert table.ids == ("a", "b", "c")
    assert rows(table) == [("a", 20.0, 30.0), ("b", 40.0, 50.0)]


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["10", "9", "x"], ("10", "9", "x")),
        (["1", "01"], ("01", "1")),
    ],
)
def test_ids_are_sorted_as_numbers_if_all_are(
    tmp_path: Path, names: list[str], order: tuple[str, ...]
) -> None:
    assert read(written(tmp_path, HEAD + "".join(f"{name},0,1\n" for name in names))).ids == order


def test_a_byte_order_mark_capitals_and_spaces_are_no_fault(tmp_path: Path) -> None:
    assert rows(read(written(tmp_path, "\ufeffVehicle, Start ,END\n a ,0, 1\n"))) == [("a", 0.0, 1.0)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no column vehicle, start, end"),
        ("vehicle,start\na,0\n", r"has no column end \(it has vehicle, start\)"),
        ("vehicle,start,end,end\na,0,1,2\n", "two columns named end"),
        (HEAD, "no rows"),
        (HEAD + "a,0,1\na,5,5\n", "line 3: end 5 is not after start 5"),
        (HEAD + "a,9,8\n", "line 2: end 8 is not after start 9"),
        (HEAD + "a,nan,8\n", "line 2: start is 'nan'"),
        (HEAD + "a,0,inf\n", "line 2: end is 'inf'"),
        (HEAD + "a,,8\n", "line 2: start is ''"),
        (HEAD + "a,0,soon\n", "line 2: end is 'soon'"),
        (HEAD + "a,0,2024-01-01\n", "line 2: end mixes"),
        (HEAD + ",0,1\n", "line 2: vehicle is empty"),
        (HEAD + "a,0\n", "line 2 has 2 fields and the header 3"),
        (HEAD + "a,0,1,2\n", "line 2 has 4 fields"),
        (
            "vehicle,start,end,state\na,0,1,home\n",
            r"no row whose state is eligible or available \(it has home\)",
        ),
        (HEAD + 'a,0,1\n"' + "x" * 200_000 + '",0,1\n', "is not CSV text"),
    ],
)
def test_a_csv_that_cannot_be_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(HEAD.encode() + b"\xff\xfe,0,1\n")
    with pytest.raises(DataError, match="not CSV text"):
        read(path)


def test_missing_files_folders_and_other_kinds_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for name, said in (("none.csv", "no such file"), ("folder.csv", "is a directory"), ("t.json", "neither")):
        with pytest.raises(DataError, match=said):
            read(tmp_path / name)
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "none.parquet")


def test_too_many_rows_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, HEAD + "a,0,1\n" * 4)
    assert len(read(path, max_rows=4).start) == 4
    with pytest.raises(DataError, match="more than 3 rows"):
        read(path, max_rows=3)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_its_own_time(value: float) -> None:
    assert seconds(repr(value)) == (value, False)


def parquet(tmp_path: Path, **columns: object) -> Path:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "trace.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


def test_parquet_reads_like_csv(tmp_path: Path) -> None:
    path = parquet(
        tmp_path,
        vehicle=[10, 9, 10, 9],
        start=[5.0, 0.0, 7.0, 1.0],
        end=[6.5, 4.0, 8.0, 2.0],
        state=["eligible", "driving", "Available", None],
    )
    table = read(path)
    assert table.ids == ("9", "10")
    assert rows(table) == [("10", 5.0, 6.5), ("10", 7.0, 8.0)]


def test_parquet_timestamps_dates_texts_and_categories(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    begin = [datetime(2024, 5, 1, 0, tzinfo=UTC), datetime(2024, 5, 1, 1, tzinfo=UTC)]
    finish = [datetime(2024, 5, 1, 2), datetime(2024, 5, 1, 3)]
    expected = [("b", 0.0, 7200.0), ("a", 3600.0, 10800.0)]
    zoned = pa.array(begin, pa.timestamp("ns", "Europe/Berlin"))
    names = pa.array(["b", "a"]).dictionary_encode()
    assert rows(read(parquet(tmp_path, vehicle=names, start=zoned, end=pa.array(finish)))) == expected
    texts = [[moment.isoformat() for moment in column] for column in (begin, finish)]
    assert rows(read(parquet(tmp_path, vehicle=names, start=texts[0], end=texts[1]))) == expected
    days = parquet(tmp_path, vehicle=[1], start=[date(2024, 5, 1)], end=[date(2024, 5, 2)])
    assert rows(read(days)) == [("1", 0.0, 86400.0)]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"vehicle": [1], "start": [0.0]}, "has no column end"),
        (
            {"vehicle": [1, 1], "start": [0.0, 5.0], "end": [1.0, 5.0]},
            "row 2: end 5.0 is not after start 5.0",
        ),
        ({"vehicle": [1], "start": [math.nan], "end": [1.0]}, "column start row 1 is nan"),
        ({"vehicle": [1], "start": ["early"], "end": ["late"]}, "start row 1 is 'early'"),
        ({"vehicle": [1, None], "start": [0.0, 0.0], "end": [1.0, 1.0]}, "row 2: vehicle is empty"),
        ({"vehicle": [1], "start": [0.0], "end": [datetime(2024, 1, 1)]}, "end mixes"),
        ({"vehicle": [1], "start": [[0.0]], "end": [1.0]}, "cannot be read"),
        ({"vehicle": [1], "start": [0.0], "end": [1.0], "state": ["home"]}, "it has home"),
    ],
)
def test_a_parquet_that_cannot_be_is_one_sentence(
    tmp_path: Path, columns: dict[str, object], said: str
) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read(parquet(tmp_path, **columns))
    assert "\n" not in str(caught.value)


def test_parquet_rows_are_counted_before_they_are_read(tmp_path: Path) -> None:
    path = parquet(tmp_path, vehicle=np.arange(9), start=np.zeros(9), end=np.ones(9))
    with pytest.raises(DataError, match="more than 8 rows"):
        read(path, max_rows=8)


def test_damaged_parquet_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = written(tmp_path, "PAR1 but no more", "trace.parquet")
    with pytest.raises(DataError, match="cannot be read"):
        read(path)


def test_without_pyarrow_the_install_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match="pip install 'carpool\\[parquet\\]'"):
        read(written(tmp_path, "", "trace.parquet"))
