"""Training samples, and what networks make of them, as one picture to look at."""

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


def mosaic(rows: Sequence[Sequence[npt.NDArray[np.uint8]]], gap: int = 4) -> npt.NDArray[np.uint8]:
    """Rows of pictures uint8 [size, size, 3], all of one size, on white: uint8 [height, width, 3]."""
    size, columns = rows[0][0].shape[0], len(rows[0])
    sheet = np.full((len(rows) * (size + gap) + gap, columns * (size + gap) + gap, 3), 255, np.uint8)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            top, left = gap + row * (size + gap), gap + column * (size + gap)
            sheet[top : top + size, left : left + size] = picture
    return sheet


def _row(sample: TrainingSample) -> npt.NDArray[np.uint8]:
    frame = len(sample.target) // 2
    shown = sample.target[frame].copy()
    shown[~sample.head[frame]] //= 3
    for x, y in sample.face_points[frame]:
        cv2.circle(shown, (round(float(x) - 0.5), round(float(y) - 0.5)), max(1, shown.shape[0] // 96), (80, 255, 80), -1)
    return np.hstack([sample.reference, sample.target[frame], sample.drawing[frame], sample.background[frame], shown])
