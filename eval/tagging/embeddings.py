"""Embeddings of windows and recordings in a file, written while the recordings are read: memory
does not grow with their lengths.

The table has a row for each window and each whole recording, with the columns `COLUMNS`.
"""

import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeAlias

import numpy as np

from psla_wds.errors import optional_package
from psla_wds.io.atomic_files import atomic_open
from psla_wds.models.config import Pooling
from psla_wds.tagging.tagger import WindowTags
from psla_wds.tagging.windows import EmbeddingMean

COLUMNS = ("kind", "recording", "start_s", "end_s", "embedding")
ROWS_AT_ONCE = 1024

Table: TypeAlias = dict[str, list[Any]]
"""Columns of rows; those of `embedding` are float32 vectors."""
Put: TypeAlias = Callable[[Table], None]


class EmbeddingFile:
    """Takes the embeddings of recordings, window by window."""

    def __init__(self, put: Put, pooling: Pooling, size: int) -> None:
        self._put, self._rows, self._size = put, _no_rows(), size
        self.pooling: Pooling = pooling
        self.num_windows = self.num_recordings = 0

    def __str__(self) -> str:
        return (
            f"embeddings of {self._size:,} numbers for {self.num_recordings:,} recordings and "
            f"{self.num_windows:,} windows"
        )

    def follow(self, name: str, windows: Iterable[WindowTags]) -> Iterator[WindowTags]:
        """The same windows of a recording; their embeddings are stored as they pass."""
        mean = EmbeddingMean()
        for window in windows:
            assert window.embedding is not None
            mean.add(window.embedding, window.length_s)
            self._add("window", name, window.start_s, window.end_s, window.embedding)
            self.num_windows += 1
            if window.is_last:
                self._add("recording", name, 0.0, window.end_s, mean.value())
                self.num_recordings += 1
            yield window

    def flush(self) -> None:
        """Write the rows that are held."""
        self._put(self._rows)
        self._rows = _no_rows()

    def _add(self, *row: Any) -> None:
        for column, value in zip(self._rows.values(), row, strict=True):
            column.append(value)
        if len(self._rows["kind"]) == ROWS_AT_ONCE:
            self.flush()


@contextmanager
def open_embeddings(path: Path, size: int, pooling: Pooling) -> Iterator[EmbeddingFile]:
    """A file of embeddings of `size` numbers, .npz or .parquet by its suffix, which appears as a
    whole when the block ends well.

    Raises `ConfigError` if Parquet needs a package.
    """
    opened = _open_parquet if path.suffix == ".parquet" else _open_npz
    with opened(path, size) as put:
        file = EmbeddingFile(put, pooling, size)
        yield file
        file.flush()


@contextmanager
def _open_npz(path: Path, size: int) -> Iterator[Put]:
    """Vectors wait in a file beside it, since an array in .npz begins with its shape."""
    rows = _no_rows()
    with atomic_open(path) as file, TemporaryFile(dir=path.parent) as vectors:

        def put(table: Table) -> None:
            vectors.writelines(map(memoryview, table.pop("embedding")))
            for name, values in table.items():
                rows[name] += values

        yield put
        vectors.seek(0)
        shape = (len(rows["kind"]), size)
        with zipfile.ZipFile(file, "w") as archive:
            for name in ("kind", "recording", "start_s", "end_s"):
                column = np.array(rows[name], np.float64 if name.endswith("_s") else np.str_)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, column, allow_pickle=False)
            with archive.open("embedding.npy", "w", force_zip64=True) as member:
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                shutil.copyfileobj(vectors, member)


@contextmanager
def _open_parquet(path: Path, size: int) -> Iterator[Put]:
    parquet = optional_package(
        "pyarrow.parquet", "Parquet files", where="--embeddings", install="pyarrow"
    )
    import pyarrow

    vector = pyarrow.list_(pyarrow.float32(), size)
    types = (pyarrow.string(), pyarrow.string(), pyarrow.float64(), pyarrow.float64(), vector)
    schema = pyarrow.schema(list(zip(COLUMNS, types, strict=True)))
    with atomic_open(path) as file, parquet.ParquetWriter(file, schema) as writer:

        def put(table: Table) -> None:
            numbers = np.asarray(table.pop("embedding"), np.float32).ravel()
            vectors = pyarrow.FixedSizeListArray.from_arrays(numbers, size)
            writer.write_table(pyarrow.table({**table, "embedding": vectors}, schema))

        yield put


def _no_rows() -> Table:
    return {name: [] for name in COLUMNS}
