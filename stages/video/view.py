"""A frame of which only what is looked at becomes RGB.

Most stages look at a window around the subject; converting the whole frame costs more than looking. A part of a view has the
same bytes as that part of the whole picture.
"""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import ArrayLike, NDArray

from stages.video.native import plane_format, planes

Pixels = NDArray[np.uint8]

_ALIGNMENT = 16
"""Coded pixels. FFmpeg's scaler works in such groups and gives other bytes where a group is cut off."""

_REACH = 4
"""Pixels beyond a crop's border that interpolation may read."""

_EXACT_SUBSAMPLING = frozenset({(0, 0), (1, 0), (1, 1)})


class FrameView(Protocol):
    """A frame in display orientation. ``width``, ``height``: pixels."""

    width: int
    height: int

    def rgb(self) -> Pixels:
        """The whole frame, uint8 ``[height, width, 3]``."""
        ...

    def part(self, left: int, top: int, right: int, bottom: int) -> Pixels:
        """``rgb()[top:bottom, left:right]``, uint8, for a window that lies inside the frame. Not to be written to."""
        ...

    def brightness(self) -> Pixels:
        """Luma as it is coded or, where the frame has none of 8 bits, computed from RGB: uint8 ``[height, width]``. Not to be
        written to; for following structure, not for colour."""
        ...


class ArrayView:
    """A frame that is RGB already."""

    def __init__(self, rgb: Pixels) -> None:
        self._rgb = rgb
        self.height, self.width = rgb.shape[:2]

    def rgb(self) -> Pixels:
        return self._rgb

    def part(self, left: int, top: int, right: int, bottom: int) -> Pixels:
        return self._rgb[top:bottom, left:right]

    def brightness(self) -> Pixels:
        return np.asarray(cv2.cvtColor(self._rgb, cv2.COLOR_RGB2GRAY), np.uint8)


class CodedView:
    """A frame as the decoder gave it. Converts what is asked for, each time it is asked."""

    def __init__(self, frame: VideoFrame, rotation: int) -> None:
        """``rotation``: clockwise, degrees, turns the coded picture into the displayed one."""
        self._frame = frame
        self._rotation = rotation
        turned = rotation in (90, 270)
        self.width, self.height = (frame.height, frame.width) if turned else (frame.width, frame.height)
        layout = plane_format(frame.format.name)
        self._eight_bits = layout is not None and layout.bits == 8
        self._exact_in_parts = (
            layout is not None
            and layout.bits == 8
            and not rotation
            and (layout.shift_x, layout.shift_y) in _EXACT_SUBSAMPLING
            and (frame.width % 2 == frame.height % 2 == 0 or layout.shift_x == 0)
        )
        self._whole: Pixels | None = None

    def rgb(self) -> Pixels:
        if self._whole is None:
            rgb = np.asarray(self._frame.to_ndarray(format="rgb24"), np.uint8)
            self._whole = np.ascontiguousarray(np.rot90(rgb, -self._rotation // 90)) if self._rotation else rgb
        return self._whole

    def part(self, left: int, top: int, right: int, bottom: int) -> Pixels:
        if self._whole is not None or not self._exact_in_parts:
            return self.rgb()[top:bottom, left:right]
        first_x, first_y = left - left % _ALIGNMENT, top - top % _ALIGNMENT
        last_x, last_y = (
            min(end + -end % _ALIGNMENT, side) for end, side in ((right, self.width), (bottom, self.height))
        )  # fmt: skip
        window = VideoFrame(last_x - first_x, last_y - first_y, self._frame.format.name)
        window.colorspace, window.color_range = self._frame.colorspace, self._frame.color_range
        height, width = self._frame.height, self._frame.width
        for source, target in zip(planes(self._frame), planes(window), strict=True):
            step_x, step_y = -(-width // source.shape[1]), -(-height // source.shape[0])
            rows, columns = target.shape
            target[...] = source[first_y // step_y :, first_x // step_x :][:rows, :columns]
        rgb = np.asarray(window.to_ndarray(format="rgb24"), np.uint8)
        return rgb[top - first_y : bottom - first_y, left - first_x : right - first_x]

    def brightness(self) -> Pixels:
        if not self._eight_bits:
            return ArrayView(self.rgb()).brightness()
        luma: Pixels = planes(self._frame)[0]
        return np.rot90(luma, -self._rotation // 90) if self._rotation else luma


def crop_part(view: FrameView, crop: ArrayLike) -> tuple[Pixels, NDArray[np.float64]]:
    """The part of a frame that a crop is resampled from, and the crop (centre x, centre y, side) in that part's pixels.

    Where the crop reaches beyond the frame, the part ends with the frame: its border is the frame's.
    """
    x, y, side = (float(value) for value in np.asarray(crop, np.float64))
    reach = side / 2 + _REACH
    left, top = int(np.clip(x - reach, 0, view.width - 1)), int(np.clip(y - reach, 0, view.height - 1))
    right, bottom = int(np.clip(x + reach, left + 1, view.width)), int(np.clip(y + reach, top + 1, view.height))
    return view.part(left, top, right, bottom), np.array([x - left, y - top, side])


def as_view(picture: FrameView | Pixels) -> FrameView:
    """A picture uint8 ``[height, width, 3]`` as a view of itself."""
    return ArrayView(picture) if isinstance(picture, np.ndarray) else picture
