"""Shards of prepared training data: what is written about a frame, and how, as webdataset tars or as Parquet.

A shard holds frames in order, a run of consecutive frames (*segment*) never in two shards, and beside it lie its index (where in
the file each frame is, so that windows are read without reading the rest) and a description that is written last. In a tar a
frame is what the public webdataset convention calls a sample, files that share a name up to the first dot:

    KEY.picture.jpg      the crop                            KEY.landmarks.npy   float32 [478, 3], pixels of the crop
    KEY.background.jpg   what is behind the person           KEY.json            clip, person, rights, frame, shoulders, ...
    KEY.labels.png       label map                           KEY.reference.jpg   the head on white, of some frames only

(``png`` instead of ``jpg`` where the data set was prepared without loss). In Parquet a frame is a row with the same names.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.problems import StoreError
from schemas.tables import LANDMARKS

VERSION = 1
"""Of the format; goes up when older readers could not read newer shards."""

MANIFEST = "dataset.json"
SEGMENTS = "segments.parquet"
"""Beside the manifest: what every shard holds, so that a data set of any size is opened with two requests."""

ROW_GROUP = 16
"""Frames of a row group in Parquet: what is read at least for one frame."""

ShardFormat = Literal["webdataset", "parquet"]
PictureFormat = Literal["jpg", "png"]
FIELDS = ("picture", "background", "labels", "reference", "landmarks", "facts")
"""What is stored of a frame, in the order of the index's columns. Only ``reference`` may be missing."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class FrameRecord:
    """A frame of a data set.

    Attributes:
        key: names the frame in its data set; no dots. clip, person: whose. rights: on what ground the clip may be used.
        rights_said_of: ``clip``, or ``source`` where these words were given for the source of a swap, and this is its target.
        frame: number in the clip. segment: runs of consecutive frames have the same.
        picture, background: uint8 [size, size, 3]. labels: uint8 [size, size]. reference: uint8 [size, size, 3] or None.
        landmarks: float32 [478, 3]; shoulders: float32 [2, 3], x, y and visibility, left first: pixels of the crop.
    """

    key: str
    clip: str
    person: str
    rights: str
    frame: int
    segment: int
    picture: Pixels
    background: Pixels
    labels: Pixels
    landmarks: npt.NDArray[np.float32]
    shoulders: npt.NDArray[np.float32]
    reference: Pixels | None = None
    rights_said_of: str = "clip"


def encode_frame(record: FrameRecord, pictures: PictureFormat = "jpg", quality: int = 95) -> dict[str, bytes]:
    """A frame as bytes by field; ``quality``: of JPEG, which keeps colours at full resolution."""
    landmarks = io.BytesIO()
    np.save(landmarks, np.asarray(record.landmarks, np.float32).reshape(LANDMARKS, 3))
    facts = {
        "clip": record.clip,
        "person": record.person,
        "rights": record.rights,
        "frame": record.frame,
        "segment": record.segment,
        # NaN is no JSON: an unseen shoulder is null.
        "shoulders": [[float(value) if np.isfinite(value) else None for value in point] for point in record.shoulders],
    }
    if record.rights_said_of != "clip":  # frames whose rights are their own are as they always were
        facts["rights_said_of"] = record.rights_said_of
    encoded = {
        "picture": encode_picture(record.picture, pictures, quality),
        "background": encode_picture(record.background, pictures, quality),
        "labels": encode_picture(record.labels, "png"),
        "landmarks": landmarks.getvalue(),
        "facts": json.dumps(facts, sort_keys=True, ensure_ascii=False).encode(),
    }
    if record.reference is not None:
        encoded["reference"] = encode_picture(record.reference, pictures, quality)
    return encoded


def decode_frame(key: str, fields: Mapping[str, bytes], shard: str = "") -> FrameRecord:
    """The frame that was encoded.

    Args:
        key: its name. fields: its bytes, by ``FIELDS``. shard: path of the file that they are from.

    Raises:
        StoreError: ``shard_damaged``, naming shard and frame.
    """
    try:
        facts = json.loads(fields["facts"])
        shoulders = [[np.nan if value is None else value for value in point] for point in facts["shoulders"]]
        return FrameRecord(
            key=key,
            clip=facts["clip"],
            person=facts["person"],
            rights=facts["rights"],
            rights_said_of=facts.get("rights_said_of", "clip"),
            frame=facts["frame"],
            segment=facts["segment"],
            picture=decode_picture(fields["picture"]),
            background=decode_picture(fields["background"]),
            labels=decode_picture(fields["labels"]),
            landmarks=np.load(io.BytesIO(fields["landmarks"])),
            shoulders=np.array(shoulders, np.float32),
            reference=decode_picture(fields["reference"]) if fields.get("reference") else None,
        )
    except (KeyError, ValueError, TypeError, EOFError, cv2.error) as error:
        raise damaged(shard, str(error), f"frame {key}") from error


def damaged(path: str, why: str, part: str = "") -> StoreError:
    """The error of training data that are not what was written.

    Args:
        path: of the file: a shard, its index or a file about all shards. why: what is wrong. part: of the file, in words.
    """
    folder, _, name = path.rpartition("/")
    # Whatever is written anew is told by the description that is gone: a shard's, or that of the whole set.
    stem = name.removesuffix(".parquet").removesuffix(".index").removesuffix(".tar")
    description = MANIFEST if name in (MANIFEST, SEGMENTS) else f"{stem}.json" if stem else "the shard's .json"
    return StoreError(
        "shard_damaged",
        f"Training data are damaged: {', '.join(filter(None, (path, part)))}: {why}.",
        f"Delete {f'{folder}/{description}' if folder else description} and give the command `headswap dataset prepare` again:"
        " what it describes is written anew.",
    )


