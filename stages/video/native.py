"""Frames as they are coded: the planes, pixel format and orientation of the file."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from schemas.problems import MediaError
from stages.video.facts import Limits
from stages.video.index import ANIMATIONS, VideoIndex, decode_packets, open_container, picture_stream, video_index
from stages.video.pictures import on_white

_NEIGHBOURS = 2
"""Frames before the first one wanted that are decoded whatever they are: they take its place where it is damaged."""


def frame_at(index: VideoIndex, pts: int) -> int | None:
    """Number of the frame with this timestamp, None where there is none."""
    position = int(np.searchsorted(index.pts, pts))
    return position if position < index.frames and index.pts[position] == pts else None


def native_frames(
    path: Path, frames: range | None = None, *, only: Collection[int] | None = None, limits: Limits | None = None
) -> Iterator[tuple[int, VideoFrame]]:
    """Decoded frames in the coded pixel format and orientation, with their exact numbers, in ascending order.

    A frame that is damaged in the file is replaced by the one before it (the next one at the start), so that every number
    asked for is there; the same object is then given again. Frames of formats without luma and chroma planes (RGB, palettes)
    come as yuv444p, those of animations on white where they are transparent. Memory is that of a few frames.

    Args:
        only: of ``frames``, those that are needed, where it is not all: only they are given, and others are decoded only as far
            as these depend on them.
    """
    index = video_index(Path(path), limits)
    wanted = frames if frames is not None else range(index.frames)
    if not len(wanted):
        return
    if wanted.start < 0 or wanted.stop > index.frames or wanted.step != 1:
        raise IndexError(f"{path} has frames 0 to {index.frames - 1}, not {wanted}")
    last = given = None
    for number, frame in _decode_run(Path(path), index, wanted, None if only is None else frozenset(only)):
        if only is None or number in only:
            if frame is not last:
                last = given = frame
                if index.codec in ANIMATIONS:
                    given = without_transparency(given)
                if plane_format(given.format.name) is None:
                    given = in_planes(given)
            assert given is not None
            yield number, given


def _spare(index: VideoIndex, wanted: range, only: frozenset[int] | None) -> Callable[[int], bool] | None:
    """Which timestamps are not needed. In a file that may be damaged all are: a neighbour then takes a picture's place."""
    if not index.plain:
        return None
    first = int(index.pts[max(wanted.start - _NEIGHBOURS, 0)])
    needed = None if only is None else {int(index.pts[number]) for number in only}
    return lambda pts: pts < first or (needed is not None and pts not in needed)


def _decode_run(
    path: Path, index: VideoIndex, wanted: range, only: frozenset[int] | None = None
) -> Iterator[tuple[int, VideoFrame]]:
    with open_container(path) as container:
        stream = picture_stream(container, path)
        upcoming = wanted.start
        previous: VideoFrame | None = None
        for frame in _from_frame(path, index, wanted.start, container, stream, _spare(index, wanted, only)):
            number = frame_at(index, frame.pts) if frame.pts is not None else None
            if number is None or number < upcoming:
                previous = frame if number is not None else previous
                continue
            while upcoming < min(number, wanted.stop):  # damaged: repeat the neighbour
                yield upcoming, previous if previous is not None else frame
                upcoming += 1
            if upcoming >= wanted.stop:
                return
            yield number, frame
            previous = frame
            upcoming = number + 1
            if upcoming >= wanted.stop:
                return
        if previous is None:
            raise MediaError(
                "damaged", f"Frames {wanted.start} to {wanted.stop - 1} of {path} cannot be decoded.", "Copy the file again."
            )
        for number in range(upcoming, wanted.stop):
            yield number, previous


def _from_frame(
    path: Path,
    index: VideoIndex,
    first: int,
    container: InputContainer,
    stream: VideoStream,
    spare: Callable[[int], bool] | None,
) -> Iterator[VideoFrame]:
    """Pictures from a key frame at or before ``first`` on; from an earlier one where the decoder started too late."""
    target = int(index.pts[first])
    candidates = [int(key) for key in index.keys[index.keys <= target][-2:][::-1] if key > index.pts[0]]
    for key in candidates:
        try:
            container.seek(key, stream=stream, backward=True)
        except av.error.FFmpegError:
            break
        frames = decode_packets(container, stream, spare)
        start = next(frames, None)
        if start is not None and start.pts is not None and start.pts <= target:
            yield start
            yield from frames
            return
    with open_container(path) as fresh:
        yield from decode_packets(fresh, picture_stream(fresh, path), spare)


