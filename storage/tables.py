"""Tables in Parquet, with the settings that make landmark tables fast, and arrays out of them without copying."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.problems import StoreError
from schemas.tables import TableSchema

ROW_GROUP = 256
"""Rows of a group at most. A chunk's 100 frames of a long table are then read in 4 ms instead of 28; the whole costs the same."""

SCHEMA_KEY = b"headswap.schema"


def array(table: pa.Table, column: str) -> np.ndarray:
    """A column as numpy: [rows, k] for fixed size lists, [rows] for scalars; a view of Arrow's memory where possible.

    Views are read-only. Booleans and strings (dtype object) are copies, and so is a column of several chunks.
    """
    chunked = table.column(column)
    values = chunked.chunk(0) if chunked.num_chunks == 1 else pa.concat_arrays(chunked.chunks) if chunked.num_chunks else None
    if values is None:
        values = pa.array([], chunked.type)
    if pa.types.is_fixed_size_list(values.type):
        return _numpy(values.flatten()).reshape(len(values), values.type.list_size)
    return _numpy(values)


def _numpy(values: pa.Array) -> np.ndarray:
    plain = not pa.types.is_boolean(values.type) and not pa.types.is_string(values.type)
    return values.to_numpy(zero_copy_only=plain and values.null_count == 0)


def arrow_table(schema: TableSchema, columns: Mapping[str, object]) -> pa.Table:
    """Columns as an Arrow table of exactly ``schema``.

    Args:
        columns: by name, numpy arrays [rows] or [rows, ...] (the inner axes are flattened into the fixed size list), lists, or
            Arrow arrays. Values are cast where nothing is lost but float precision.

    Raises:
        StoreError: ``schema_mismatch`` for missing or unknown columns, other lengths, nulls, or values that do not fit.
    """
    wanted = [field.name for field in schema.columns]
    if set(wanted) != set(columns):
        missing, unknown = sorted(set(wanted) - set(columns)), sorted(set(columns) - set(wanted))
        raise _mismatch(schema, f"columns missing {missing}, unknown {unknown}")
    arrays = []
    for field in schema.columns:
        try:
            arrays.append(_column(columns[field.name], field.type))
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise _mismatch(schema, f"column {field.name!r}: {error}") from error
        if arrays[-1].null_count:
            raise _mismatch(schema, f"column {field.name!r} has nulls; a frame without a value holds NaN and a false flag")
    if len({len(values) for values in arrays}) > 1:
        raise _mismatch(schema, f"columns of different lengths {dict(zip(wanted, map(len, arrays), strict=True))}")
    return pa.Table.from_arrays(arrays, schema=schema.arrow)


def _mismatch(schema: TableSchema, reason: str) -> StoreError:
    return StoreError(
        "schema_mismatch", f"A table {schema.identity} cannot be written: {reason}.", "Report this as a bug of the stage."
    )


def _column(values: object, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.Array):
        return values if values.type == kind else values.cast(kind)
    if pa.types.is_string(kind):
        return pa.array([str(value) for value in values], kind)  # type: ignore[attr-defined]
    if not pa.types.is_fixed_size_list(kind):
        flat = np.asarray(values)
        if flat.ndim != 1:
            raise ValueError(f"shape {list(flat.shape)}, wanted [rows]")
        return _cast(flat, kind)
    block = np.asarray(values)
    if block.size == 0:
        block = block.reshape(len(block), kind.list_size) if block.ndim > 1 else block.reshape(0, kind.list_size)
    if block.ndim < 2 or block.size != len(block) * kind.list_size:
        raise ValueError(f"shape {list(block.shape)}, wanted [rows, {kind.list_size}]")
    return pa.FixedSizeListArray.from_arrays(_cast(np.ascontiguousarray(block).reshape(-1), kind.value_type), type=kind)


def _cast(flat: np.ndarray, kind: pa.DataType) -> pa.Array:
    if flat.size == 0:
        return pa.array([], kind)
    values = pa.array(flat)
    return values if values.type == kind else values.cast(kind)


