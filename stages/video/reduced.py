"""Small RGB pictures of parts of a frame straight from its planes: what looking at a frame needs, at a fraction of the cost.

Planes are reduced before their colours are converted; chroma is never enlarged to the size of luma.
"""

from __future__ import annotations

import cv2
import numpy as np
from av import VideoFrame
from numpy.typing import NDArray

from stages.video.native import NativeWindow, plane_format, planes

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in frame pixels (display orientation), end exclusive."""


def upright_planes(frame: VideoFrame, rotation: int) -> list[NDArray[np.integer]]:
    """Views of luma and chroma planes in display orientation; ``rotation`` is clockwise, degrees."""
    found = planes(frame)
    return [np.rot90(plane, -rotation // 90) for plane in found] if rotation else found


def reduced_rgb(frame: VideoFrame, rotation: int, box: Box, width: int, height: int) -> NDArray[np.float32]:
    """The part of a frame inside ``box``, averaged down to ``width`` x ``height``: float32 [height, width, 3], 0..255.

    The box lies inside the frame. Where it is smaller than the picture asked for, pixels are interpolated.
    """
    layout = plane_format(frame.format.name)
    upright = upright_planes(frame, rotation)  # raises where the format has no planes
    assert layout is not None
    left, top, right, bottom = box
    rows, columns = upright[0].shape
    name = ("gray" if layout.grey else "yuv444p") + ("" if layout.bits == 8 else f"{layout.bits}le")
    small = VideoFrame(width, height, name)
    small.colorspace, small.color_range = frame.colorspace, frame.color_range
    if frame.format.name.startswith(("yuvj", "yuvaj")):
        small.color_range = 2
    for source, target in zip(upright, planes(small), strict=True):
        tall, wide = source.shape[0] / rows, source.shape[1] / columns
        part = source[int(top * tall) : max(round(bottom * tall), int(top * tall) + 1)]
        part = part[:, int(left * wide) : max(round(right * wide), int(left * wide) + 1)]
        target[...] = _resized(np.ascontiguousarray(part), width, height)
    return NativeWindow(small).extract(small, 0, 0, width, height)


_NEARLY = 1.5
"""Up to this factor, interpolating loses nothing that averaging would keep."""


def _resized(plane: NDArray[np.integer], width: int, height: int) -> NDArray[np.integer]:
    """A plane averaged down to ``width`` x ``height``, or interpolated where it is not larger.

    Squares of a whole number of pixels are averaged first, which is thirty times as fast as averaging by fractions; what is
    left is interpolated.
    """
    tall, wide = plane.shape[0] / height, plane.shape[1] / width
    factor = int(min(tall, wide))
    if factor >= 2 and max(tall, wide) <= _NEARLY * factor:
        rows, columns = plane.shape[0] // factor, plane.shape[1] // factor
        whole = plane[: rows * factor, : columns * factor]
        averaged = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
        across, down = wide / factor, tall / factor
        matrix = np.array([[across, 0.0, 0.5 * across - 0.5], [0.0, down, 0.5 * down - 0.5]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(averaged, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    shrinks = min(tall, wide) >= 1 and max(tall, wide) > _NEARLY
    return cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
