"""Catalogues as files: found, bounded, and taken apart into rows, whether CSV, JSON Lines or Parquet.

What the rows mean is said by ``schemas.catalogue`` and ``schemas.dataset``. Files are untrusted: size, number of rows and what
Parquet unpacks to are bounded.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.names import suggestion
from schemas.places import expanded_path
from schemas.problems import UsageError

MAXIMUM_BYTES = 64 * 2**20
"""Largest catalogue file that is read."""

MAXIMUM_PARQUET_BYTES = 4 * MAXIMUM_BYTES
"""Of a Parquet catalogue's cells when unpacked."""

MAXIMUM_ROWS = 200_000


@dataclass(frozen=True)
class Columns:
    """What a kind of catalogue consists of: names of its columns, those every row must have, and what ``rights`` should say."""

    names: tuple[str, ...]
    required: tuple[str, ...]
    rights: str


def catalogue_rows(
    location: str, data: bytes, columns: Columns, problems: list[str], maximum_rows: int = MAXIMUM_ROWS
) -> list[tuple[str, dict[str, Any]]]:
    """Rows of a catalogue in any of its formats, each with the place to name in messages, the known columns alone.

    Args:
        location: names the file, and by its suffix the format. data: its content.
        problems: gets what is wrong with the file, its columns and the form of its rows.

    Raises:
        UsageError: neither CSV nor JSON Lines nor Parquet, or text that is not UTF-8.
    """
    read = {"csv": _csv_rows, "jsonl": _json_rows, "parquet": _parquet_rows}[_kind(location, data)]
    return read(location, data, columns, maximum_rows, problems)


def read_bounded(location: str, storage_options: dict[str, Any], maximum_bytes: int, what: str) -> bytes:
    """The content of a file that a person names; UsageError where it cannot be read or is larger than ``maximum_bytes``."""
    local = location.removeprefix("file://")
    if not is_url(local) and os.path.isdir(expanded_path(local)):
        raise UsageError([f"The {what} {location} is a folder; give the file itself."])
    try:
        with fsspec.open(location if is_url(location) else str(expanded_path(local)), "rb", **storage_options) as file:
            data = file.read(maximum_bytes + 1)
    except FileNotFoundError as error:
        # A web server that cannot be reached is "not found" to fsspec.
        found = f"cannot be found: {error}" if is_url(location) else "does not exist"
        raise UsageError([f"The {what} {location} {found}."], "Check the path or the URL.") from error
    except PermissionError as error:
        raise UsageError(
            [f"The {what} {location} may not be read: {error}."], "Check the permissions or the credentials of the store."
        ) from error
    except ImportError as error:
        raise UsageError([f"The {what} {location} needs a package that is not installed: {error}."]) from error
    except Exception as error:  # every file system raises its own kinds; all are the same to a person
        raise UsageError(
            [f"The {what} {location} cannot be read: {type(error).__name__}: {error}."],
            "Check the URL, the network and the credentials.",
        ) from error
    if len(data) > maximum_bytes:
        raise UsageError([f"The {what} {location} is larger than {maximum_bytes} bytes."], "Split it into several.")
    return bytes(data)


def _kind(location: str, data: bytes) -> str:
    suffix = PurePosixPath(location.split("::")[0].split("?")[0]).suffix.lower()
    kinds = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet"}
    if suffix not in kinds:
        raise UsageError([f"{location} is no catalogue by its name: it must end in .csv, .jsonl or .parquet."])
    if kinds[suffix] != "parquet" and data[:4] == b"PAR1":
        raise UsageError([f"{location} is a Parquet file by its content."], "Give it the suffix .parquet.")
    return kinds[suffix]


