"""Read the frames of a clip as RGB: decord first, PyAV for what decord does not read exactly or in bounded memory.

Frame pixels are those of the display orientation. Both decoders convert with the matrix and range that the file's colour
tags name (BT.601 where there is none), by FFmpeg's scaler, and give the same bytes for 8-bit video. For 4:2:0 that scaler
repeats chroma samples and rounds down (1 to 1.5 of 255 darker than exact arithmetic): good for analysis, while compositing
works on the coded planes (``stages.video.native``).

What speaks against decord 0.6.0, all measured: while its decoding thread waits for a core it reads on, and decodes and keeps
everything it has read, in the end the whole file; after a seek to a key frame that is no IDR picture it returns a wrong frame;
where a damaged packet gives no picture it counts one too few; pictures of odd size in 4:2:0 and more than 8 bits come out
otherwise. So it gets intact 8-bit clips with closed groups that fit into memory as a whole. PyAV is as fast.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

import numpy as np
from av.video.frame import VideoFrame

from schemas.problems import MediaError
from stages.video import decord_library as decord
from stages.video.facts import AudioFacts, Limits, StreamFacts, check_file
from stages.video.index import DECODE_THREADS, VideoIndex, video_index
from stages.video.native import native_frames
from stages.video.pictures import is_picture, leaves_out, read_picture
from stages.video.view import ArrayView, CodedView, FrameView

__all__ = ["AudioFacts", "ClipReader", "Limits", "StreamFacts", "open_clip", "probe", "read_picture", "timestamps"]

PICTURE_TIME_BASE = Fraction(1, 25)
"""Of a still picture: a clip of one frame that lasts one unit."""

_DECORD_CODECS = frozenset({"h264", "hevc", "mpeg4", "vp9"})
_DECORD_FORMATS = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"})
_SEEK_DISTANCE = 24
"""Frames that are decoded and dropped rather than sought over, when reading ahead."""

_TIMES_AT_ONCE = 256
_DECORD_BYTES = 256 * 2**20
"""Of a whole clip's decoded pictures, which decord may come to hold at once."""


class _Source(Protocol):
    """Random access to the frames of one video."""

    def view(self, frame: int) -> FrameView: ...

    def views(self, frames: Sequence[int]) -> Iterator[FrameView]: ...

    def close(self) -> None: ...


