"""Soft polygons and small patches."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_SHIFT = 4


def bounding_box(points: NDArray[np.floating], shape: tuple[int, ...], margin: float = 0.0) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (end exclusive) of the pixels around points [n, 2], cut at a picture's [height, width]."""
    low = np.floor(points.min(0) - margin).astype(int)
    high = np.ceil(points.max(0) + margin).astype(int)
    left, top = (int(value) for value in np.maximum(low, 0))
    return left, top, min(int(high[0]), shape[1]), min(int(high[1]), shape[0])


def polygon_coverage(polygon: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Anti-aliased share of each pixel of a picture [height, width] that a polygon [n, 2] covers."""
    drawn = np.zeros(shape[:2], np.uint8)
    # OpenCV puts pixel centres at whole numbers.
    corners = np.round((polygon - 0.5) * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(drawn, [corners], 255, cv2.LINE_AA, _SHIFT)
    return drawn.astype(np.float32) / np.float32(255)


def blend_patch(picture: NDArray[np.uint8], layer: NDArray[np.floating], coverage: NDArray[np.floating]) -> None:
    """Blend a layer [h, w, 3] over a uint8 picture of the same size, in place, by its coverage [h, w] in 0..1."""
    share = coverage[..., None]
    np.copyto(picture, np.clip(picture * (1 - share) + layer * share + 0.5, 0, 255).astype(np.uint8))