def encode_picture(picture: Pixels, kind: PictureFormat, quality: int = 95) -> bytes:
    """JPEG or PNG of a picture, uint8 [h, w] or [h, w, 3] RGB."""
    options = [cv2.IMWRITE_PNG_COMPRESSION, 3]
    if kind == "jpg":
        options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    ordered = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(f".{kind}", np.ascontiguousarray(ordered), options)
    if not done:
        raise ValueError(f"OpenCV could not encode a picture of shape {list(picture.shape)}")
    return data.tobytes()


def decode_picture(data: bytes) -> Pixels:
    """uint8 [h, w] or [h, w, 3] RGB; ValueError where it is no picture."""
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise ValueError("a picture cannot be decoded")
    return np.asarray(picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


# ------------------------------------------------------------------------------------------------------------ files


def suffix_of(kind: ShardFormat) -> str:
    return ".tar" if kind == "webdataset" else ".parquet"


def write_shard(
    path: Path, records: Iterable[FrameRecord], kind: ShardFormat, pictures: PictureFormat = "jpg", quality: int = 95
) -> pa.Table:
    """Write a shard, bit for bit the same for the same records; holds a row group of frames at a time.

    Returns:
        Its index: one row per frame with key, clip, person, frame, segment and, by field, ``offset_`` and ``bytes_`` in a tar
        (-1 and 0 where the field is missing) or ``row`` in Parquet, and whether there is a ``reference``.
    """
    encoded = ((record, encode_frame(record, pictures, quality)) for record in records)
    rows = list(_write_tar(path, encoded, pictures) if kind == "webdataset" else _write_parquet(path, encoded))
    return pa.Table.from_pylist(rows, schema=index_schema(kind))


def index_schema(kind: ShardFormat) -> pa.Schema:
    places = (
        [pa.field(f"{what}_{name}", pa.int64(), nullable=False) for name in FIELDS for what in ("offset", "bytes")]
        if kind == "webdataset"
        else [pa.field("row", pa.int64(), nullable=False)]
    )
    text = [pa.field(name, pa.string(), nullable=False) for name in ("key", "clip", "person")]
    numbers = [pa.field(name, pa.int32(), nullable=False) for name in ("frame", "segment")]
    return pa.schema([*text, *numbers, pa.field("reference", pa.bool_(), nullable=False), *places])


SEGMENTS_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("clip", pa.string(), nullable=False),
        pa.field("person", pa.string(), nullable=False),
        pa.field("start", pa.int32(), nullable=False),
        pa.field("stop", pa.int32(), nullable=False),
        pa.field("references", pa.list_(pa.field("item", pa.int32(), nullable=False)), nullable=False),
    ]
)
"""Rows ``start <= row < stop`` of a shard's index are consecutive frames; ``references``: those rows with a reference picture."""


def segments_of(shard: str, index: pa.Table) -> list[dict[str, Any]]:
    """The segments of a shard, by ``SEGMENTS_SCHEMA``, from its index."""
    clips, people = index["clip"].to_pylist(), index["person"].to_pylist()
    numbers, references = index["segment"].to_numpy(), index["reference"].to_numpy(zero_copy_only=False)
    found: list[dict[str, Any]] = []
    start = 0
    for row in range(1, len(clips) + 1):
        if row == len(clips) or (clips[row], numbers[row]) != (clips[start], numbers[start]):
            with_picture = [start + int(place) for place in np.flatnonzero(references[start:row])]
            one = {"shard": shard, "clip": clips[start], "person": people[start], "start": start, "stop": row}
            found.append({**one, "references": with_picture})
            start = row
    return found


def _row(record: FrameRecord) -> dict[str, Any]:
    return {
        "key": record.key,
        "clip": record.clip,
        "person": record.person,
        "frame": record.frame,
        "segment": record.segment,
        "reference": record.reference is not None,
    }


def _write_tar(
    path: Path, encoded: Iterable[tuple[FrameRecord, dict[str, bytes]]], pictures: PictureFormat
) -> Iterator[dict[str, Any]]:
    suffixes = {"picture": f"picture.{pictures}", "background": f"background.{pictures}", "reference": f"reference.{pictures}"}
    suffixes |= {"labels": "labels.png", "landmarks": "landmarks.npy", "facts": "json"}
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for record, fields in encoded:
            row = _row(record)
            for name in FIELDS:
                data = fields.get(name, b"")
                row[f"offset_{name}"], row[f"bytes_{name}"] = (tar.offset + tarfile.BLOCKSIZE if data else -1), len(data)
                if data:
                    member = tarfile.TarInfo(f"{record.key}.{suffixes[name]}")  # time 0, nobody's: the same on every machine
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
            yield row


def _write_parquet(path: Path, encoded: Iterable[tuple[FrameRecord, dict[str, bytes]]]) -> Iterator[dict[str, Any]]:
    schema = pa.schema(
        [("key", pa.string()), *((name, pa.binary()) for name in FIELDS if name != "facts"), ("facts", pa.string())]
    )
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        group: list[dict[str, Any]] = []
        for number, (record, fields) in enumerate(encoded):
            group.append({"key": record.key, **{name: fields.get(name) for name in FIELDS}, "facts": fields["facts"].decode()})
            if len(group) == ROW_GROUP:
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                group = []
            yield {**_row(record), "row": number}
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