# Kr and Kb by the number of the matrix (ITU-T H.273, table 4). Unspecified (2) is read as BT.601, which is what FFmpeg's scaler
# and with it every reader of this package does: the crops that come back must meet the same matrix that they were read with.
_LUMA_WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
_BT601 = (0.299, 0.114)
_FULL_RANGE = 2

PLANES_OF_RGB = (5, 1)
"""Matrix (BT.601) and range (limited) of planes made from RGB: pictures, and videos that store no luma and chroma."""

_Box = tuple[int, int, int, int]
"""Left, top, right, bottom in coded pixels, half open."""


@dataclass(frozen=True)
class PlaneFormat:
    """How a planar pixel format stores luma and chroma. ``shift_x``, ``shift_y``: log2 of the chroma subsampling."""

    bits: int
    shift_x: int
    shift_y: int
    grey: bool = False

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8 if self.bits == 8 else "<u2")


def plane_format(pixel_format: str) -> PlaneFormat | None:
    """None for formats without separate luma and chroma planes (RGB, palettes, packed ones)."""
    match = re.fullmatch(r"yuva?j?(420|422|440|444)p(?:(9|10|12|14|16)le)?", pixel_format)
    if match:
        shifts = {"420": (1, 1), "422": (1, 0), "440": (0, 1), "444": (0, 0)}[match[1]]
        return PlaneFormat(int(match[2] or 8), *shifts)
    match = re.fullmatch(r"gray(?:(9|10|12|14|16)le)?", pixel_format)
    return PlaneFormat(int(match[1] or 8), 0, 0, grey=True) if match else None


def planes(frame: VideoFrame) -> list[np.ndarray]:
    """Views of the luma and chroma planes, [rows, columns] each: writing to them changes the frame.

    Raises:
        MediaError: unsupported, where the pixel format has no such planes (``native_frames`` never gives such a frame).
    """
    layout = plane_format(frame.format.name)
    if layout is None:
        raise MediaError(
            "unsupported", f"The pixel format {frame.format.name} has no luma and chroma planes.", "Convert the video to yuv420p."
        )
    views = []
    for plane in frame.planes[: 1 if layout.grey else 3]:
        rows = np.frombuffer(memoryview(plane), dtype=layout.dtype).reshape(
            plane.height, plane.line_size // layout.dtype.itemsize
        )
        views.append(rows[:, : plane.width])
    return views


