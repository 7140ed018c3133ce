"""Draws landmarks as the paper's figures do: brows, eyes with iris, nose, lips; left and right in different colours.

There is no jaw line: the outline of the face would tell the network the shape of the head it should not know.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from stages.face3d.topology import INNER_LIPS, LEFT_EYE, NOSE_BASE, NOSE_BRIDGE, OUTER_LIPS, RIGHT_EYE, Eye

Colour = tuple[int, int, int]

RIGHT_BROW_COLOUR: Colour = (255, 32, 32)
LEFT_BROW_COLOUR: Colour = (32, 255, 32)
RIGHT_EYE_COLOUR: Colour = (255, 32, 128)
LEFT_EYE_COLOUR: Colour = (32, 255, 128)
NOSE_COLOUR: Colour = (255, 176, 0)
LIPS_COLOUR: Colour = (32, 112, 255)
INNER_LIPS_COLOUR: Colour = (96, 176, 255)

_SHIFT = 4


def draw_landmarks(landmarks: ArrayLike, size: int, *, background: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Landmarks of one face as lines.

    Args:
        landmarks: ``[478, 2 or 3]``, crop pixels; the lines' width follows ``size``.
        size: side of the picture.
        background: picture to draw on (copied), uint8 ``[size, size, 3]`` RGB; black by default.

    Returns:
        uint8 ``[size, size, 3]`` RGB, antialiased; only the background where the landmarks are NaN.
    """
    picture = np.zeros((size, size, 3), np.uint8) if background is None else background.copy()
    points = np.asarray(landmarks, np.float64)[:, :2]
    if not np.isfinite(points).all():
        return picture
    width = max(round(size / 256), 1)
    for eye, brow, colour in (
        (RIGHT_EYE, RIGHT_BROW_COLOUR, RIGHT_EYE_COLOUR),
        (LEFT_EYE, LEFT_BROW_COLOUR, LEFT_EYE_COLOUR),
    ):
        _line(picture, points[list(eye.brow_upper)], brow, width)
        _line(picture, points[list(eye.brow_lower)], brow, width)
        _line(picture, points[list(eye.outline)], colour, width, closed=True)
        _iris(picture, points, eye, colour)
    _line(picture, points[list(NOSE_BRIDGE)], NOSE_COLOUR, width)
    _line(picture, points[list(NOSE_BASE)], NOSE_COLOUR, width)
    _line(picture, points[list(OUTER_LIPS)], LIPS_COLOUR, width, closed=True)
    _line(picture, points[list(INNER_LIPS)], INNER_LIPS_COLOUR, width, closed=True)
    return picture


def _line(picture: NDArray[np.uint8], points: NDArray[np.float64], colour: Colour, width: int, *, closed: bool = False) -> None:
    cv2.polylines(picture, [_fixed(points)], closed, colour, width, cv2.LINE_AA, _SHIFT)


def _iris(picture: NDArray[np.uint8], points: NDArray[np.float64], eye: Eye, colour: Colour) -> None:
    """A disc of half the iris's size where it shows between the lids."""
    centre = points[eye.iris]
    radius = 0.5 * float(np.linalg.norm(points[list(eye.iris_border)] - centre, axis=1).mean())
    disc = np.zeros(picture.shape[:2], np.uint8)
    cv2.circle(disc, _pair(centre), max(round(radius * 2**_SHIFT), 1), 255, -1, cv2.LINE_AA, _SHIFT)
    opening = np.zeros_like(disc)
    cv2.fillPoly(opening, [_fixed(points[list(eye.outline)])], 255, cv2.LINE_AA, _SHIFT)
    share = np.minimum(disc, opening)[..., None].astype(np.float32) / 255
    picture[:] = np.round(picture * (1 - share) + np.array(colour, np.float32) * share).astype(np.uint8)


def _fixed(points: NDArray[np.float64]) -> NDArray[np.int32]:
    """Sub-pixel coordinates for OpenCV, which counts from the centre of the first pixel, in sixteenths."""
    return np.round((points - 0.5) * 2**_SHIFT).astype(np.int32)


def _pair(point: Sequence[float] | NDArray[np.float64]) -> tuple[int, int]:
    x, y = _fixed(np.asarray(point, np.float64)[None])[0]
    return int(x), int(y)
