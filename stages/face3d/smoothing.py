"""Steadies what a detector saw, without lag: the tremor of a still head goes, a blink or a spoken word stays as it was.

Like the one-euro filter, the smoothing depends on speed; unlike it, both directions of time count (the clip is there already),
so nothing comes late. A signal is averaged over a few frames and mixed with itself: where it leaves its average by clearly more
than the detector trembles, it is taken as it is. How much a detector trembles is a measured constant, not estimated from the
clip, so that a frame's result depends on its neighbours alone.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from stages.face3d.fitting import Poses, rotation_from_vector, vector_from_rotation

Floats = NDArray[np.float64]

EXPRESSION_TREMOR = 0.02
"""Of fitted weights."""

_LANDMARK_TREMOR = 0.0018
_PIXEL_TREMOR = 0.1
_ROTATION_TREMOR = np.radians(0.15) / _LANDMARK_TREMOR
_SCALE_TREMOR = 0.6

_REACH = 1.0
_SURELY_MOTION = 3.0


def landmark_tremor(scale: Floats) -> Floats:
    """How much MediaPipe's landmarks tremble on a still head, model units, given the scale ``[n]`` in pixels per unit.

    Measured as the second difference over time in quiet stretches of the trial clips, eye centres 26 to 180 pixels apart.
    """
    return np.asarray(np.hypot(_LANDMARK_TREMOR, _PIXEL_TREMOR / scale))


def margin(frames: float) -> int:
    """Neighbours on either side that a result may depend on."""
    return int(np.ceil(4 * frames)) + int(np.ceil(4 * _REACH)) + 1 if frames > 0 else 0


def runs_of(frames: NDArray[np.integer], shots: NDArray[np.integer]) -> NDArray[np.int64]:
    """A number per row, ``[n]``, that changes where frames do not follow each other or the shot changes: given to ``steady``."""
    if not len(frames):
        return np.zeros(0, np.int64)
    return np.cumsum(np.concatenate([[0], (np.diff(frames) > 1) | (np.diff(shots) != 0)])).astype(np.int64)


def steady(
    values: Floats,
    runs: NDArray[np.integer],
    frames: float,
    tremor: float | Floats,
    groups: NDArray[np.integer] | None = None,
) -> Floats:
    """Zero-phase smoothing that lets clear motion pass.

    Args:
        values: ``[n, d]``, one row per frame.
        runs: a number per row, ``[n]``; nothing is smoothed across a change of it.
        frames: standard deviation of the average over time; 0 returns the values.
        tremor: root mean square of what the detector adds of its own, in units of ``values``; one number, or ``[n]``.
        groups: a number per column, ``[d]``: columns of a group move together, and their common motion decides. Without it every
            column decides for itself.
    """
    if frames <= 0:
        return values
    out = values.copy()
    columns = np.arange(values.shape[1]) if groups is None else np.asarray(groups)
    noise = np.broadcast_to(np.asarray(tremor, np.float64), len(values))
    for start, stop in _pieces(runs):
        piece = values[start:stop]
        average = gaussian_filter1d(piece, frames, axis=0, mode="nearest")
        left = piece - average
        share = np.empty_like(piece)
        for group in np.unique(columns):
            chosen = columns == group
            size = np.sqrt((left[:, chosen] ** 2).mean(1))
            share[:, chosen] = _motion(size / noise[start:stop])[:, None]
        out[start:stop] = average + share * left
    return out


def smooth_poses(poses: Poses, runs: NDArray[np.integer], frames: float) -> Poses:
    """``steady`` for head poses ``[n]``; rotations are averaged where they are, on the sphere of rotations."""
    if frames <= 0:
        return poses
    tremor = landmark_tremor(poses.scale)
    rotation = smooth_rotations(poses.rotation, poses.scale, runs, frames)
    translation = steady(poses.translation, runs, frames, tremor * poses.scale, np.array([0, 0, 1]))
    scale = steady(poses.scale[:, None], runs, frames, _SCALE_TREMOR * tremor * poses.scale)[:, 0]
    return Poses(rotation, translation, scale)


def smooth_rotations(rotation: Floats, scale: Floats, runs: NDArray[np.integer], frames: float) -> Floats:
    """``steady`` for rotations ``[n, 3, 3]`` of heads that are ``scale`` ``[n]`` pixels a model unit large."""
    if frames <= 0:
        return rotation
    smooth = rotation.copy()
    tremor = landmark_tremor(scale)
    for start, stop in _pieces(runs):
        piece = rotation[start:stop]
        flat = gaussian_filter1d(piece.reshape(-1, 9), frames, axis=0, mode="nearest")
        left, _, right = np.linalg.svd(flat.reshape(-1, 3, 3))
        average = left @ right
        offset = vector_from_rotation(piece @ average.transpose(0, 2, 1))
        share = _motion(np.linalg.norm(offset, axis=1) / (_ROTATION_TREMOR * tremor[start:stop]))
        smooth[start:stop] = rotation_from_vector(offset * share[:, None]) @ average
    return smooth


def _motion(size: Floats) -> Floats:
    """How far to believe what the average leaves out: 0 tremor, 1 motion. A blink's neighbours count as motion too."""
    reach = gaussian_filter1d(np.maximum(size - 1, 0.0), _REACH, mode="nearest")
    return np.asarray(np.clip(reach / (_SURELY_MOTION - 1), 0, 1) ** 0.5)


def _pieces(runs: NDArray[np.integer]) -> list[tuple[int, int]]:
    edges = [0, *(np.flatnonzero(np.diff(runs)) + 1).tolist(), len(runs)]
    return [(start, stop) for start, stop in itertools.pairwise(edges) if stop > start]
