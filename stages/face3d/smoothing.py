"""Steadies what a detector saw, without lag: the tremor of a still head goes, a blink or a spoken word stays as it was.

Like the one-euro filter, the smoothing depends on speed; unlike it, both directions of time count (the clip is there already), so
nothing comes late. A signal is averaged over a few frames and mixed with itself: where it moves clearly faster than its own
tremor, it is taken as it is.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from stages.face3d.fitting import Poses, rotation_from_vector

Floats = NDArray[np.float64]

_TREMOR_FLOOR = 1e-9
_SURE_MOTION = 3.0


def steady(values: Floats, runs: NDArray[np.integer], frames: float, groups: NDArray[np.integer] | None = None) -> Floats:
    """Zero-phase smoothing that lets clear motion pass.

    Args:
        values: ``[n, d]``, one row per frame.
        runs: a number per row, ``[n]``; nothing is smoothed across a change of it.
        frames: standard deviation of the average over time; 0 returns the values.
        groups: a number per column, ``[d]``: columns of a group move together, and their common speed decides. Without it every
            column decides for itself.
    """
    if frames <= 0 or len(values) < 3:
        return values
    out = values.copy()
    columns = np.arange(values.shape[1]) if groups is None else np.asarray(groups)
    for start, stop in _pieces(runs):
        if stop - start < 3:
            continue
        piece = values[start:stop]
        average = gaussian_filter1d(piece, frames, axis=0, mode="nearest")
        left = piece - average
        share = np.empty_like(piece)
        for group in np.unique(columns):
            chosen = columns == group
            size = np.sqrt((left[:, chosen] ** 2).mean(1))
            tremor = max(float(np.median(size)), _TREMOR_FLOOR)
            # A blink lasts three frames: what is beyond the tremor anywhere in reach counts for its neighbours too.
            reach = gaussian_filter1d(np.maximum(size / tremor - 1, 0.0), 1.0, mode="nearest")
            share[:, chosen] = np.clip(reach / (_SURE_MOTION - 1), 0, 1)[:, None] ** 0.5
        out[start:stop] = average + share * left
    return out


def smooth_poses(poses: Poses, runs: NDArray[np.integer], frames: float) -> Poses:
    """``steady`` for poses: rotations are averaged in the tangent space of their neighbourhood's mean."""
    if frames <= 0 or len(poses) < 3:
        return poses
    rotation, translation, scale = poses.rotation.copy(), poses.translation.copy(), poses.scale.copy()
    for start, stop in _pieces(runs):
        if stop - start < 3:
            continue
        piece = slice(start, stop)
        one = np.zeros(stop - start, int)
        average = gaussian_filter1d(poses.rotation[piece].reshape(-1, 9), frames, axis=0, mode="nearest").reshape(-1, 3, 3)
        left, _, right = np.linalg.svd(average)
        average = left @ right
        offset = _vector(poses.rotation[piece] @ average.transpose(0, 2, 1))
        # What the average leaves out is tremor or motion; the same rule as for everything else tells which.
        kept = _kept(offset)
        rotation[piece] = rotation_from_vector(offset * kept[:, None]) @ average
        translation[piece] = steady(poses.translation[piece], one, frames, np.array([0, 0, 1]))
        scale[piece] = steady(poses.scale[piece, None], one, frames)[:, 0]
    return Poses(rotation, translation, scale)


def _kept(left: Floats) -> Floats:
    size = np.linalg.norm(left, axis=1)
    tremor = max(float(np.median(size)), _TREMOR_FLOOR)
    reach = gaussian_filter1d(np.maximum(size / tremor - 1, 0.0), 1.0, mode="nearest")
    return np.asarray(np.clip(reach / (_SURE_MOTION - 1), 0, 1) ** 0.5)


def _vector(rotation: Floats) -> Floats:
    """Axis times angle of small rotations ``[n, 3, 3]`` -> ``[n, 3]``."""
    skew = np.stack(
        [
            rotation[:, 2, 1] - rotation[:, 1, 2],
            rotation[:, 0, 2] - rotation[:, 2, 0],
            rotation[:, 1, 0] - rotation[:, 0, 1],
        ],
        axis=1,
    )
    sine = np.linalg.norm(skew, axis=1) / 2
    angle = np.arctan2(sine, (np.trace(rotation, axis1=1, axis2=2) - 1) / 2)
    return np.asarray(skew * np.where(sine > 1e-12, angle / np.maximum(2 * sine, 1e-12), 0.5)[:, None])


def _pieces(runs: NDArray[np.integer]) -> list[tuple[int, int]]:
    edges = [0, *(np.flatnonzero(np.diff(runs)) + 1).tolist(), len(runs)]
    return list(itertools.pairwise(edges))
