"""Pictures and tables come back as they were written, whatever they hold."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas.problems import StoreError
from schemas.tables import CHUNKS, LANDMARK_TABLE, MEASURES, TableSchema, column, numbers
from storage import tables
from storage.pictures import decode_png, encode_png

sides = st.integers(1, 40)
shapes = st.tuples(sides, sides) | st.tuples(sides, sides, st.sampled_from([3, 4]))


@given(shapes.flatmap(lambda shape: hnp.arrays(np.uint8, shape)), st.integers(0, 9))
def test_any_picture_comes_back_exactly(picture: np.ndarray, level: int) -> None:
    decoded = decode_png(encode_png(picture, level))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, picture)


def test_colours_are_red_green_blue_in_the_file() -> None:
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 255
    assert cv2.imdecode(np.frombuffer(encode_png(red), np.uint8), cv2.IMREAD_COLOR)[0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8), np.zeros(4, np.uint8)]
)
def test_what_is_no_picture_is_refused(picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a picture is uint8"):
        encode_png(picture)


def test_a_cut_off_picture_is_an_error_not_a_black_area() -> None:
    data = encode_png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for length in (0, 4, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match="PNG"):
            decode_png(data[:length])


MIXED = TableSchema(
    "mixed",
    3,
    (
        column("frame", pa.int32()),
        column("flag", pa.bool_()),
        column("seconds", pa.float64()),
        column("values", numbers(5)),
        column("grid", numbers(4, pa.bool_())),
        column("note", pa.string()),
    ),
)


@st.composite
def mixed_columns(draw: st.DrawFn) -> dict[str, object]:
    rows = draw(st.integers(0, 20))
    return {
        "frame": draw(hnp.arrays(np.int32, rows)),
        "flag": draw(hnp.arrays(np.bool_, rows)),
        "seconds": draw(hnp.arrays(np.float64, rows)),
        "values": draw(hnp.arrays(np.float32, (rows, 5))),
        "grid": draw(hnp.arrays(np.bool_, (rows, 2, 2))),
        "note": draw(st.lists(st.text(st.characters(codec="utf-8"), max_size=5), min_size=rows, max_size=rows)),
    }


@given(st.lists(mixed_columns(), min_size=1, max_size=3))
@settings(max_examples=50)
def test_any_table_comes_back_exactly_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, parts: list[dict[str, object]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "mixed.parquet"
    writer = tables.ParquetTableWriter(path, MIXED)
    for part in parts:
        writer.write(part)
    writer.close()
    table = tables.read(path)
    assert tables.schema_identity(path) == "mixed/3"
    assert table.schema.equals(MIXED.arrow)
    for name in ("frame", "flag", "seconds", "values", "grid"):
        wanted = np.concatenate([np.asarray(part[name]) for part in parts])
        found = tables.array(table, name)
        assert found.dtype == wanted.dtype
        # NaN payloads and signed zeros too.
        assert found.tobytes() == wanted.tobytes()
    assert list(tables.array(table, "note")) == [note for part in parts for note in part["note"]]  # type: ignore[attr-defined]


def landmark_columns(rows: int, start: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(start)
    return {
        "frame": np.arange(start, start + rows),
        "track": np.zeros(rows, np.int64),
        "detected": np.ones(rows, bool),
        "score": np.ones(rows),
        "box": np.zeros((rows, 4)),
        "landmarks": generator.normal(size=(rows, 478, 3)).astype(np.float32),
        "shoulders": np.full((rows, 6), np.nan),
    }


def test_landmarks_are_read_without_copying_and_stored_as_designed(tmp_path: Path) -> None:
    path = tmp_path / "landmarks.parquet"
    writer = tables.ParquetTableWriter(path, LANDMARK_TABLE)
    columns = landmark_columns(50)
    writer.write(columns)
    writer.close()
    table = tables.read(path)
    landmarks = tables.array(table, "landmarks")
    assert landmarks.shape == (50, 1434)
    address = table.column("landmarks").chunk(0).values.buffers()[1].address
    assert landmarks.__array_interface__["data"][0] == address
    np.testing.assert_array_equal(landmarks.reshape(50, 478, 3), columns["landmarks"])
    group = pq.read_metadata(path).row_group(0)
    for index in range(group.num_columns):
        leaf = group.column(index)
        assert leaf.compression == "ZSTD"
        assert not {"PLAIN_DICTIONARY", "RLE_DICTIONARY"} & set(leaf.encodings)
        assert ("BYTE_STREAM_SPLIT" in leaf.encodings) == (leaf.physical_type in ("FLOAT", "DOUBLE"))


def test_frames_are_found_by_row_group_without_reading_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "landmarks.parquet"
    writer = tables.ParquetTableWriter(path, LANDMARK_TABLE)
    for start in range(0, 300, 100):
        writer.write(landmark_columns(100, start))
    writer.close()
    data = bytearray(path.read_bytes())
    first = pq.read_metadata(path).row_group(0).column(5)
    data[first.data_page_offset : first.data_page_offset + first.total_compressed_size] = bytes(first.total_compressed_size)
    path.write_bytes(data)  # the first group can no longer be read
    table = tables.read(path, columns=["landmarks"], frames=range(150, 250))
    assert table.column_names == ["landmarks"]
    np.testing.assert_array_equal(tables.array(table, "landmarks")[0], landmark_columns(100, 100)["landmarks"][50].reshape(-1))
    assert table.num_rows == 100
    with pytest.raises((OSError, pa.ArrowException)):
        tables.read(path, frames=range(50, 250))


@pytest.mark.parametrize(
    ("frames", "found"),
    [(range(0), []), (range(2, 5), [2, 3, 4]), (range(0, 9, 4), [0, 4, 8]), (range(8, 99), [8, 9]), (range(50, 60), [])],
)
def test_frames_select_rows(tmp_path: Path, frames: range, found: list[int]) -> None:
    path = tmp_path / "chunks.parquet"
    writer = tables.ParquetTableWriter(path, LANDMARK_TABLE)
    writer.write(landmark_columns(10))
    writer.close()
    assert tables.array(tables.read(path, columns=["frame"], frames=frames), "frame").tolist() == found


def test_batches_give_all_rows_in_order(tmp_path: Path) -> None:
    path = tmp_path / "landmarks.parquet"
    writer = tables.ParquetTableWriter(path, LANDMARK_TABLE)
    writer.write(landmark_columns(10))
    writer.write(landmark_columns(7, 10))
    writer.close()
    pieces = list(tables.batches(path, columns=["frame"], rows=4))
    assert max(piece.num_rows for piece in pieces) <= 4
    assert np.concatenate([tables.array(piece, "frame") for piece in pieces]).tolist() == list(range(17))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stop": None}, "columns missing"),
        ({"other": [1]}, "unknown"),
        ({"stop": [1, 2]}, "different lengths"),
        ({"stop": [1.5]}, "stop"),
        ({"stop": [2**40]}, "stop"),
        ({"stop": pa.array([None], pa.int32())}, "nulls"),
        ({"stop": [[1]]}, "shape"),
    ],
)
def test_columns_that_do_not_fit_the_schema_are_refused(change: dict[str, object], says: str) -> None:
    columns: dict[str, object] = {"chunk": [0], "shot": [0], "start": [0], "stop": [5]} | change
    columns = {name: values for name, values in columns.items() if values is not None}
    with pytest.raises(StoreError, match=says) as caught:
        tables.arrow_table(CHUNKS, columns)
    assert caught.value.code == "schema_mismatch"


def test_an_empty_table_has_columns_of_the_right_shape() -> None:
    table = tables.arrow_table(LANDMARK_TABLE, landmark_columns(0))
    assert tables.array(table, "landmarks").shape == (0, 1434)
    assert tables.array(table, "detected").dtype == bool
    empty = tables.arrow_table(MEASURES, {field.name: [] for field in MEASURES.columns})
    assert empty.num_rows == 0


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        writer = tables.ParquetTableWriter(tmp_path / name, LANDMARK_TABLE)
        writer.write(landmark_columns(20))
        writer.close()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
