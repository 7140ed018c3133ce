"""Edits of expression and head pose as arrays: what ``schemas.edits`` says in words, applied to the driver's frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.edits import Angle, Curve, Edits, interpolate
from stages.face3d.fitting import Poses, rotation_from_euler
from stages.face3d.model import FaceModel

Floats = NDArray[np.float64]

HEAD_PIVOT = np.array([0.0, -0.6, -0.9])
"""Model space: where a head turns, about the ears' height above the neck."""


@dataclass(frozen=True)
class EditedExpression:
    """Weights after the edits ``[n, E]``, and the factor on the opening of the left and the right eye ``[n, 2]``."""

    expression: Floats
    lids: Floats


def edit_expression(
    expression: Floats, frames: NDArray[np.integer], edits: Edits, model: FaceModel, weights_of: Callable[[int], Floats]
) -> EditedExpression:
    """Apply the curves to fitted weights.

    Args:
        expression: ``[n, E]``, already mirrored where the edits ask for it.
        frames: their numbers in the target, ``[n]``.
        weights_of: the target's weights ``[E]`` in any frame, for ``freeze``.
    """
    edited = expression.copy()
    for name, curve in sorted(edits.curves.items(), key=lambda item: _breadth(model, item[0])):
        for index in model.indices(name):
            edited[:, index] = np.clip(curve.scale * _base(curve, index, expression, frames, weights_of) + curve.offset, 0, 1)
    lids = np.ones((len(expression), 2))
    for side, name in enumerate(("eyeBlink_L", "eyeBlink_R")):
        index = model.indices(name)[0]
        lids[:, side] = np.clip((1 - edited[:, index]) / np.maximum(1 - expression[:, index], 0.05), 0, 3)
    return EditedExpression(edited, lids)


def edit_poses(poses: Poses, frames: NDArray[np.integer], edits: Edits) -> Poses:
    """Turn heads by the edits' angles about the pivot between head and neck; the head's size does not change."""
    turns = np.stack(
        [_angle(angle, frames) for angle in (edits.head_pose.yaw, edits.head_pose.pitch, edits.head_pose.roll)], axis=-1
    )
    if not turns.any():
        return poses
    rotation = rotation_from_euler(turns) @ poses.rotation
    turned = Poses(rotation, poses.translation, poses.scale)
    shift = poses.project(HEAD_PIVOT[None]) - turned.project(HEAD_PIVOT[None])
    return Poses(rotation, poses.translation + shift[:, 0], poses.scale)


def _base(
    curve: Curve, index: int, expression: Floats, frames: NDArray[np.integer], weights_of: Callable[[int], Floats]
) -> Floats | float:
    if curve.freeze is not None:
        return float(weights_of(curve.freeze)[index])
    if curve.keyframes:
        return interpolate(curve.keyframes, frames, curve.interpolation)
    return expression[:, index]


def _angle(angle: Angle, frames: NDArray[np.integer]) -> Floats:
    added = interpolate(angle.keyframes, frames, angle.interpolation) if angle.keyframes else np.zeros(len(frames))
    return np.asarray(added + angle.offset)


def _breadth(model: FaceModel, name: str) -> tuple[int, str]:
    """Names for both sides first, so that a name for one side has the last word."""
    return -len(model.indices(name)), name
