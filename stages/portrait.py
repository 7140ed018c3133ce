"""The source's side of a job: the frame that ``retarget`` chose, and the head cut out of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schemas.tables import LANDMARKS
from stages.contract import Work
from stages.matte import foreground_colours, head_matte
from stages.renderer import Portrait
from stages.video.crops import extract_crop
from stages.video.decode import open_clip
from stages.warp.geometry import Pose
from storage.tables import array

ROUNDING = 0.22
"""How far hair that the picture cuts off is rounded at the ends of the cut, share of half the cut's width."""


def read_portrait(work: Work) -> Portrait:
    """The source's head, from the frame and crop of the table ``neutral``."""
    table = work.inputs.table("retarget", "neutral", "job")
    frame = int(array(table, "frame")[0])
    crop = array(table, "crop")[0].astype(np.float64)
    readers = [artifact.pictures("labels") for artifact in work.inputs.all("masks", "source")]
    labels = next(reader.read(frame) for reader in readers if frame in reader)
    with open_clip(work.media["source"]) as clip:
        picture = extract_crop(clip.read(frame), crop, labels.shape[0])
    border = float((crop[2] / 2 - crop[1]) * labels.shape[0] / crop[2])
    landmarks = array(table, "landmarks")[0].reshape(LANDMARKS, 3).astype(np.float64)
    pose = Pose(
        array(table, "rotation")[0].reshape(3, 3).astype(np.float64),
        array(table, "translation")[0].astype(np.float64),
        float(array(table, "scale")[0]),
    )
    matte = head_matte(picture, labels, landmarks)
    matte *= rounded_top(matte, border)
    return Portrait(picture, foreground_colours(picture, matte), matte, labels, landmarks, pose)


def rounded_top(matte: NDArray[np.float32], border: float) -> NDArray[np.float32]:
    """Opacity that rounds hair off where the upper border cuts it, float32 [size, size]; one where nothing is cut.

    Args:
        matte: float32 [size, size].
        border: row of the crop at which the picture begins; negative where the picture goes on above the crop.
    """
    size = matte.shape[0]
    row = int(np.ceil(max(border, 0.0) + 0.5))
    columns = np.flatnonzero(matte[min(row + 1, size - 1)] > 0.5)
    if len(columns) < 0.03 * size:
        return np.ones_like(matte)
    middle, half = (columns[0] + columns[-1]) / 2, (columns[-1] - columns[0] + 1) / 2
    across = (np.arange(size, dtype=np.float32) - middle) / half
    depth = np.arange(size, dtype=np.float32)[:, None] - row - ROUNDING * half * across**2
    return np.asarray(np.clip(depth / (0.012 * size), 0, 1), np.float32)
