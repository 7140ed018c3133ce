"""The square window that follows a head: one side per shot, a path without tremor, from the places where the head was seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, median_filter

from stages.face3d.fitting import align
from stages.face3d.model import FaceModel
from stages.face3d.topology import CHIN

Floats = NDArray[np.float64]

FOREHEAD = 10
HEAD_CENTRE = np.array([0.0, -0.3, -0.5])
"""Model space: about the axis on which a head turns, so that turning it does not move the crop."""

DROP = 0.12
"""The crop's centre lies below the head's, in heights of the face: hair needs less room above than neck and shoulders below."""

_SIZE_QUANTILE = 0.75
_FREE_PLAY = 0.05


def head_anchor(landmarks: Floats) -> Floats:
    """Where the head is and how large: ``[n, 478, 3]`` pixels -> ``[n, 3]`` x, y of its centre, height of the face.

    The height is that of the face seen from the front (forehead to chin, of the mean face at the fitted scale), whatever the
    head's pose and the mouth's opening.
    """
    model = FaceModel.builtin()
    poses = align(model.mean[model.rigid], landmarks[:, model.rigid])
    centre = poses.project(HEAD_CENTRE[None])[:, 0, :2]
    height = poses.scale * float(np.linalg.norm(model.mean[FOREHEAD] - model.mean[CHIN]))
    return np.column_stack([centre, height])


def crop_path(
    anchors: Floats, shots: NDArray[np.int64], picture: tuple[int, int], crop_scale: float, smoothing_frames: float
) -> Floats:
    """Centre x, centre y and side of the crop for every frame, ``[n, 3]``.

    Args:
        anchors: ``head_anchor`` of every frame, NaN where the head was not seen, ``[n, 3]``.
        shots: number of each frame's shot, ``[n]``; nothing is smoothed across a cut.
        picture: width and height of the frame. Where a shot does not show the subject, the crop is its largest centred square.
        crop_scale: side in heights of the face.
        smoothing_frames: standard deviation of the Gaussian over time.
    """
    path = np.empty((len(anchors), 3))
    path[:] = (picture[0] / 2, picture[1] / 2, min(picture))
    for shot in np.unique(shots):
        rows = np.flatnonzero(shots == shot)
        seen = rows[np.isfinite(anchors[rows, 0])]
        if not len(seen):
            continue
        height = float(np.quantile(anchors[seen, 2], _SIZE_QUANTILE))
        side = crop_scale * height
        for axis in range(2):
            raw = np.interp(rows, seen, anchors[seen, axis])
            path[rows, axis] = _smooth(raw, smoothing_frames, _FREE_PLAY * side)
        path[rows, 1] += DROP * height
        path[rows, 2] = side
    return path


def _smooth(raw: Floats, deviation: float, free_play: float) -> Floats:
    """A Gaussian over time that lets the head move by ``free_play`` inside the crop and follows quickly beyond."""
    if deviation <= 0 or len(raw) < 3:
        return raw
    steady = median_filter(raw, size=5, mode="mirror")
    path = gaussian_filter1d(steady, deviation, mode="nearest")
    for _ in range(2):
        left = steady - path
        beyond = left - np.clip(left, -free_play, free_play)
        path = path + gaussian_filter1d(beyond, deviation / 3, mode="nearest")
    return np.asarray(path)
