"""Smooth completion of missing pixels, by a pull and push over a pyramid (normalised convolution, Knutsson 1993)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def fill_smoothly(picture: NDArray[np.uint8], known: NDArray[np.bool_] | NDArray[np.floating]) -> NDArray[np.uint8]:
    """Fill what is not known with a smooth continuation of what is.

    Args:
        picture: uint8 [height, width, 3].
        known: bool or float weights in 0..1 [height, width].

    Returns:
        uint8 [height, width, 3]; pixels of weight one are the picture's. Without any known pixel: the picture itself.
    """
    weight = np.asarray(known, np.float32)
    if not weight.any():
        return picture.copy()
    filled = _pull_push(picture.astype(np.float32) * weight[..., None], weight)
    share = weight[..., None]
    return np.asarray(np.clip(picture * share + filled * (1 - share) + 0.5, 0, 255), np.uint8)


def _pull_push(weighted: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = weight.shape
    if min(height, width) <= 2 or weight.min() > 0.98:
        total = weight.sum()
        mean = weighted.sum((0, 1)) / max(float(total), 1e-6)
        share = np.clip(weight, 0, 1)[..., None]
        return np.asarray(weighted + (1 - share) * mean, np.float32)
    half = ((width + 1) // 2, (height + 1) // 2)
    small_weighted = cv2.resize(weighted, half, interpolation=cv2.INTER_AREA)
    small_weight = cv2.resize(weight, half, interpolation=cv2.INTER_AREA)
    scale = np.where(small_weight > 1e-6, np.minimum(1.0, 4 * small_weight) / np.maximum(small_weight, 1e-6), 0).astype(
        np.float32
    )
    coarse = _pull_push(small_weighted * scale[..., None], small_weight * scale)
    upper = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(weighted + (1 - np.clip(weight, 0, 1)[..., None]) * upper, np.float32)
