"""The inside of the mouth: the target's own teeth and tongue, brought into the opening of the new lips."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.warp.geometry import strip_triangles
from stages.warp.raster import rasterise, triangle_rows
from stages.warp.shapes import blend_patch, bounding_box, polygon_coverage

Array = NDArray[np.float64]

CLOSED = 0.015
"""Area over squared width of the inner lip contour below which the mouth counts as closed."""

OPEN = 0.05
"""The same, from which the inside is drawn at full strength."""

DARK = np.array([46.0, 20.0, 18.0])
"""Colour of the throat, used where the target's mouth is closed while the new one is open."""

_STRIP = triangle_rows(strip_triangles(np.arange(20)))


def openness(contour: NDArray[np.floating]) -> float:
    """Area over squared width of the inner lip contour [20, 2 or 3], corners at 0 and 10."""
    points = np.asarray(contour, np.float64)[:, :2]
    x, y = points[:, 0], points[:, 1]
    area = abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) / 2
    return area / max(float(((points[0] - points[10]) ** 2).sum()), 1e-6)


def draw_mouth(
    picture: NDArray[np.uint8],
    target: NDArray[np.uint8],
    target_lips: NDArray[np.floating],
    lips: NDArray[np.floating],
    saturation: float = 1.0,
) -> None:
    """Draw the inside of the mouth into the opening of the lips, in place.

    Args:
        picture: uint8 RGB [height, width, 3], the head as warped so far.
        target: uint8 RGB [height, width, 3], the target's crop.
        target_lips: float [20, 2 or 3], inner lip contour in the target's crop.
        lips: float [20, 2 or 3], inner lip contour wanted, in the picture.
        saturation: of the inside; a head of marble has no red tongue.
    """
    lips = np.asarray(lips, np.float64)[:, :2]
    target_lips = np.asarray(target_lips, np.float64)[:, :2]
    strength = _ramp(openness(lips))
    if strength <= 0:
        return
    left, top, right, bottom = bounding_box(lips, picture.shape[:2], margin=3)
    if right <= left or bottom <= top:
        return
    origin = np.array([left, top], np.float64)
    local = lips - origin
    corners = np.concatenate([local, np.zeros((20, 1))], axis=1).astype(np.float32)
    grown = local.mean(0) + (local - local.mean(0)) * 1.08
    corners[:, :2] = grown
    texture = _shrunk(target_lips).astype(np.float32)
    drawn = rasterise(corners, texture, _STRIP, bottom - top, right - left)
    inside = cv2.remap(target, drawn[..., 0] - 0.5, drawn[..., 1] - 0.5, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    shown = _ramp(openness(target_lips))
    layer = shown * inside.astype(np.float32) + (1 - shown) * DARK.astype(np.float32)
    grey = layer.mean(axis=2, keepdims=True)
    layer = grey + np.float32(saturation) * (layer - grey)
    coverage = polygon_coverage(local, (bottom - top, right - left))
    layer *= _shade(coverage, float(np.linalg.norm(lips[0] - lips[10])))[..., None]
    soft = cv2.GaussianBlur(coverage, (0, 0), 0.8) * np.float32(strength)
    blend_patch(picture[top:bottom, left:right], layer, soft)


def _ramp(opened: float) -> float:
    return float(np.clip((opened - CLOSED) / (OPEN - CLOSED), 0, 1))


def _shrunk(contour: Array) -> Array:
    """The contour drawn in a little: landmarks lie on the lips, whose red must not become part of the inside."""
    middle = (contour + contour[(-np.arange(20)) % 20]) / 2
    return np.asarray(middle + (contour - middle) * 0.9)


def _shade(coverage: NDArray[np.float32], width: float) -> NDArray[np.float32]:
    """Darkening from the lips inwards: what lies behind them is in their shadow, most of all in the corners."""
    padded = np.pad((coverage > 0.5).astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    return np.asarray(0.72 + 0.28 * np.clip(distance / (0.07 * width), 0, 1), np.float32)
