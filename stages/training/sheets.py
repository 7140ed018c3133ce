"""Training samples as a picture to look at."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from stages.training.samples import TrainingSample

COLUMNS = ("reference", "target", "drawing", "condition", "head")


def sample_sheet(samples: Sequence[TrainingSample]) -> npt.NDArray[np.uint8]:
    """One row for each sample: reference, target, drawn landmarks, condition image, and the target with the head's mask and the
    five points of the face; of a window its middle frame. uint8 [rows * size, 5 * size, 3], samples of one size."""
    return np.vstack([_row(sample) for sample in samples])


def _row(sample: TrainingSample) -> npt.NDArray[np.uint8]:
    frame = len(sample.target) // 2
    shown = sample.target[frame].copy()
    shown[~sample.head[frame]] //= 3
    for x, y in sample.face_points[frame]:
        cv2.circle(shown, (round(float(x) - 0.5), round(float(y) - 0.5)), max(1, shown.shape[0] // 96), (80, 255, 80), -1)
    return np.hstack([sample.reference, sample.target[frame], sample.drawing[frame], sample.background[frame], shown])