class ParquetTableWriter:
    """Writes one Parquet file of a schema, one row group per ``write``, and checks the footer at the end."""

    def __init__(self, path: Path, schema: TableSchema) -> None:
        self.path = path
        self.schema = schema
        self.rows = 0
        self._writer = pq.ParquetWriter(
            path,
            schema.arrow,
            compression="zstd",
            compression_level=1,
            use_dictionary=False,
            use_byte_stream_split=_float_leaves(schema.arrow),
            write_statistics=[field.name for field in schema.columns if pa.types.is_integer(field.type)],
        )

    def write(self, columns: Mapping[str, object]) -> pa.Table:
        """Append a row group; gives back the rows as they were written."""
        table = arrow_table(self.schema, columns)
        self._writer.write_table(table, row_group_size=ROW_GROUP)
        self.rows += table.num_rows
        return table

    def abandon(self) -> None:
        """Let go of the file after a failure, which is what the caller has to hear about rather than what follows from it."""
        with suppress(OSError, pa.ArrowException):
            self._writer.close()

    def close(self) -> None:
        self._writer.close()
        found = pq.read_metadata(self.path).num_rows
        if found != self.rows:
            raise StoreError(
                "artifact_damaged",
                f"{self.path.name} holds {found} of {self.rows} rows.",
                "Check the disk of the scratch folder.",
            )


def _float_leaves(schema: pa.Schema) -> list[str]:
    leaves = []
    for field in schema:
        listed = pa.types.is_fixed_size_list(field.type)
        if pa.types.is_floating(field.type.value_type if listed else field.type):
            leaves.append(f"{field.name}.list.element" if listed else field.name)
    return leaves


def schema_identity(path: Path) -> str:
    """``name/version`` of the table in a Parquet file; empty where it has none."""
    return (pq.read_schema(path).metadata or {}).get(SCHEMA_KEY, b"").decode()


def read(path: Path, *, columns: Sequence[str] | None = None, frames: range | None = None) -> pa.Table:
    """Rows of a Parquet file.

    Args:
        columns: only these, in this order; all where None.
        frames: only rows whose ``frame`` is in this range; row groups without any are not read.

    Raises:
        StoreError: ``schema_mismatch`` for a column that is not there.
    """
    # The file is memory-mapped by the system's page cache anyway; pre_buffer only pays on object stores.
    with pq.ParquetFile(path, pre_buffer=False) as file:
        _check_columns(file, path, [*(columns or ()), *(["frame"] if frames is not None else ())])
        wanted = None if columns is None else list(columns)
        if frames is None:
            table = file.read(columns=wanted)
        else:
            with_frame = wanted if wanted is None or "frame" in wanted else [*wanted, "frame"]
            table = file.read_row_groups(_groups(file, frames), columns=with_frame)
            table = table.filter(_inside(table.column("frame"), frames))
    return table if wanted is None else table.select(wanted)


def batches(path: Path, *, columns: Sequence[str] | None = None, rows: int = 512) -> Iterator[pa.Table]:
    """Rows of a Parquet file in order, at most ``rows`` at a time."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        _check_columns(file, path, columns or ())
        for batch in file.iter_batches(batch_size=rows, columns=None if columns is None else list(columns)):
            table = pa.Table.from_batches([batch])
            yield table if columns is None else table.select(list(columns))


def _check_columns(file: pq.ParquetFile, path: Path, columns: Sequence[str]) -> None:
    missing = sorted(set(columns) - set(file.schema_arrow.names))
    if missing:
        raise StoreError(
            "schema_mismatch", f"{path.name} has no columns {missing}.", "Its stage's version is older; run that stage again."
        )


def _groups(file: pq.ParquetFile, frames: range) -> list[int]:
    """Row groups that may hold a frame of the range, by their statistics."""
    if len(frames) == 0:
        return []
    low, high = min(frames[0], frames[-1]), max(frames[0], frames[-1])
    position = file.schema_arrow.names.index("frame")  # every column, list or not, has one leaf in the file
    found = []
    for group in range(file.num_row_groups):
        statistics = file.metadata.row_group(group).column(position).statistics
        if statistics is None or not statistics.has_min_max or (statistics.min <= high and statistics.max >= low):
            found.append(group)
    return found


def _inside(column: pa.ChunkedArray, frames: range) -> pa.ChunkedArray:
    if len(frames) == 0:
        return pa.chunked_array([pa.array([False] * len(column), pa.bool_())])
    if frames.step == 1:
        return pc.and_(pc.greater_equal(column, frames.start), pc.less(column, frames.stop))
    return pc.is_in(column, value_set=pa.array(list(frames), column.type))