class ClipReader:
    """The frames of one clip as uint8 [height, width, 3] RGB. A context manager; made by ``open_clip``.

    Attributes:
        frames: number of frames; 1 for a still picture.
        width, height: display orientation, pixels.
        decoder: ``"decord"``, ``"pyav"`` or ``"pillow"``.
    """

    def __init__(self, path: Path, frames: int, width: int, height: int, decoder: str, source: _Source) -> None:
        self.path = path
        self.frames = frames
        self.width = width
        self.height = height
        self.decoder = decoder
        self._source = source

    def read(self, frame: int) -> np.ndarray:
        """One frame. Reading in ascending order is cheap; anything else seeks to a key frame first."""
        return self.view(frame).rgb()

    def view(self, frame: int) -> FrameView:
        """One frame, to be converted as far as it is looked at; the same order is cheap."""
        if not 0 <= frame < self.frames:
            raise IndexError(f"{self.path} has frames 0 to {self.frames - 1}, not {frame}")
        return self._source.view(frame)

    def read_many(self, frames: Sequence[int]) -> np.ndarray:
        """uint8 [len(frames), height, width, 3], in the order asked for."""
        pictures = np.empty((len(frames), self.height, self.width, 3), np.uint8)
        for position in np.argsort(np.asarray(frames, np.int64), kind="stable"):
            pictures[position] = self.read(int(frames[position]))
        return pictures

    def iterate(self, frames: range | None = None, step: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """Every ``step``-th of ``frames`` (all by default) with its number, in flat memory."""
        for frame in (frames if frames is not None else range(self.frames))[::step]:
            yield frame, self.read(frame)

    def iterate_views(self, frames: Sequence[int]) -> Iterator[tuple[int, FrameView]]:
        """Views of ``frames``, best in ascending order; what lies between is decoded only as far as it must be.

        Each holds its frame in memory for as long as it is kept.
        """
        if len(frames) and (min(frames) < 0 or max(frames) >= self.frames):
            raise IndexError(f"{self.path} has frames 0 to {self.frames - 1}, not {min(frames)} to {max(frames)}")
        yield from zip(frames, self._source.views(frames), strict=True)

    def close(self) -> None:
        self._source.close()

    def __len__(self) -> int:
        return self.frames

    def __enter__(self) -> ClipReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_clip(path: Path, *, limits: Limits | None = None, decoder: Literal["decord", "pyav"] | None = None) -> ClipReader:
    """Open a video or a still picture.

    Args:
        path: local file.
        limits: what is refused; the defaults are generous.
        decoder: forces one of the two video decoders; by default decord where it is exact and bounded, else PyAV.

    Raises:
        MediaError: file_missing, file_empty, not_media, no_frames, unsupported, too_large.
    """
    path = Path(path)
    limits = limits or Limits()
    check_file(path, limits)
    if is_picture(path):
        picture, _ = read_picture(path, limits)
        return ClipReader(path, 1, picture.shape[1], picture.shape[0], "pillow", _StillSource(picture))
    index = video_index(path, limits)
    source: _Source | None = None
    if decoder != "pyav" and (decoder == "decord" or _suits_decord(index)):
        source = _open_decord(path, index)
        if source is None and decoder == "decord":
            raise MediaError("unsupported", f"decord cannot read {path}.", "Leave the choice of the decoder open.")
    name = "pyav" if source is None else "decord"
    return ClipReader(path, index.frames, index.width, index.height, name, source or _AvSource(path, index))


def timestamps(path: Path, limits: Limits | None = None) -> tuple[np.ndarray, np.ndarray, Fraction]:
    """int64 [frames] presentation timestamps and durations of a clip, and the time base that they count in."""
    if is_picture(path):
        return np.zeros(1, np.int64), np.ones(1, np.int64), PICTURE_TIME_BASE
    index = video_index(path, limits)
    return index.pts, index.duration, index.time_base


def probe(path: Path, limits: Limits | None = None) -> StreamFacts:
    """Describe a clip. Raises ``MediaError`` like ``open_clip``."""
    path = Path(path)
    with open_clip(path, limits=limits) as reader:
        if reader.decoder == "pillow":
            return _picture_facts(path, reader.width, reader.height)
        decoder = reader.decoder
    index = video_index(path, limits)
    return StreamFacts(
        kind="video",
        codec=index.codec,
        container=index.container,
        coded_width=index.coded_width,
        coded_height=index.coded_height,
        width=index.width,
        height=index.height,
        rotation=index.rotation,
        fps=str(index.frame_rate),
        time_base=str(index.time_base),
        pixel_format=index.pixel_format,
        bit_depth=index.bit_depth,
        color_range=index.color_range,
        color_space=index.color_space,
        color_primaries=index.color_primaries,
        color_transfer=index.color_transfer,
        sample_aspect_ratio=str(index.sample_aspect_ratio),
        frames=index.frames,
        seconds=index.seconds,
        start_pts=int(index.pts[0]),
        variable_frame_rate=index.variable_frame_rate,
        truncated=index.truncated,
        decoder=decoder,
        audio=index.audio,
        ignored_streams=index.ignored_streams,
        notes=index.notes,
    )


class _StillSource:
    def __init__(self, picture: np.ndarray) -> None:
        self._picture = picture

    def view(self, frame: int) -> FrameView:
        del frame
        return ArrayView(self._picture.copy())

    def views(self, frames: Sequence[int]) -> Iterator[FrameView]:
        return (self.view(frame) for frame in frames)

    def close(self) -> None:
        self._picture = np.empty((0, 0, 3), np.uint8)


class _AvSource:
    """Frames through PyAV: reading ahead decodes on, anything else seeks."""

    def __init__(self, path: Path, index: VideoIndex) -> None:
        self._path = path
        self._index = index
        self._frames: Iterator[tuple[int, VideoFrame]] | None = None
        self._number = -1
        self._last: VideoFrame | None = None
        self._only: frozenset[int] | None = None
        """The frames that are being decoded, where it is not all."""

    def views(self, frames: Sequence[int]) -> Iterator[FrameView]:
        only = frozenset(frames)
        return (self._view(frame, only) for frame in frames)

    def view(self, frame: int) -> FrameView:
        return self._view(frame, None)

    def _view(self, frame: int, only: frozenset[int] | None) -> FrameView:
        ahead = frame - self._number
        left_out = self._only is not None and self._only != only
        if self._frames is None or left_out or ahead < 0 or (ahead > _SEEK_DISTANCE and self._key_between(frame)):
            self._frames = native_frames(self._path, range(frame, self._index.frames), only=only)
            self._last, self._only = None, only
        while self._last is None or self._number < frame:
            self._number, self._last = next(self._frames)
        return CodedView(self._last, self._index.rotation)

    def _key_between(self, frame: int) -> bool:
        keys = self._index.keys
        return bool(np.any((keys > self._index.pts[self._number]) & (keys <= self._index.pts[frame])))

    def close(self) -> None:
        self._frames = None
        self._last = None


class _DecordSource:
    """Frames through decord.

    decord counts the pictures it gets: where a damaged packet gives none, it is one behind from there on. So it is sent
    to every key frame by a seek, which makes it count anew; what it refuses altogether is read by PyAV.
    """

    def __init__(self, reader: decord.VideoReader, path: Path, index: VideoIndex) -> None:
        self._reader: decord.VideoReader | None = reader
        self._path = path
        self._index = index
        self._keys = set(np.searchsorted(index.pts, index.keys).tolist())
        self._instead: _AvSource | None = None

    def view(self, frame: int) -> FrameView:
        if self._instead is not None:
            return self._instead.view(frame)
        if self._reader is None:
            raise ValueError("the clip is closed")
        try:
            if frame in self._keys:
                self._reader.seek(frame)
            picture: np.ndarray = self._reader[frame].asnumpy()
        except (decord.DECORDError, IndexError, RuntimeError):
            self._reader = None
            self._instead = _AvSource(self._path, self._index)
            return self._instead.view(frame)
        return ArrayView(picture)

    def views(self, frames: Sequence[int]) -> Iterator[FrameView]:
        return (self.view(frame) for frame in frames)

    def close(self) -> None:
        self._reader = None  # decord frees its buffers with the object
        self._instead = None


def _suits_decord(index: VideoIndex) -> bool:
    """What decord was verified to read bit for bit like PyAV, with the same numbering, and can hold."""
    return (
        index.plain
        and index.frames * index.width * index.height * 3 <= _DECORD_BYTES
        and index.closed_groups
        and index.codec in _DECORD_CODECS
        and index.pixel_format in _DECORD_FORMATS
        and (index.coded_width % 2 == index.coded_height % 2 == 0 or "444" in index.pixel_format)
        and (index.rotation == 0 or "mp4" in index.container)
    )


def _open_decord(path: Path, index: VideoIndex) -> _DecordSource | None:
    """None where decord cannot open the file or counts or times its frames in another way."""
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=DECODE_THREADS)
        count = len(reader)
        if count != index.frames or reader[0].shape != (index.height, index.width, 3):
            return None
        # In blocks: decord takes several kilobytes for each frame that it is asked about at once.
        blocks = [range(start, min(start + _TIMES_AT_ONCE, count)) for start in range(0, count, _TIMES_AT_ONCE)]
        starts = np.concatenate([np.asarray(reader.get_frame_timestamp(block), np.float64)[:, 0] for block in blocks])
    except (decord.DECORDError, RuntimeError):
        return None
    expected = (index.pts - index.pts[0]) * float(index.time_base)
    # float32 seconds in decord
    if not np.allclose(starts - starts[0], expected, rtol=1e-6, atol=max(1e-4, 0.51 * float(index.time_base))):
        return None
    return _DecordSource(reader, path, index)


def _picture_facts(path: Path, width: int, height: int) -> StreamFacts:
    return StreamFacts(
        kind="picture",
        codec=path.suffix.lstrip(".").lower(),
        container="picture",
        coded_width=width,
        coded_height=height,
        width=width,
        height=height,
        rotation=0,
        fps=str(1 / PICTURE_TIME_BASE),
        time_base=str(PICTURE_TIME_BASE),
        pixel_format="rgb24",
        bit_depth=8,
        color_range=2,
        color_space=0,
        color_primaries=1,
        color_transfer=13,
        sample_aspect_ratio="1",
        frames=1,
        seconds=float(PICTURE_TIME_BASE),
        start_pts=0,
        variable_frame_rate=False,
        truncated=False,
        decoder="pillow",
        notes=tuple(note for note in (leaves_out(path),) if note),
    )
