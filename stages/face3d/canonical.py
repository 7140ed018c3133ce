"""Faces brought to one size and turn, so that what they show can be compared."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.face3d.topology import FACE_OVAL, eye_centres, interocular

__all__ = ["EYES", "FINE", "band_contrast", "canonical_face", "eye_distance"]

SIDE, EYES, EYE_LINE = 144, 48.0, 0.4
"""Side of the picture to which faces are brought, the distance of their eyes there, pixels, and the height of the eyes, share of
the side."""

INSIDE = 0.9
"""Size of the part of the face that is looked at, against its outline."""

LEAST = 0.09
"""Share of that picture that must show a face: about a third of one that looks at the camera."""

FINE = (0.5, 1.2)
"""Widths of the blurs between which lines, lashes and pores lie, pixels of that picture."""


def eye_distance(landmarks: NDArray[np.floating]) -> float:
    """Distance of the eye centres of landmarks [478, 2 or 3], in their pixels; with three coordinates also of a turned head."""
    return float(interocular(np.asarray(landmarks, np.float64)))


def canonical_face(
    picture: NDArray[np.uint8], landmarks: NDArray[np.floating]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
    """Luma (BT.709) of a face, upright and of one size: float32 [SIDE, SIDE], and where it is a face: bool, same shape.

    None where too little of the face is in the picture, or nobody knows where it is.

    Args:
        picture: uint8 RGB [h, w, 3]. landmarks: [478, 2 or 3], of the face, in its pixels; NaN where they are not known.
    """
    points, distance = np.asarray(landmarks, np.float64)[:, :2], eye_distance(landmarks)
    left, right = eye_centres(points)
    across = (left - right) / max(float(np.hypot(*(left - right))), 1e-6)
    # Averaged down before it is turned and after: detail finer than a pixel must not come out as a coarser one.
    shrink = min(1.0, 2 * EYES / distance) if distance > 0 else float("nan")
    if not np.isfinite(points[list(FACE_OVAL)]).all() or not shrink * min(picture.shape[:2]) >= 1:
        return None
    width, height = (round(shrink * length) for length in picture.shape[1::-1])
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    reduced = np.array([picture.shape[1] / width, picture.shape[0] / height])
    side = 2 * SIDE
    turn = np.array([[across[0], across[1]], [-across[1], across[0]]]) * (2 * EYES / distance)
    shift = np.array([side / 2, EYE_LINE * side]) - turn @ ((left + right) / 2)
    outline = (points[list(FACE_OVAL)] @ turn.T + shift) / 2
    # Pixels are counted from their corners here, from the centre of the first one by OpenCV.
    matrix = np.column_stack([turn * reduced, turn @ (0.5 * reduced) + shift - 0.5])
    luma = cv2.transform(small, np.array([[0.2126, 0.7152, 0.0722]], np.float32)).astype(np.float32)
    large = cv2.warpAffine(luma, matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    there = cv2.warpAffine(np.ones(luma.shape[:2], np.uint8), matrix, (side, side), flags=cv2.INTER_NEAREST)[::2, ::2]
    middle = outline.mean(0)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(mask, [np.rint(middle + (outline - middle) * INSIDE).astype(np.int32)], 1)
    inside = (mask & there) > 0
    if inside.sum() < LEAST * SIDE**2:
        return None
    return cv2.resize(large, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32), inside


def band_contrast(face: NDArray[np.float32], inside: NDArray[np.bool_], fine: float, coarse: float) -> float:
    """Standard deviation of what lies between two Gaussian blurs of a face, ``fine`` and ``coarse`` pixels wide."""
    band = cv2.GaussianBlur(face, (0, 0), fine) - cv2.GaussianBlur(face, (0, 0), coarse)
    return float(band[inside].std())
