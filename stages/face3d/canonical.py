"""Faces brought to one size and turn, so that what they show can be compared."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.face3d.topology import FACE_OVAL, eye_centres

__all__ = ["EYES", "SIDE", "band_contrast", "canonical_face", "canonical_scale"]

SIDE, EYES, EYE_LINE = 144, 48.0, 0.4
"""Side of the picture to which faces are brought, the distance of their eyes there, pixels, and the height of the eyes, share of
the side."""

INSIDE = 0.9
"""Size of the part of the face that is looked at, against its outline."""

SHARE = 0.3
"""About how much of that picture a face fills."""


def canonical_scale(landmarks: NDArray[np.floating]) -> float:
    """Pixels of the canonical picture for each of the picture that has landmarks [478, 2 or 3]."""
    left, right = eye_centres(np.asarray(landmarks, np.float64)[:, :2])
    return EYES / max(float(np.hypot(*(left - right))), 1e-6)


def canonical_face(
    picture: NDArray[np.uint8], landmarks: NDArray[np.floating]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
    """Luma (BT.709) of a face, upright and of one size: float32 [SIDE, SIDE], and where it is a face: bool, same shape.

    None where less than half of the face is in the picture, or nobody knows where it is.

    Args:
        picture: uint8 RGB [h, w, 3]. landmarks: [478, 2 or 3], of the face, in its pixels; NaN for an unknown one.
    """
    points = np.asarray(landmarks, np.float64)[:, :2]
    left, right = eye_centres(points)
    across = left - right
    distance = float(np.hypot(*across))
    if not distance > 0:  # NaN too
        return None
    # Averaged before and after it is turned: detail finer than a pixel must not come out as a coarser one.
    shrink = max(1, int(distance / (2 * EYES)))
    height, width = (side // shrink * shrink for side in picture.shape[:2])
    if min(height, width) < shrink:
        return None
    small = cv2.resize(picture[:height, :width], (width // shrink, height // shrink), interpolation=cv2.INTER_AREA)
    side = 2 * SIDE
    turn = np.array([[across[0], across[1]], [-across[1], across[0]]]) * (2 * EYES / distance**2)
    shift = np.array([side / 2, EYE_LINE * side]) - turn @ ((left + right) / 2)
    outline = (points[list(FACE_OVAL)] @ turn.T + shift) / 2
    # Pixels are counted from their corners here, from the centre of the first one by OpenCV.
    matrix = np.column_stack([turn * shrink, turn @ np.full(2, 0.5 * shrink) + shift - 0.5])
    luma = cv2.transform(small, np.array([[0.2126, 0.7152, 0.0722]], np.float32)).astype(np.float32)
    large = cv2.warpAffine(luma, matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    there = cv2.warpAffine(np.ones(luma.shape[:2], np.uint8), matrix, (side, side), flags=cv2.INTER_NEAREST)[::2, ::2]
    middle = outline.mean(0)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(mask, [np.rint(middle + (outline - middle) * INSIDE).astype(np.int32)], 1)
    inside = (mask & there) > 0
    if inside.sum() < 0.5 * SHARE * SIDE**2:
        return None
    return cv2.resize(large, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32), inside


def band_contrast(face: NDArray[np.float32], inside: NDArray[np.bool_], fine: float, coarse: float) -> float:
    """Standard deviation of what lies between two Gaussian blurs of a face, ``fine`` and ``coarse`` pixels wide."""
    band = cv2.GaussianBlur(face, (0, 0), fine) - cv2.GaussianBlur(face, (0, 0), coarse)
    return float(band[inside].std())
