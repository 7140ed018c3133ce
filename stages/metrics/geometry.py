"""How far a head is from where it should be: landmarks, pose and expression. Functions of arrays, one value per frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stages.face3d.fitting import euler_angles, rotation_angle

Floats = NDArray[np.float64]


def landmark_error(found: ArrayLike, wanted: ArrayLike, unit: ArrayLike) -> Floats:
    """Mean distance in the picture between landmarks ``[n, p, 2 or 3]``, in ``unit`` ``[n]``: pixels of the eye distance."""
    offset = np.asarray(found, np.float64)[..., :2] - np.asarray(wanted, np.float64)[..., :2]
    return np.asarray(np.linalg.norm(offset, axis=-1).mean(-1) / np.asarray(unit, np.float64))


def position_error(found: ArrayLike, wanted: ArrayLike, unit: ArrayLike) -> Floats:
    """Distance in the picture between head centres ``[n, 2 or 3]``, in ``unit`` ``[n]``."""
    offset = np.asarray(found, np.float64)[..., :2] - np.asarray(wanted, np.float64)[..., :2]
    return np.asarray(np.linalg.norm(offset, axis=-1) / np.asarray(unit, np.float64))


def pose_error(found: ArrayLike, wanted: ArrayLike) -> Floats:
    """Angle in degrees of the rotation between rotations ``[n, 3, 3]``: the geodesic distance."""
    return rotation_angle(np.asarray(found, np.float64) @ np.swapaxes(np.asarray(wanted, np.float64), -1, -2))


def yaw_pitch_roll_error(found: ArrayLike, wanted: ArrayLike) -> Floats:
    """Mean absolute difference of yaw, pitch and roll in degrees between rotations ``[n, 3, 3]``."""
    difference = euler_angles(found) - euler_angles(wanted)
    return np.asarray(np.abs((difference + 180) % 360 - 180).mean(-1))


def expression_error(found: ArrayLike, wanted: ArrayLike) -> Floats:
    """Mean absolute difference of expression weights ``[n, E]``."""
    return np.asarray(np.abs(np.asarray(found, np.float64) - np.asarray(wanted, np.float64)).mean(-1))


def acceleration(landmarks: ArrayLike, unit: ArrayLike) -> Floats:
    """Size of the second difference over frames of landmarks ``[n, p, 2 or 3]``, mean over landmarks, in ``unit`` ``[n]``.

    Steady motion has none, jitter has much. NaN at both ends and beside a frame that is NaN.
    """
    points = np.asarray(landmarks, np.float64)[..., :2]
    result = np.full(len(points), np.nan)
    if len(points) > 2:
        second = points[2:] - 2 * points[1:-1] + points[:-2]
        result[1:-1] = np.linalg.norm(second, axis=-1).mean(-1) / np.asarray(unit, np.float64)[1:-1]
    return result


def beyond(own: ArrayLike, reference: ArrayLike) -> Floats:
    """What a value has more than the reference, never negative; NaN stays NaN."""
    return np.asarray(np.maximum(np.asarray(own, np.float64) - np.asarray(reference, np.float64), 0.0))