def _decoded(location: str, data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UsageError([f"{location} is UTF-16 text."], "Save it as UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(
            [f"{location} is not UTF-8 text: line {line} has the byte 0x{data[error.start]:02x}."], "Save it as UTF-8."
        ) from error


def _csv_rows(
    location: str, data: bytes, columns: Columns, maximum_rows: int, problems: list[str]
) -> list[tuple[str, dict[str, Any]]]:
    text = _decoded(location, data)
    if "\x00" in text:
        problems.append(f"{location} holds a zero byte: it is not CSV.")
        return []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[str, dict[str, Any]]] = []
    header: list[str] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
                    problems.append(f"{location}: the columns are not separated by commas.")
                    return []
                problems += _unknown_columns(header, location, columns) + _missing_columns(header, location, columns)
                problems += [
                    f"{location}: column {name!r} stands twice." for name in sorted({n for n in header if header.count(n) > 1})
                ]
                continue
            where = f"row {len(rows) + 1} (line {reader.line_num})"
            if len(rows) >= maximum_rows:
                problems.append(f"{location} has more than {maximum_rows} rows: split it into several catalogues.")
                return []
            if len(cells) > len(header):
                problems.append(
                    f"{where}: has {len(cells)} cells for {len(header)} columns; put quotes around cells that hold commas."
                )
                continue
            rows.append((where, {name: cell for name, cell in zip(header, cells, strict=False) if name in columns.names}))
    except csv.Error as error:
        problems.append(f"{location}, line {reader.line_num}: is not well-formed CSV: {error}.")
    # A missing required column is one problem, not one a row.
    return [] if header is None or any(name not in header for name in columns.required) else rows


def _json_rows(
    location: str, data: bytes, columns: Columns, maximum_rows: int, problems: list[str]
) -> list[tuple[str, dict[str, Any]]]:
    rows: list[tuple[str, dict[str, Any]]] = []
    for number, line in enumerate(_decoded(location, data).split("\n"), 1):
        if not line.strip():
            continue
        where = f"row {len(rows) + 1} (line {number})"
        if len(rows) >= maximum_rows:
            problems.append(f"{location} has more than {maximum_rows} rows: split it into several catalogues.")
            return []
        row: Any = {}
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a ValueError of its own
            problems.append(f"{where}: is not a JSON object on one line: {error}.")
            continue
        if not isinstance(row, dict):
            problems.append(f"{where}: is not a JSON object, but {type(row).__name__}.")
            continue
        problems += _unknown_columns(list(row), where, columns)
        rows.append((where, {name: value for name, value in row.items() if name in columns.names}))
    return rows


def _parquet_rows(
    location: str, data: bytes, columns: Columns, maximum_rows: int, problems: list[str]
) -> list[tuple[str, dict[str, Any]]]:
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        names = file.schema_arrow.names
        problems += _unknown_columns(names, location, columns) + _missing_columns(names, location, columns)
        if file.metadata.num_rows > maximum_rows:
            problems.append(f"{location} has more than {maximum_rows} rows: split it into several catalogues.")
        if any(name not in names for name in columns.required) or file.metadata.num_rows > maximum_rows:
            return []
        wanted = [name for name in names if name in columns.names]
        # A few kilobytes of Parquet can hold gigabytes of repeated text, and what the file says of its size is that before
        # its dictionaries are applied. No cell is larger than its column's encoded chunk, so this many rows stay bounded.
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        largest = max((group.column(k).total_uncompressed_size for group in groups for k in range(group.num_columns)), default=0)
        rows: list[dict[str, Any]] = []
        size = 0
        for batch in file.iter_batches(max(1, min(1024, MAXIMUM_PARQUET_BYTES // max(1, largest))), columns=wanted):
            found = batch.to_pylist()
            size += sum(len(cell if isinstance(cell, str) else repr(cell)) for row in found for cell in row.values())
            if size > MAXIMUM_PARQUET_BYTES:
                problems.append(f"{location} unpacks to more than {MAXIMUM_PARQUET_BYTES} bytes: split it.")
                return []
            rows += found
    except (pa.ArrowException, OSError, ValueError) as error:
        problems.append(f"{location} cannot be read as Parquet: {str(error).splitlines()[0]}.")
        return []
    return [(f"row {number}", row) for number, row in enumerate(rows, 1)]


def is_url(path: str) -> bool:
    """Whether a path names a file system of its own."""
    return "://" in path or "::" in path


def _unknown_columns(names: Sequence[str], where: str, columns: Columns) -> list[str]:
    return [f"{where}: unknown column {name!r}; {suggestion(name, columns.names)}" for name in names if name not in columns.names]


def _missing_columns(names: Sequence[str], where: str, columns: Columns) -> list[str]:
    missing = [name for name in columns.required if name not in names]
    return [f"{where}: column {name!r} is missing" + (f": {columns.rights}." if name == "rights" else ".") for name in missing]
