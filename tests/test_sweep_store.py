"""The results of a sweep on disk: written whole or not at all, each key once, whatever is in the way."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modbp.errors import InputError
from modbp.sweep.store import JUDGED, MEASURED, ROWS, Store, read


def row(number: int, **others: Any) -> dict[str, Any]:
    return {
        "key": f"{number:032x}",
        "measurement": "csc",
        "quantity": "median",
        "network": "vgg16",
        "weights": "ab",
        "image": f"{number:03d}.png",
        "sha256": "cd",
        "method": "gradient",
        "layer": None,
        "seed": None,
        "target": number,
        "other": None,
        "value": number / 3,
        "n": 1,
        "state": "fine",
    } | others


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / ROWS).iterdir())


def test_rows_come_back_as_they_were_with_their_types(folder: Path) -> None:
    store = Store(folder)
    given_rows = [row(1, seed=3, layer="input", other=0), row(0, value=float("nan"), n=0, state="constant")]
    assert (store.add(given_rows), store.waiting, store.written) == (2, 2, 0)
    assert not (folder / ROWS).exists()
    assert store.flush() == 2
    assert (store.waiting, store.written, len(files(folder))) == (0, 2, 1)
    table = read(folder)
    assert list(table.columns) == MEASURED.names
    assert table["image"].tolist() == ["000.png", "001.png"]
    assert table["value"].tolist()[1] == 1 / 3
    assert pd.isna(table["value"][0])
    assert pd.isna(table["seed"][0])
    assert table["seed"][1] == 3
    assert table["target"].dtype == "Int64"
    pd.testing.assert_frame_equal(
        pd.read_parquet(folder / ROWS).sort_values("image", ignore_index=True)[["key", "value"]],
        table[["key", "value"]],
    )


@given(
    st.lists(st.lists(st.integers(0, 12), max_size=6), max_size=8),
    st.lists(st.booleans(), min_size=8, max_size=8),
    st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_however_rows_come_each_key_is_there_once(
    batches: list[list[int]], flushed: list[bool], reopened: list[bool]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, expected = Store(folder), set()
        for batch, flush, reopen in zip(batches, flushed, reopened, strict=False):
            new = {n for n in batch if n not in expected}
            assert store.add(map(row, batch)) == len(new)
            expected |= new
            if flush:
                store.flush()
            if reopen:
                store.flush()
                store = Store(folder)
        store.flush()
        assert store.written == len(expected)
        if expected:
            assert read(folder)["target"].tolist() == sorted(expected)


def test_rows_are_written_after_a_while_or_when_many_wait(folder: Path) -> None:
    patient = Store(folder, every=1e9, most=3)
    for n in range(3):
        patient.add([row(n)])
        patient.flush_if_due()
        assert patient.waiting == (n + 1) % 3
    hasty = Store(folder, every=0)
    hasty.add([row(9)])
    hasty.flush_if_due()
    assert (hasty.waiting, hasty.written) == (0, 4)
    hasty.flush_if_due()
    assert len(files(folder)) == 2  # nothing waits, nothing is written


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_file_that_cannot_be_written_leaves_the_others_and_no_half(
    number: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(folder)
    store.add([row(0)])
    store.flush()
    write_table = pq.write_table

    def half(table: pa.Table, file: Any, **options: Any) -> None:
        file.write(b"PAR1half")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pq, "write_table", half)
    store.add([row(1)])
    with pytest.raises(InputError) as caught:
        store.flush()
    assert f"({os.strerror(number)}); 1 row written before, and the same command goes on from there" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)
    assert len(files(folder)) == 1
    assert len(read(folder)) == 1
    monkeypatch.setattr(pq, "write_table", write_table)
    assert store.flush() == 1  # what waited is not lost to a process that goes on
    assert len(read(folder)) == 2


def test_a_file_system_that_is_really_full(folder: Path) -> None:
    full = folder / "full"
    full.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(full)], capture_output=True)
    if done.returncode:
        pytest.skip("only who may mount can make a small file system")
    try:
        store = Store(full, every=0)
        store.add([row(0)])
        store.flush()
        (full / "ballast").write_bytes(b"0" * 32 * 1024)
        store.add(row(n, image=os.urandom(20).hex()) for n in range(1, 5000))
        with pytest.raises(InputError, match="No space left on device"):
            store.flush()
        assert len(read(full)) == 1
        assert len(files(full)) == 1
        (full / "ballast").unlink()
        again = Store(full)
        again.add(row(n) for n in range(100))
        again.flush()
        assert len(read(full)) == 100
    finally:
        subprocess.run(["umount", str(full)], check=True)


def test_what_a_killed_process_left_is_passed_over_and_removed(folder: Path) -> None:
    store = Store(folder)
    store.add([row(0)])
    store.flush()
    left = folder / ROWS / ".part-000001-ab.0123456789abcdef.parquet"
    left.write_bytes(b"PAR1half")
    other = folder / ROWS / ".mine"
    other.touch()
    assert len(read(folder)) == 1
    again = Store(folder)
    assert again.keys == store.keys
    again.clean()
    assert not left.exists()
    assert other.exists()


def test_a_damaged_file_a_copied_file_and_rows_of_another_kind_are_named(folder: Path) -> None:
    store = Store(folder)
    store.add([row(0)])
    store.flush()
    (name,) = files(folder)
    content = (folder / ROWS / name).read_bytes()
    (folder / ROWS / "copy.parquet").write_bytes(content)
    with pytest.raises(InputError, match="holds 1 rows twice, such as 0000"):
        read(folder)
    assert len(Store(folder).keys) == 1
    (folder / ROWS / "copy.parquet").write_bytes(content[:-20])
    for reader in (read, Store):
        with pytest.raises(InputError, match=r"copy\.parquet' cannot be read as Parquet .*; allowed is to remove it"):
            reader(folder)
    (folder / ROWS / "copy.parquet").unlink()
    with pytest.raises(InputError, match="holds rows of measurements; allowed for notebook runs is another folder"):
        Store(folder, JUDGED)
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="holds no results of a sweep"):
        read(folder / "empty")


def test_checks_of_notebook_runs_have_columns_of_their_own(folder: Path) -> None:
    store = Store(folder, JUDGED)
    judged = dict.fromkeys(JUDGED.names) | {"key": "k", "walkthrough": "csc-vgg16", "measured": 0.5, "claim": "N1"}
    store.add([judged])
    store.flush()
    table = read(folder)
    assert list(table.columns) == JUDGED.names
    assert table["measured"].tolist() == [0.5]
