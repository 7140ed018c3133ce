"""Edits of expression and head pose as arrays: what ``schemas.edits`` says in words, applied to the driver's frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.edits import Angle, Curve, Edits, interpolate
from stages.face3d.fitting import Poses, rotation_from_euler
from stages.face3d.model import FaceModel
from stages.face3d.topology import EYES

Floats = NDArray[np.float64]

HEAD_PIVOT = np.array([0.0, -0.6, -0.9])
"""Model space: where a head turns, about the ears' height above the neck."""

_LOWER_FACE, _UPPER_FACE, _MIDDLE_FACE = ("jaw", "mouth"), ("brow", "eye"), ("cheek", "nose")
_LIDS_END, _MOUTHS_END = -0.14, -0.42  # heights in model space: under the lower lids, above the base of the nose


@dataclass(frozen=True)
class EditedExpression:
    """Weights after the edits ``[n, E]``; how far edits close the left and the right eye, ``[n, 2]``, NaN where they do not."""

    expression: Floats
    blinks: Floats


def edit_expression(
    expression: Floats, frames: NDArray[np.integer], edits: Edits, model: FaceModel, weights_of: Callable[[int], Floats]
) -> EditedExpression:
    """Apply the curves to fitted weights.

    Args:
        expression: ``[n, E]``, already mirrored where the edits ask for it; blinks as read off the lids (``closed_share``).
        frames: their numbers in the target, ``[n]``.
        weights_of: the target's weights ``[E]`` in any frame, for ``freeze``.
    """
    edited = expression.copy()
    for name, curve in sorted(edits.curves.items(), key=lambda item: _breadth(model, item[0])):
        for index in model.indices(name):
            edited[:, index] = np.clip(curve.scale * _base(curve, index, expression, frames, weights_of) + curve.offset, 0, 1)
    blinks = np.full((len(expression), 2), np.nan)
    touched = {index for name in edits.curves for index in model.indices(name)}
    for side, name in enumerate(("eyeBlink_L", "eyeBlink_R")):
        index = model.indices(name)[0]
        if index in touched:
            blinks[:, side] = edited[:, index]
    return EditedExpression(edited, blinks)


def edit_displacement(added: Floats, model: FaceModel) -> Floats:
    """What weights that edits add ``[n, E]`` move, ``[n, 478, 3]`` in model space.

    The model's directions are measured, and with the mouth its brows tremble a little: an edit of the lower face moves nothing
    above the lower lids, one of brows and eyes nothing below the nose. Blinks move nothing up or down here: how far lids close
    follows from ``EditedExpression.blinks``, so that a full one closes any eye, of any opening.
    """
    height = model.mean[:, 1]
    above = np.clip((height - _MOUTHS_END) / (_LIDS_END - _MOUTHS_END), 0, 1)
    above = above * above * (3 - 2 * above)
    moved = np.zeros((len(added), len(height), 3))
    for stems, share in ((_LOWER_FACE, 1 - above), (_UPPER_FACE, above), (_MIDDLE_FACE, np.ones(len(height)))):
        chosen = np.array([name.startswith(stems) and not name.startswith("eyeBlink") for name in model.names])
        moved += model.displacement(np.where(chosen, added, 0.0)) * share[:, None]
    for name, eye in zip(("eyeBlink_L", "eyeBlink_R"), EYES, strict=True):
        index, lids = model.indices(name)[0], [*eye.upper, *eye.lower]
        moved[:, lids] += added[:, index, None, None] * model.expression[index, lids] * (1.0, 0.0, 1.0)
    return moved


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
