"""Tables of stages, written as the stages would write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from schemas.tables import LANDMARKS, SUBJECT
from storage.artifacts import Artifact, ArtifactWriter


def subject_table(
    folder: Path,
    crops: ArrayLike,
    *,
    shots: ArrayLike | None = None,
    detected: np.ndarray | None = None,
    landmarks: np.ndarray | None = None,
) -> Artifact:
    """What ``track`` writes.

    Args:
        crops: ``[frames, 3]``. shots: of each frame; one shot by default. detected: ``[frames]``, everywhere by default.
        landmarks: ``[frames, ...]`` with 478 points of 3 coordinates each; zeros by default. Shoulders are never seen.
    """
    crops = np.asarray(crops, np.float32)
    count = len(crops)
    folder.mkdir(parents=True, exist_ok=True)
    writer = ArtifactWriter(folder)
    found = np.ones(count, bool) if detected is None else detected
    points = np.zeros((count, LANDMARKS * 3)) if landmarks is None else landmarks
    writer.write_table(
        SUBJECT,
        {
            "frame": np.arange(count, dtype=np.int32),
            "shot": np.zeros(count, np.int32) if shots is None else np.asarray(shots, np.int32),
            "detected": found,
            "interpolated": np.zeros(count, bool),
            "score": found.astype(np.float32),
            "crop": crops,
            "landmarks": points.reshape(count, -1).astype(np.float32),
            "shoulders": np.tile(np.array([np.nan, np.nan, 0.0] * 2, np.float32), (count, 1)),
        },
    )
    return writer.local()