class NativeWindow:
    """Conversion of one window between the coded planes and RGB, with the frame's own matrix, range and bit depth.

    Chroma is repeated over the pixels that share it on the way out and averaged over them on the way back, so that what is
    not changed returns to the same bits; RGB is float and may leave 0..255 where the coded colour lies outside RGB.

    Windows are given in display pixels: ``rotation`` (clockwise, degrees) turns the coded picture into the displayed one.
    """

    def __init__(self, frame: VideoFrame, rotation: int = 0) -> None:
        layout = plane_format(frame.format.name)
        if layout is None:
            planes(frame)  # raises
            raise AssertionError
        self.layout = layout
        self.rotation = rotation
        full = int(frame.color_range) == _FULL_RANGE or frame.format.name.startswith(("yuvj", "yuvaj"))
        self._to_rgb, self._to_yuv = _conversions(int(frame.colorspace), full, layout.bits)

    def extract(self, frame: VideoFrame, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """float32 [y1 - y0, x1 - x0, 3] RGB, 0..255, of a window that lies inside the displayed picture."""
        box = self._coded_box(frame, x0, y0, x1, y1)
        yuv = self._window(planes(frame), box)
        rgb = cv2.transform(yuv, self._to_rgb.astype(np.float32))
        return np.ascontiguousarray(np.rot90(rgb, -self.rotation // 90)) if self.rotation else rgb

    def paste(self, frame: VideoFrame, rgb: np.ndarray, region: np.ndarray, x0: int, y0: int) -> None:
        """Write a window back, in place, where ``region`` is true.

        Only luma samples inside the region change, and chroma samples of which at least one pixel is inside it (the average
        of the new colour inside and the old one outside); every other sample keeps its bits. The frame must be the caller's
        own: make a copy of a decoded frame with ``own_copy`` first.

        Args:
            rgb: float32 or uint8 [h, w, 3], 0..255, display orientation.
            region: bool [h, w].
            x0, y0: the window's top left corner in the displayed picture; the window must lie inside.
        """
        height, width = region.shape
        if rgb.shape != (height, width, 3):
            raise ValueError(f"rgb {rgb.shape} and region {region.shape} differ in size")
        box = self._coded_box(frame, x0, y0, x0 + width, y0 + height)
        rows = np.flatnonzero(region.any(axis=1))
        if not len(rows):
            return
        turns = self.rotation // 90
        rgb = np.ascontiguousarray(np.rot90(rgb, turns) if turns else rgb, dtype=np.float32)
        region = np.ascontiguousarray(np.rot90(region, turns) if turns else region)
        yuv = cv2.transform(rgb, self._to_yuv.astype(np.float32))
        target = planes(frame)
        left, top, right, bottom = box
        top_value = (1 << self.layout.bits) - 1
        luma = target[0][top:bottom, left:right]
        np.copyto(luma, _codes(yuv[..., 0], top_value, self.layout.dtype), where=region)
        if not self.layout.grey:
            self._paste_chroma(target, yuv, region, box, top_value)

    def _paste_chroma(self, target: list[np.ndarray], yuv: np.ndarray, region: np.ndarray, box: _Box, top_value: int) -> None:
        """Average the new chroma over each sample's pixels; pixels outside the region count with the sample's old value."""
        left, top, right, bottom = box
        step_x, step_y = 1 << self.layout.shift_x, 1 << self.layout.shift_y
        first_column, first_row = left // step_x, top // step_y
        height, width = target[0].shape
        columns, rows = -(-right // step_x) - first_column, -(-bottom // step_y) - first_row
        # Pad to whole samples; at the picture's odd border the missing pixels repeat nothing and count nothing.
        inside = np.zeros((rows * step_y, columns * step_x), np.float32)
        offset_y, offset_x = top - first_row * step_y, left - first_column * step_x
        window = np.s_[offset_y : offset_y + bottom - top, offset_x : offset_x + right - left]
        inside[window] = region
        pixels_y = np.minimum(height - (first_row + np.arange(rows)) * step_y, step_y)
        pixels_x = np.minimum(width - (first_column + np.arange(columns)) * step_x, step_x)
        pixels = (pixels_y[:, None] * pixels_x[None, :]).astype(np.float32)
        count = _block_sum(inside, step_y, step_x)
        touched = count > 0
        for channel in (1, 2):
            values = np.zeros_like(inside)
            values[window] = np.where(region, yuv[..., channel], 0.0)
            samples = target[channel][first_row : first_row + rows, first_column : first_column + columns]
            mixed = (_block_sum(values, step_y, step_x) + (pixels - count) * samples) / pixels
            np.copyto(samples, _codes(mixed, top_value, self.layout.dtype), where=touched)

    def _window(self, source: list[np.ndarray], box: _Box) -> np.ndarray:
        """float32 [h, w, 3] of luma and repeated chroma codes."""
        left, top, right, bottom = box
        luma = source[0][top:bottom, left:right]
        if self.layout.grey:
            middle = np.full(luma.shape, 1 << (self.layout.bits - 1), luma.dtype)
            return cv2.merge([luma, middle, middle]).astype(np.float32)
        channels = [luma]
        step_x, step_y = 1 << self.layout.shift_x, 1 << self.layout.shift_y
        for plane in source[1:]:
            part = plane[top // step_y : -(-bottom // step_y), left // step_x : -(-right // step_x)]
            if step_x > 1 or step_y > 1:
                part = cv2.resize(part, (part.shape[1] * step_x, part.shape[0] * step_y), interpolation=cv2.INTER_NEAREST)
            channels.append(part[top % step_y :, left % step_x :][: bottom - top, : right - left])
        return cv2.merge([np.ascontiguousarray(channel) for channel in channels]).astype(np.float32)

    def _coded_box(self, frame: VideoFrame, x0: int, y0: int, x1: int, y1: int) -> _Box:
        width, height = (frame.height, frame.width) if self.rotation in (90, 270) else (frame.width, frame.height)
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise ValueError(f"the window {(x0, y0, x1, y1)} does not lie inside the picture of {width}x{height}")
        if self.rotation == 0:
            return x0, y0, x1, y1
        if self.rotation == 90:
            return y0, width - x1, y1, width - x0
        if self.rotation == 180:
            return width - x1, height - y1, width - x0, height - y0
        return height - y1, x0, height - y0, x1


def in_planes(frame: VideoFrame) -> VideoFrame:
    """A frame of any other format (RGB, palettes) as yuv444p with the matrix and range of ``PLANES_OF_RGB``."""
    matrix, limited = PLANES_OF_RGB
    planar = frame.reformat(format="yuv444p", dst_colorspace=matrix, dst_color_range=limited)
    planar.colorspace, planar.color_range = matrix, limited
    planar.pts = frame.pts
    return planar


def without_transparency(frame: VideoFrame) -> VideoFrame:
    """A frame as ``read_picture`` shows a still one: on white where it is transparent, then as rgb24."""
    if not any(component.is_alpha for component in frame.format.components):
        return frame
    rgba = frame.to_ndarray(format="rgba")
    if rgba[..., 3].min() == 255:
        return frame
    flat = VideoFrame.from_ndarray(on_white(rgba), format="rgb24")
    flat.pts = frame.pts
    if frame.time_base is not None:
        flat.time_base = frame.time_base
    return flat


def own_copy(frame: VideoFrame) -> VideoFrame:
    """A frame with planes of its own: a decoder may still predict from those of the frames it gave away."""
    copy = VideoFrame(frame.width, frame.height, frame.format.name)
    for source, target in zip(planes(frame), planes(copy), strict=True):
        target[...] = source
    copy.pts = frame.pts
    if frame.time_base is not None:
        copy.time_base = frame.time_base
    copy.colorspace, copy.color_range = frame.colorspace, frame.color_range
    copy.color_primaries, copy.color_trc = frame.color_primaries, frame.color_trc
    return copy


@functools.lru_cache(maxsize=64)
def _conversions(matrix: int, full: bool, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """float64 [3, 4] from codes to RGB, and back."""
    to_rgb = _matrix_to_rgb(matrix, full, bits)
    inverse = np.linalg.inv(to_rgb[:, :3])
    return to_rgb, np.column_stack([inverse, -inverse @ to_rgb[:, 3]])


def _matrix_to_rgb(matrix: int, full: bool, bits: int) -> np.ndarray:
    """float64 [3, 4] from (luma, cb, cr) codes to RGB in 0..255 (ITU-T H.273, equations 20 to 41)."""
    red, blue = _LUMA_WEIGHTS.get(matrix, _BT601)
    green = 1.0 - red - blue
    linear = np.array(
        [
            [1.0, 0.0, 2.0 * (1.0 - red)],
            [1.0, -2.0 * blue * (1.0 - blue) / green, -2.0 * red * (1.0 - red) / green],
            [1.0, 2.0 * (1.0 - blue), 0.0],
        ]
    )
    unit = 1 << (bits - 8)
    if full:
        top = float((1 << bits) - 1)
        scale, offset = np.array([255.0 / top] * 3), np.array([0.0, 128.0 * unit, 128.0 * unit])
    else:
        scale = np.array([255.0 / (219.0 * unit), 255.0 / (224.0 * unit), 255.0 / (224.0 * unit)])
        offset = np.array([16.0, 128.0, 128.0]) * unit
    scaled = linear * scale[None, :]
    return np.column_stack([scaled, -scaled @ offset])


def _block_sum(values: np.ndarray, step_y: int, step_x: int) -> np.ndarray:
    if step_x == 2:
        values = values[:, ::2] + values[:, 1::2]
    if step_y == 2:
        values = values[::2] + values[1::2]
    return values


def _codes(values: np.ndarray, top_value: int, dtype: np.dtype) -> np.ndarray:
    return np.clip(np.rint(values), 0, top_value).astype(dtype)
