"""The results of a sweep on disk: a folder of Parquet files, each written whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from modbp.errors import InputError, first_line
from modbp.files import expand, replacing
from modbp.formatting import count

if TYPE_CHECKING:
    import pandas as pd

ROWS = "rows"
"""The folder of Parquet files, in the folder of the results."""

MEASURED = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("measurement", pa.string(), nullable=False),
        pa.field("quantity", pa.string(), nullable=False),
        ("network", pa.string()),
        ("weights", pa.string()),
        ("image", pa.string()),
        ("sha256", pa.string()),
        ("method", pa.string()),
        ("layer", pa.string()),
        ("seed", pa.int64()),
        ("target", pa.int64()),
        ("other", pa.int64()),
        ("value", pa.float64()),
        ("n", pa.int64()),
        ("state", pa.string()),
    ],
    metadata={"modbp": "measurements"},
)
"""The columns of measurements."""

JUDGED = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("walkthrough", pa.string(), nullable=False),
        ("run", pa.string()),
        ("source", pa.string()),
        ("parameters", pa.string()),
        ("claim", pa.string()),
        ("quantity", pa.string()),
        ("predicted", pa.string()),
        ("measured", pa.float64()),
        ("spread", pa.float64()),
        ("verdict", pa.string()),
    ],
    metadata={"modbp": "notebook runs"},
)
"""The columns of notebook runs, whose rows are the checks of their records."""


class Store:
    """The rows of a sweep: which are there, and a buffer of those that are not written yet.

    One process at a time may write; `modbp.sweep.run` sees to it.

    Parameters
    ----------
    folder : Path
        Of the results; it exists.
    schema : pyarrow.Schema, default `MEASURED`
    every : float, default 30
        Write after so many seconds at the latest.
    most : int, default 100000
        Write when so many rows wait.

    Raises
    ------
    InputError
        If the folder holds rows of another kind, or a file that is no whole Parquet file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = Store(Path(folder))
    ...     row = dict.fromkeys(MEASURED.names) | {"key": "ab", "measurement": "csc", "quantity": "median"}
    ...     store.add([row]), store.flush(), len(Store(Path(folder)).keys)
    (1, 1, 1)
    """

    def __init__(self, folder: Path, schema: pa.Schema = MEASURED, *, every: float = 30.0, most: int = 100_000) -> None:
        self.folder, self.schema, self.every, self.most = folder / ROWS, schema, every, most
        self.keys: set[str] = set()
        self.files = 0
        self._buffer: list[dict[str, Any]] = []
        self._since = time.monotonic()
        for path in _parts(self.folder):
            self.keys.update(_read(path, schema, ["key"])["key"].to_pylist())
            self.files += 1

    @property
    def waiting(self) -> int:
        """How many rows are not written yet."""
        return len(self._buffer)

    @property
    def written(self) -> int:
        """How many rows are on disk."""
        return len(self.keys) - len(self._buffer)

    def clean(self) -> None:
        """Remove what a killed process left half-written."""
        for path in self.folder.glob(".part-*.parquet"):
            path.unlink()

    def add(self, rows: Iterable[dict[str, Any]]) -> int:
        """Take rows whose keys are new, and return how many these were; nothing is written yet.

        Parameters
        ----------
        rows : iterable of dict
        """
        before = len(self._buffer)
        for row in rows:
            if row["key"] not in self.keys:
                self.keys.add(row["key"])
                self._buffer.append(row)
        return len(self._buffer) - before

    def flush_if_due(self) -> None:
        """Write the rows that wait, if there are many or they have waited long."""
        if len(self._buffer) >= self.most or time.monotonic() - self._since >= self.every:
            self.flush()

    def flush(self) -> int:
        """Write the rows that wait into a file of their own, and return how many these were.

        Raises
        ------
        InputError
            If they cannot be written; the files that are there stay as they are.
        """
        self._since = time.monotonic()
        if not self._buffer:
            return 0
        table = pa.Table.from_pylist(self._buffer, self.schema)
        try:
            self.folder.mkdir(exist_ok=True)
            path = self.folder / f"part-{self.files:06d}-{secrets.token_hex(4)}.parquet"
            with replacing(path) as temporary, temporary.open("wb") as file:
                pq.write_table(table, file, compression="zstd")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(
                f"the results cannot be written to '{self.folder}' ({error.strerror or first_line(error)});"
                f" {count(self.written, 'row')} written before, and the same command goes on from there once they can."
            ) from None
        self.files += 1
        self._buffer = []
        return table.num_rows


def _parts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.parquet") if re.match(r"[^._]", path.name))


def _read(path: Path, schema: pa.Schema | None, columns: Sequence[str] | None = None) -> pa.Table:
    try:
        with path.open("rb") as file:
            found = pq.ParquetFile(file)
            kind = (found.schema_arrow.metadata or {}).get(b"modbp", b"something else").decode()
            if schema is not None and kind != schema.metadata[b"modbp"].decode():
                raise InputError(
                    f"'{path.parent}' holds rows of {kind}; allowed for {schema.metadata[b'modbp'].decode()} is another"
                    " folder."
                )
            return found.read(columns)
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"'{path}' cannot be read as Parquet ({getattr(error, 'strerror', None) or first_line(error)}); allowed is"
            " to remove it, and its rows are measured again."
        ) from None


def read(folder: str | Path) -> pd.DataFrame:
    """Read the results of a sweep.

    Parameters
    ----------
    folder : str or Path
        What `modbp sweep` was given as `--out`.

    Returns
    -------
    pandas.DataFrame
        A row for each measured number, sorted by what it measures, so that the order in which tasks ended makes no
        difference. The columns are those of `modbp.sweep.store.MEASURED`, or `JUDGED` for notebook runs.

    Raises
    ------
    InputError
        If the folder holds no results, a damaged file, or a key twice.

    Examples
    --------
    >>> read("no-such-folder")
    Traceback (most recent call last):
        ...
    modbp.errors.InputError: 'no-such-folder' holds no results of a sweep; allowed is a folder that modbp sweep wrote.
    """
    import pandas as pd

    paths = _parts(expand(folder) / ROWS)
    if not paths:
        raise InputError(f"'{folder}' holds no results of a sweep; allowed is a folder that modbp sweep wrote.")
    first = _read(paths[0], None)
    kind = (first.schema.metadata or {}).get(b"modbp", b"")
    schema = JUDGED if kind == JUDGED.metadata[b"modbp"] else MEASURED
    whole = {pa.int64(): pd.Int64Dtype()}
    table = pa.concat_tables([_read(path, schema) for path in paths]).to_pandas(types_mapper=whole.get)
    twice = table["key"].duplicated()
    if twice.any():
        raise InputError(
            f"'{folder}' holds {int(twice.sum())} rows twice, such as {table['key'][twice].iloc[0]}; allowed is each"
            " once, so remove the files that were copied there."
        )
    by = ["measurement", "network", "image", "method", "layer", "seed", "quantity", "key"]
    if schema is JUDGED:
        by = ["walkthrough", "run", "claim", "quantity", "key"]
    return table.sort_values(by, kind="stable", na_position="first", ignore_index=True)
