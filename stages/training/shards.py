"""Training samples from prepared shards (``headswap dataset prepare``): any window by its number, through the shards' indexes."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.dataset import ClipUse, for_both_splits
from schemas.places import WRONG_OPTIONS
from schemas.problems import StoreError, UsageError
from stages.networks.label_maps import shrunk_labels as shrunk_labels
from stages.training.augmentation import (
    COMPOSITION,
    FOREIGN_REFERENCES,
    Augmentation,
    Window,
    block_filled,
    compose,
    draw,
    soft_person,
)
from stages.training.hair_bank import long_hair
from stages.training.recent import Recent
from stages.training.samples import TrainingSample
from stages.training.shard_format import (
    FIELDS,
    MANIFEST,
    ROW_GROUP,
    SEGMENTS,
    VERSION,
    FrameRecord,
    damaged,
    decode_frame,
    suffix_of,
)

Split = Literal["train", "validation"]

INDEXES = 64
"""Indexes of shards that are kept in memory, a few hundred kilobytes each."""

APART = 15
"""Frames between a window and a reference of the same clip, where the clip has one so far away: neighbours look alike, and what a
network could copy from them it is not given at work."""


@dataclass(frozen=True)
class _Segment:
    """A run of consecutive frames: rows ``start <= row < stop`` of the index of the shard with this name."""

    shard: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


class ShardSamples:
    """Numbered training samples of a prepared data set: a ``stages.training.samples.SampleSource``.

    A person is drawn first, so that somebody with hours of video does not count more than somebody with minutes, then a window of
    the person's, a reference from another clip of the person or another frame of the same clip, and the augmentation.

    Args:
        url: folder or fsspec URL of the data set. split: ``train`` or ``validation``. seed: of what is drawn.
        size: side of the crops, a multiple of 32; as prepared by default, smaller ones are made by shrinking.
        augmentation: how foreground and cloth are varied (``stages.training.augmentation``).
        foreign_references: share of samples, 0..1, whose reference is from another clip of the person in the split, where there
            is one. In the rest it is from another frame of the same clip, as in the paper, ``APART`` from the window where there
            is one. Default: ``FOREIGN_REFERENCES`` to train on, none to validate with.
        storage_options: for the URL's file system.

    Raises:
        UsageError: no data set, one of another version, a split without frames, or a size larger than prepared.
        StoreError: ``shard_damaged``, ``store_unreachable``.
        ValueError: a share that is none.
    """

    def __init__(
        self,
        url: str,
        split: Split = "train",
        *,
        seed: int = 0,
        size: int | None = None,
        augmentation: Augmentation | None = None,
        foreign_references: float | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.url, self.split, self.seed = url, split, seed
        self.augmentation = augmentation or Augmentation()
        usual = FOREIGN_REFERENCES if split == "train" else 0.0
        self.foreign_references = usual if foreign_references is None else foreign_references
        if not 0 <= self.foreign_references <= 1:
            raise ValueError(f"the share of references from other clips must lie between 0 and 1, not {foreign_references}")
        try:
            self._system, self._root = fsspec.core.url_to_fs(url, **dict(storage_options or {}))
        except (ValueError, ImportError) as error:
            raise UsageError([f"The data set {url} cannot be read: {error}."], "Give a folder or a URL.") from error
        except TypeError as error:
            raise _wrong_options(url, error) from error
        self.manifest, self._prepared = self._read_manifest()
        self._format = self.manifest["format"]
        prepared = int(self.manifest["size"])
        self.size = size or prepared
        if self.size > prepared or self.size % 32:
            raise UsageError(
                [f"Samples of {self.size} pixels cannot be made of {url}, which was prepared with {prepared}."],
                f"Ask for {prepared} pixels or fewer, a multiple of 32, or prepare it again with a larger --size.",
            )
        self._indexes: Recent[dict[str, list[Any]]] = Recent(INDEXES)
        self._segments: dict[str, list[_Segment]] = {}
        self._references: dict[str, dict[str, list[tuple[str, int]]]] = {}
        for row in self._read_segments():
            self._segments.setdefault(row["person"], []).append(_Segment(row["shard"], row["start"], row["stop"]))
            clips = self._references.setdefault(row["person"], {})
            clips.setdefault(row["clip"], []).extend((row["shard"], place) for place in row["references"])
        self.people = tuple(sorted(self._segments))
        self._suitable: dict[int, tuple[str, ...]] = {}
        if not self.people:
            raise UsageError([f"The data set {url} has no frames in its split '{split}'."], self._more_frames())

    @property
    def digest(self) -> str:
        """Of all that decides the samples but for seed and size, 24 hex digits."""
        told = [self._prepared, self.split, repr(self.augmentation), self.foreign_references, COMPOSITION]
        return hashlib.blake2b(json.dumps(told).encode(), digest_size=12).hexdigest()

    @property
    def longest(self) -> int:
        """Frames of the longest window that can be cut from the split."""
        return max(len(segment) for segments in self._segments.values() for segment in segments)

    @property
    def rights(self) -> tuple[str, ...]:
        """On what grounds clips of the data set that gave frames may be used, each once, sorted; of both splits.

        Words that were given for the source of a swap, of which the clip is the target, say so.
        """
        of_others = {"source": " (said of the source of a swap; this clip is its target)"}
        used = [clip for clip in self.manifest.get("clips", ()) if clip.get("used")]
        return tuple(sorted({clip["rights"] + of_others.get(clip.get("rights_said_of"), "") for clip in used}))

    def no_window(self, frames: int) -> UsageError:
        """The error of windows that are longer than any run of frames."""
        return UsageError(
            [f"The data set {self.url} has no {frames} consecutive frames in its split '{self.split}', only {self.longest}."],
            f"Prepare longer clips, with --parameter shortest_segment={frames} and longest_segment at least as long, or train by"
            " a recipe with shorter windows.",
        )

    @property
    def frames(self) -> int:
        """How many frames the split has."""
        return sum(len(segment) for segments in self._segments.values() for segment in segments)

    def sample(self, number: int, frames: int) -> TrainingSample:
        """The sample with this number as a window of ``frames`` frames; UsageError where no segment is that long."""
        rng = np.random.default_rng([self.seed, number, frames, 23])
        people = self._people_with(frames)
        segments = [segment for segment in self._segments[people[int(rng.integers(len(people)))]] if len(segment) >= frames]
        starts = np.cumsum([len(segment) - frames + 1 for segment in segments])
        place = int(rng.integers(starts[-1]))
        which = int(np.searchsorted(starts, place, side="right"))
        segment = segments[which]
        start = segment.start + place - (int(starts[which - 1]) if which else 0)
        records = self.read(segment.shard, range(start, start + frames))
        reference = self._reference(records[0], segment.shard, range(start, start + frames), rng)
        drawn = draw(self.augmentation, long_hair(), rng)
        window = window_of(records, self.size)
        if drawn.filled:
            window = block_filled(window, int(rng.integers(2**31)))
        return compose(window, reference, drawn)

    def _people_with(self, frames: int) -> tuple[str, ...]:
        if frames not in self._suitable:
            longest = {person: max(map(len, segments)) for person, segments in self._segments.items()}
            self._suitable[frames] = tuple(person for person in self.people if longest[person] >= frames)
        if not self._suitable[frames]:
            raise self.no_window(frames)
        return self._suitable[frames]

    def _reference(self, first: FrameRecord, shard: str, window: range, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """A head on white, uint8 [size, size, 3], for a window of rows of a shard that begins with this frame."""
        clips = self._references[first.person]
        known = clips.get(first.clip, [])
        if not known:
            raise damaged(f"{self._root}/{shard}", "it has no reference picture", f"clip {first.clip}")
        others = sorted(clip for clip, places in clips.items() if places and clip != first.clip)
        if others and rng.uniform() < self.foreign_references:
            chosen = clips[others[int(rng.integers(len(others)))]]
        else:
            chosen = self._apart(known, shard, window)
        shard, row = chosen[int(rng.integers(len(chosen)))]
        (record,) = self.read(shard, range(row, row + 1))
        if record.reference is None:
            raise damaged(f"{self._root}/{shard}", "its reference picture is missing", f"frame {record.key}")
        return shrunk(record.reference, self.size)

    def _apart(self, known: list[tuple[str, int]], shard: str, window: range) -> list[tuple[str, int]]:
        """Of a clip's references those ``APART`` from a window of rows of a shard; without any those outside of it, else all.

        Those in other shards count as far away: to know better, their indexes would have to be read.
        """
        frames = self._index(shard)["frame"]
        first, last = frames[window.start], frames[window.stop - 1]

        def away(place: tuple[str, int], least: int) -> bool:
            return place[0] != shard or not first - least < frames[place[1]] < last + least

        for least in (APART, 1):
            if found := [place for place in known if away(place, least)]:
                return found
        return known

    def read(self, shard: str, rows: range) -> list[FrameRecord]:
        """Frames of a shard, given by name, as they were written, in order; ``rows`` consecutive."""
        path = f"{self._root}/{shard}"
        index = self._index(shard)
        keys = index["key"][rows.start : rows.stop]
        fields = self._from_tar(path, index, rows) if self._format == "webdataset" else self._from_parquet(path, rows)
        return [decode_frame(key, found, path) for key, found in zip(keys, fields, strict=True)]

    def _from_tar(self, path: str, index: Mapping[str, list[Any]], rows: range) -> list[dict[str, bytes]]:
        places = [
            {name: (index[f"offset_{name}"][row], index[f"bytes_{name}"][row]) for name in FIELDS if index[f"bytes_{name}"][row]}
            for row in rows
        ]
        # Frames of a window lie one after another: one request for all of them.
        first = min(offset for found in places for offset, _ in found.values())
        last = max(offset + size for found in places for offset, size in found.values())
        data = self._cat(path, first, last)
        if len(data) != last - first:
            raise damaged(path, "the file is shorter than its index says")
        return [{name: data[at - first : at - first + size] for name, (at, size) in found.items()} for found in places]

    def _from_parquet(self, path: str, rows: range) -> list[dict[str, bytes]]:
        try:
            with self._system.open(path, "rb") as file:
                groups = range(rows.start // ROW_GROUP, (rows.stop - 1) // ROW_GROUP + 1)
                table = pq.ParquetFile(file).read_row_groups(list(groups)).slice(rows.start - groups.start * ROW_GROUP, len(rows))
        except (OSError, pa.ArrowException, ValueError) as error:
            raise damaged(path, str(error)) from error
        return [
            {name: value.encode() if isinstance(value, str) else value for name, value in row.items() if value is not None}
            for row in table.to_pylist()
        ]

    def _cat(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        try:
            return bytes(self._system.cat_file(path, start=start, end=end))
        except FileNotFoundError as error:
            raise damaged(path, "the file is missing") from error
        except OSError as error:
            raise StoreError("store_unreachable", f"{path} cannot be read: {error}", "Try again.", retryable=True) from error

    def _read_manifest(self) -> tuple[dict[str, Any], str]:
        """The description of the data set and its digest, 32 hex digits."""
        path = f"{self._root}/{MANIFEST}"
        try:
            is_there = self._system.exists(path)
        except TypeError as error:  # of a web server, which is asked only now
            raise _wrong_options(self.url, error) from error
        if not is_there:
            raise UsageError(
                [f"There is no finished data set in {self.url}: {MANIFEST} is missing."],
                "Make one: headswap dataset prepare CATALOGUE --store URL --out URL",
            )
        try:
            data = self._cat(path)
            found = json.loads(data)
            version = found["format_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(path, f"it is no description of a data set ({error})") from error
        if version != VERSION:
            raise UsageError(
                [f"The data set {self.url} has format version {version}; this program reads {VERSION}."],
                "Prepare it again with this version: headswap dataset prepare CATALOGUE --store URL --out URL",
            )
        # It holds parameters, clips and digests of all shards, and the same command writes the same bytes.
        return dict(found), hashlib.blake2b(data, digest_size=16).hexdigest()

    def _more_frames(self) -> str:
        """What to do where the split has no frames."""
        clips = [
            ClipUse(clip["id"], clip.get("person") or clip["id"], bool(clip.get("used")))
            for clip in self.manifest.get("clips", ())
        ]
        if any(clip.used for clip in clips):
            return (
                f"For frames in both splits {for_both_splits(clips)}. Why frames were left out stands in {MANIFEST}; where clips"
                " are short, a smaller --parameter shortest_segment keeps more."
            )
        larger = "larger" if self.split == "validation" else "smaller"
        return (
            f"Prepare it again with a {larger} share of people kept for validation, for example --parameter validation=0.2"
            " (who is kept follows a hash, so few people may need another share), and where clips are short with a smaller"
            " --parameter shortest_segment."
        )

    def _read_segments(self) -> list[dict[str, Any]]:
        shards = {shard["name"] for shard in self.manifest["splits"].get(self.split, {}).get("shards", [])}
        return [row for row in self._read_table(f"{self._root}/{SEGMENTS}").to_pylist() if row["shard"] in shards]

    def _index(self, shard: str) -> dict[str, list[Any]]:
        return self._indexes.get(shard, lambda: self._read_index(shard))

    def _read_index(self, shard: str) -> dict[str, list[Any]]:
        name = f"{shard.removesuffix(suffix_of(self._format))}.index.parquet"
        return dict(self._read_table(f"{self._root}/{name}").to_pydict())

    def _read_table(self, path: str) -> pa.Table:
        try:
            return pq.read_table(io.BytesIO(self._cat(path)))
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, str(error)) from error


def _wrong_options(url: str, error: TypeError) -> UsageError:
    return UsageError(
        [f"The data set {url} cannot be read with these options: {error}."],
        WRONG_OPTIONS,
    )


def window_of(records: Sequence[FrameRecord], size: int) -> Window:
    """Frames as a window of crops of ``size`` pixels; the person's opacity is that of the label maps, softened at the border."""
    factor = size / records[0].labels.shape[0]
    labels = np.stack([shrunk_labels(record.labels, size) for record in records])
    shoulders = np.stack([record.shoulders for record in records]) * np.array([factor, factor, 1], np.float32)
    return Window(
        pictures=np.stack([shrunk(record.picture, size) for record in records]),
        backgrounds=np.stack([shrunk(record.background, size) for record in records]),
        labels=labels,
        opacity=np.stack([soft_person(one) for one in labels]),
        landmarks=np.stack([record.landmarks for record in records]) * np.float32(factor),
        shoulders=shoulders.astype(np.float32),
        person=records[0].person,
        frame_numbers=tuple(record.frame for record in records),
    )


def shrunk(picture: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """A picture averaged over the areas of ``size`` x ``size`` pixels."""
    if picture.shape[0] == size:
        return picture
    return np.asarray(cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
