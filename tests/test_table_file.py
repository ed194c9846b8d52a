"""Published tables that are not what they should be: one line that names file, row and what was allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvsim.calibration.table_file import read_table
from kvsim.errors import InputError

HEADER = "name,batch,ms\n"


def table(folder: Path, *rows: str) -> Path:
    path = folder / "t.csv"
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return path


def read(path: Path) -> list[int]:
    frame = read_table(
        path, words=["name"], counts=["batch"], batches=["batch"], sizes=["batch"], times=["ms"]
    )
    return [int(batch) for batch in frame["batch"]]


def test_whole_numbers_times_and_words_are_read(tmp_path: Path) -> None:
    assert read(table(tmp_path, "a,1,0.5", "b,16,2")) == [1, 16]


BAD = [
    (("a,1,1", "a,0,1"), "row 2: batch must be a whole number ≥ 1, got 0"),
    (("a,1,1", "a,1.5,1"), "row 2: batch must be a whole number ≥ 1, got 1.5"),
    (("a,1,1", "a,1e99,1"), r"row 2: batch must be at most 1048576, got 1e\+99"),
    (("a,1,0",), "row 1: ms must be a time > 0, got 0"),
    (("a,1,5e-324",), "row 1: ms must be a time > 0, got 5e-324"),
    (("a,1,1e300",), r"row 1: ms must be a time of at most 1e\+12, got 1e\+300"),
    (("a,1,inf",), "row 1: ms must be a finite number, got inf"),
    (("a,1,x",), "row 1: ms must be a finite number, got x"),
    (("a,1,",), "row 1: ms must be a finite number, got nan"),
    (("a,1,1", ",1,1"), "row 2: name must be there, got nan"),
    (("a,1,1,9",), "not a table: a row has more cells than the header"),
    (("a,1,1", "a,1,1,9"), "not a table: "),
    ((), "the table has no rows"),
]


@pytest.mark.parametrize(("rows", "said"), BAD)
def test_a_bad_cell_or_row_is_one_line(tmp_path: Path, rows: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read(table(tmp_path, *rows))
    assert str(caught.value).startswith(f"{tmp_path}/t.csv: ")
    assert "\n" not in str(caught.value)


def test_a_size_that_is_no_batch_may_be_large(tmp_path: Path) -> None:
    path = table(tmp_path, "a,268435456,1")

    assert read_table(path, counts=["batch"], times=["ms"])["batch"].tolist() == [1 << 28]
    with pytest.raises(InputError, match="batch must be at most 1099511627776"):
        read_table(table(tmp_path, "a,1e15,1"), counts=["batch"], times=["ms"])
