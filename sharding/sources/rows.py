"""Rows of tables, each with its file and line for messages."""

import csv
import json
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

from psla_wds.audio.folders import is_audio
from psla_wds.errors import ManifestError
from psla_wds.io.locations import Location
from psla_wds.io.regular import open_text
from psla_wds.io.stores import at
from psla_wds.printable import typed
from sharding.sources.parquet_files import open_parquet
from sharding.sources.source import require

ROWS_AT_ONCE = 10_000
LONGEST_LINE = 2**22
"""Characters of a line, which is in memory as a whole."""


def lines(path: Location, *, most_bytes: int | None = None) -> Iterator[str]:
    """Lines of a text file.

    Args:
        most_bytes: size of a file whose lines may be of any length; a larger one is an error.
            Default: the file may have any size, and its lines have a bound.
    """
    number, longest = 0, LONGEST_LINE
    try:
        with at(path).local_copy() as local, open_text(local) as file:
            if most_bytes is not None:
                longest, size = most_bytes + 1, os.fstat(file.fileno()).st_size
                fix = "split it into several files, and give each shards of its own"
                problem = f"the file has {size:,} bytes; at most {most_bytes:,} are read at once"
                require(size <= most_bytes, problem, path, fix)
            for number, line in enumerate(iter(partial(file.readline, longest), ""), 1):
                if len(line) == longest:
                    raise ManifestError(
                        f"a line has {longest:,} characters or more",
                        where=f"{path}, line {number}",
                        fix="check that this is a table, with a row in each line",
                    )
                yield line
    except UnicodeDecodeError as error:
        names = f"{typed(path.name)} > {typed(f'utf-8-{path.name}')}"
        raise ManifestError(
            f"the file is not UTF-8: {error}",
            where=f"{path}, after line {number}",
            fix=f"convert it: iconv -f ITS_ENCODING -t utf-8 {names}",
        ) from None
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ManifestError("there is no such file", where=path, fix="check the path") from None
    except OSError as error:
        raise ManifestError(
            f"the file cannot be read: {error.strerror}", where=path, fix="give read access"
        ) from None


def csv_values(path: Location, *, comment: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """Rows that are neither empty nor comments."""
    reader = csv.reader(lines(path), skipinitialspace=True)
    try:
        for row in reader:
            if row and not (comment and row[0].startswith(comment)):
                yield f"{path}, line {reader.line_num}", row
    except csv.Error as error:
        where = f"{path}, line {reader.line_num}"
        raise ManifestError(f"the row is not CSV: {error}", where=where, fix="quote it") from None


def csv_rows(path: Location, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows by the names in the first line, which must include `columns`."""
    rows = csv_values(path)
    _, header = next(rows, ("", []))
    if not set(columns) <= set(header):
        found = f"has {', '.join(map(repr, header))}" if header else "is missing"
        raise ManifestError(
            f"the first line must name the columns {' and '.join(columns)}, but {found}",
            where=path,
            fix=_header_fix(columns, header),
        )
    for where, row in rows:
        complete = len(row) == len(header)
        require(complete, "the row has too many or too few values", where, "quote commas")
        yield where, dict(zip(header, row, strict=True))


def _header_fix(columns: tuple[str, ...], header: list[str]) -> str:
    """Advice by what the first line has: a header with other names or separators, or a clip."""
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        return "separate the columns by commas"
    lacks = ", ".join(name for name in columns if name not in header)
    if not header or any(is_audio(name) or "/" in name for name in header):
        return f"add a first line that names the columns: {','.join(columns)}"
    return f"rename columns in the first line, so that it has: {lacks}"


def jsonl_rows(path: Location) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(lines(path), 1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ManifestError(
                f"the line is not JSON: {error}", where=where, fix="write one object a line"
            ) from None
        require(isinstance(row, dict), "the line is not an object", where, "write {...}")
        yield where, row


def table_rows(path: Location, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a .csv, .jsonl or .parquet file, each with at least these columns."""
    if path.suffix == ".csv":
        yield from csv_rows(path, columns)
    elif path.suffix == ".parquet":
        yield from parquet_rows(path, columns)
    else:
        is_known = path.suffix == ".jsonl"
        require(is_known, "the table is not .csv, .jsonl or .parquet", path, "convert it")
        for where, row in jsonl_rows(path):
            require(
                set(columns) <= set(row),
                f"the row has {', '.join(row)}, and not {' and '.join(columns)}",
                where,
                "name other columns, or fill them in",
            )
            yield where, row


def parquet_rows(path: Location, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows with these columns alone; some at a time are in memory."""
    number = 0
    with open_parquet(path) as file:
        there = file.schema_arrow.names
        require(
            set(columns) <= set(there),
            f"the table has the columns {', '.join(there)}, and not {' and '.join(columns)}",
            path,
            "name other columns",
        )
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=list(columns)):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row


def seconds(text: Any, where: str) -> float:
    try:
        return float(text)
    except (TypeError, ValueError, OverflowError) as error:
        raise ManifestError(
            f"start_s or end_s: {error}", where=where, fix="write seconds, such as 30.0"
        ) from None
