"""How well label maps and background plates agree with the truth. Functions of arrays.

Label maps are uint8 [height, width] with the values of ``schemas.tables.LABELS``; pictures uint8 [height, width, 3];
``where`` boolean [height, width], the pixels that count (by default all).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.tables import LABELS

Mask = NDArray[np.bool_]
Labels = NDArray[np.uint8]
Picture = NDArray[np.uint8]

REGIONS: Mapping[str, tuple[str, ...]] = {
    "hair": ("hair",),
    "face": ("face",),
    "head": ("hair", "face"),
    "neck": ("neck",),
    "cloth": ("cloth",),
    "hand": ("other",),
    "person": LABELS[1:],
}
"""What is compared: unions of labels. The head is what a swap replaces, the person what a plate must not show."""

LARGEST_PSNR = 99.0
"""Stands for a perfect copy, whose ratio has no bound."""


def region(labels: Labels, name: str) -> Mask:
    """The pixels of one of ``REGIONS``."""
    return np.isin(labels, [LABELS.index(label) for label in REGIONS[name]])


def intersection_over_union(found: Mask, truth: Mask, where: Mask | None = None) -> float:
    """Pixels of both over pixels of either; NaN where neither has any."""
    if where is not None:
        found, truth = found & where, truth & where
    either = int((found | truth).sum())
    return int((found & truth).sum()) / either if either else float("nan")


def boundary(mask: Mask, where: Mask | None = None) -> Mask:
    """Pixels of the mask with a neighbour (of four) that is counted and outside of it."""
    where = np.ones_like(mask) if where is None else where
    outside = np.pad(where & ~mask, 1)
    beside = outside[:-2, 1:-1] | outside[2:, 1:-1] | outside[1:-1, :-2] | outside[1:-1, 2:]
    return mask & where & beside


def boundary_error(found: Mask, truth: Mask, where: Mask | None = None) -> float:
    """Mean distance in pixels from each boundary to the other's nearest point, both ways averaged.

    NaN where one has no boundary. Borders of the picture and of ``where`` are no boundaries.
    """
    ours, theirs = boundary(found, where), boundary(truth, where)
    if not ours.any() or not theirs.any():
        return float("nan")
    to_ours, to_theirs = (cv2.distanceTransform((~line).astype(np.uint8), cv2.DIST_L2, 5) for line in (ours, theirs))
    return float(to_theirs[ours].mean() + to_ours[theirs].mean()) / 2


def label_measures(found: Labels, truth: Labels, where: Mask | None = None) -> dict[str, float]:
    """``iou_<region>`` and ``boundary_<region>`` (pixels) of every region that the truth has, NaN of the others.

    Also ``cloth_as_hair``, the share of the cloth that was taken for hair, and ``hair_as_cloth``.
    """
    result: dict[str, float] = {}
    where = np.ones(truth.shape, bool) if where is None else where
    for name in REGIONS:
        ours, theirs = region(found, name), region(truth, name) & where
        there = bool(theirs.any())
        result[f"iou_{name}"] = intersection_over_union(ours, theirs, where) if there else float("nan")
        result[f"boundary_{name}"] = boundary_error(ours, theirs, where)
    for true, taken in (("cloth", "hair"), ("hair", "cloth")):
        theirs = region(truth, true) & where
        share = float(region(found, taken)[theirs].mean()) if theirs.any() else float("nan")
        result[f"{true}_as_{taken}"] = share
    return result


def absolute_error(found: Picture, truth: Picture, where: Mask) -> float:
    """Mean absolute difference over ``where`` and the colours, 0..255; NaN where nothing counts."""
    if not where.any():
        return float("nan")
    return float(np.abs(found[where].astype(np.float32) - truth[where].astype(np.float32)).mean())


def peak_signal_to_noise(found: Picture, truth: Picture, where: Mask) -> float:
    """PSNR in decibels over ``where``, at most ``LARGEST_PSNR``; NaN where nothing counts."""
    if not where.any():
        return float("nan")
    error = found[where].astype(np.float64) - truth[where].astype(np.float64)
    mean = float((error * error).mean())
    return min(LARGEST_PSNR, 10 * float(np.log10(255**2 / mean))) if mean > 0 else LARGEST_PSNR


def flicker_error(found: Sequence[Picture], truth: Sequence[Picture], where: Sequence[Mask]) -> NDArray[np.float64]:
    """Second differences over time, ours against the truth's, per frame: float64 [frames], 0..255.

    For a frame t it is the mean over pixels that count in t - 1, t and t + 1 of |d2 found - d2 truth| with
    d2 x = (x(t - 1) + x(t + 1)) / 2 - x(t). A plate that moves with the camera as the background does has none, wherever it is
    wrong in itself. NaN at both ends and where nothing counts.
    """
    result = np.full(len(found), np.nan)
    for t in range(1, len(found) - 1):
        counted = where[t - 1] & where[t] & where[t + 1]
        if counted.any():
            error = [found[k][counted].astype(np.float32) - truth[k][counted] for k in (t - 1, t, t + 1)]
            result[t] = float(np.abs((error[0] + error[2]) / 2 - error[1]).mean())
    return result


def rim(hole: Mask, width: float) -> Mask:
    """The pixels of a hole nearer than ``width`` pixels to its border: where what the labels missed would show."""
    return hole & (cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, 5) <= width)
