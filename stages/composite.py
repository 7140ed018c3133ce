"""Puts generated crops into the target's frames: only inside the generated region, everything else stays bit for bit.

The window around the region is composed as RGB in display orientation, then written into a copy of the frame's own planes, so
that outside the region the coded samples are the target's, whatever their format.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d

from schemas.tables import FOREGROUND_BLOCKS
from stages.blocks import expand_grid
from stages.video.crops import crop_matrix, frame_matrix, opencv_matrix

Image = NDArray[np.uint8]
Weights = NDArray[np.float32]

UNCHANGED, CHANGED = 3.0, 11.0
"""Difference, 0..255, between crop and target up to which the target's own pixel is kept, and from which it is not."""

_NEUTRAL = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
_GAIN_LIMIT, _OFFSET_LIMIT = 1.3, 30.0


@dataclass(frozen=True)
class Window:
    """Part of a frame that a generated crop may change.

    Attributes:
        left, top, right, bottom: frame pixels, display orientation, the end exclusive.
    """

    left: int
    top: int
    right: int
    bottom: int

    @property
    def empty(self) -> bool:
        return self.right <= self.left or self.bottom <= self.top


def region_window(crop: ArrayLike, weight: Weights, width: int, height: int) -> Window:
    """The smallest window of a frame that holds every pixel of positive weight, with a pixel to spare.

    Args:
        crop: centre x, centre y, side, frame pixels; may reach beyond the frame.
        weight: float32 [size, size].
        width, height: of the frame, display orientation.
    """
    rows, columns = np.flatnonzero(weight.any(1)), np.flatnonzero(weight.any(0))
    if not len(rows):
        return Window(0, 0, 0, 0)
    matrix = frame_matrix(crop, weight.shape[0])
    left, top = matrix[:, :2] @ (columns[0], rows[0]) + matrix[:, 2] - 1
    right, bottom = matrix[:, :2] @ (columns[-1] + 1, rows[-1] + 1) + matrix[:, 2] + 1
    return Window(
        max(0, int(np.floor(left))),
        max(0, int(np.floor(top))),
        min(width, int(np.ceil(right))),
        min(height, int(np.ceil(bottom))),
    )


Sides = tuple[bool, bool, bool, bool]


def feathered_region(
    region: NDArray[np.bool_], size: int, feather: float, open_sides: Sides = (False, False, False, False)
) -> Weights:
    """Weight of the generated crop: zero outside the region, rising to one inside it.

    Args:
        region: bool [16, 16] blocks over the crop, or flat [256].
        size: side of the crop, pixels.
        feather: width of the soft border, share of the crop's side. It lies inside the region.
        open_sides: left, top, right, bottom: where the crop's edge lies outside the frame, so that a region that reaches it needs
            no soft border there. At the other sides the crop's edge is a border of the region.

    Returns:
        float32 [size, size] in 0..1.
    """
    blocks = expand_grid(np.asarray(region, bool).reshape(FOREGROUND_BLOCKS, FOREGROUND_BLOCKS), size).astype(np.uint8)
    width = max(feather * size, 0.5)
    margin = int(np.ceil(width)) + 1
    padded = np.pad(blocks, margin)
    left, top, right, bottom = open_sides
    inner = slice(margin, -margin)
    if left:
        padded[inner, :margin] = blocks[:, :1]
    if right:
        padded[inner, -margin:] = blocks[:, -1:]
    if top:
        padded[:margin] = padded[margin]
    if bottom:
        padded[-margin:] = padded[-margin - 1]
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[inner, inner]
    # The centre of the first pixel inside lies half a pixel from the border.
    share = np.clip((np.minimum(distance, size) - 0.5) / width, 0, 1)
    return np.asarray(share * share * (3 - 2 * share) * blocks, np.float32)


def changed_share(generated: NDArray[np.float32], target: NDArray[np.float32]) -> Weights:
    """How much a generated picture differs from the target's, softly and a few pixels wide of it; float32 [h, w] in 0..1.

    A renderer that leaves the target's pixels as they are (cloth, hands) would otherwise soften them by resampling twice.
    """
    height, width = target.shape[:2]
    half = (max(1, width // 2), max(1, height // 2))
    small = [cv2.resize(picture, half, interpolation=cv2.INTER_AREA) for picture in (generated, target)]
    red, green, blue = cv2.split(cv2.absdiff(small[0], small[1]))
    difference = cv2.max(cv2.max(red, green), blue)
    share = np.clip((difference - np.float32(UNCHANGED)) * np.float32(1 / (CHANGED - UNCHANGED)), 0, 1)
    share = cv2.blur(cv2.dilate(share, np.ones((5, 5), np.uint8)), (3, 3))
    return np.asarray(cv2.resize(share, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def exposure_curves(target: ArrayLike, generated: ArrayLike, shots: ArrayLike, smoothing_frames: float) -> NDArray[np.float64]:
    """Gain and offset per frame that bring the generated crop's ring to the target's (Reinhard 2001), smooth inside each shot.

    Args:
        target: float [frames, 6], mean and standard deviation of L, a, b around the region, in the target; NaN where unknown.
        generated: the same in the generated crops.
        shots: int [frames].
        smoothing_frames: standard deviation of the smoothing over time.

    Returns:
        float64 [frames, 6]: gain of L, a, b, then what is added after it; frames without statistics get what their shot's
        neighbours have, or no change.
    """
    target, generated = np.asarray(target, np.float64), np.asarray(generated, np.float64)
    shots = np.asarray(shots)
    known = np.isfinite(target).all(1) & np.isfinite(generated).all(1)
    gain = np.maximum(target[:, 3:], 0.5) / np.maximum(generated[:, 3:], 0.5)
    gain = np.clip(gain, 1 / _GAIN_LIMIT, _GAIN_LIMIT)
    offset = target[:, :3] - gain * generated[:, :3]
    # Limits are on what happens to the ring's mean, not on the line's intercept.
    shift = np.clip(target[:, :3] - generated[:, :3], -_OFFSET_LIMIT, _OFFSET_LIMIT)
    offset = generated[:, :3] * (1 - gain) + shift
    raw = np.concatenate([gain, offset], axis=1)
    curves = np.tile(_NEUTRAL, (len(raw), 1))
    for shot in np.unique(shots):
        inside = shots == shot
        weight = (known & inside)[inside].astype(np.float64)
        if not weight.any():
            continue
        values = np.where(weight[:, None] > 0, raw[inside], 0.0)
        if smoothing_frames > 0:
            values = gaussian_filter1d(values, smoothing_frames, axis=0, mode="constant", truncate=4.0)
            weight = gaussian_filter1d(weight, smoothing_frames, mode="constant", truncate=4.0)
        found = weight > 1e-6
        smooth = np.tile(_NEUTRAL, (len(weight), 1))
        smooth[found] = values[found] / weight[found, None]
        curves[inside] = smooth
    return curves


def match_exposure(crop: Image, curve: ArrayLike) -> Image:
    """Apply one row of ``exposure_curves`` to an RGB crop; a row that changes nothing returns the crop itself."""
    curve = np.asarray(curve, np.float64)
    if np.allclose(curve, _NEUTRAL, atol=2e-3):
        return crop
    lab = cv2.cvtColor(crop, cv2.COLOR_RGB2LAB)
    steps = np.arange(256, dtype=np.float64)
    table = np.stack([np.clip(np.rint(steps * curve[k] + curve[3 + k]), 0, 255) for k in range(3)], axis=1)
    return np.asarray(cv2.cvtColor(cv2.LUT(lab, table.astype(np.uint8)[None]), cv2.COLOR_LAB2RGB), np.uint8)


def compose_window(
    target: NDArray[np.float32],
    window: Window,
    generated: Image,
    crop: ArrayLike,
    weight: Weights,
    *,
    curve: ArrayLike | None = None,
    keep_unchanged: bool = True,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Lay a generated crop over a window of the target's frame.

    Args:
        target: float32 RGB [h, w, 3], 0..255, the window's pixels in the target; may leave 0..255 a little.
        window: where they lie in the frame; from ``region_window``.
        generated: uint8 RGB [size, size, 3].
        crop: centre x, centre y, side, frame pixels.
        weight: float32 [size, size], from ``feathered_region``.
        curve: row of ``exposure_curves``; None leaves the colours.
        keep_unchanged: keep the target's own pixel where the crop shows the same (see ``changed_share``).

    Returns:
        float32 RGB [h, w, 3], and bool [h, w], where it differs from ``target``: nowhere that the weight is zero.
    """
    shown = _to_window(generated, crop, window)
    share = _to_window(weight, crop, window)
    if keep_unchanged:
        share = share * changed_share(shown, target)
    if curve is not None:
        matched = match_exposure(generated, curve)
        if matched is not generated:
            shown = _to_window(matched, crop, window)
    share[share < 1 / 512] = 0
    shown -= target
    shown *= share[..., None]
    shown += target
    return shown, share > 0


def _to_window(picture: Image | Weights, crop: ArrayLike, window: Window) -> NDArray[np.float32]:
    """Resample a crop (picture or weights) to a window of the frame: cubic when enlarging, area when shrinking."""
    left, top, right, bottom = window.left, window.top, window.right, window.bottom
    size = picture.shape[0]
    side = float(np.asarray(crop)[2])
    oversampling = min(max(int(np.ceil(size / side - 1e-6)), 1), 8)
    matrix = crop_matrix(crop, size)
    # Pixels of the oversampled window -> frame pixels -> crop pixels.
    scale = 1.0 / oversampling
    inverse = np.array(
        [
            [matrix[0, 0] * scale, 0.0, matrix[0, 0] * left + matrix[0, 2]],
            [0.0, matrix[1, 1] * scale, matrix[1, 1] * top + matrix[1, 2]],
        ]
    )
    method = cv2.INTER_CUBIC if side > size and picture.dtype == np.uint8 else cv2.INTER_LINEAR
    wanted = ((right - left) * oversampling, (bottom - top) * oversampling)
    border = cv2.BORDER_REPLICATE if picture.ndim == 3 else cv2.BORDER_CONSTANT
    enlarged = cv2.warpAffine(picture, opencv_matrix(inverse), wanted, flags=method | cv2.WARP_INVERSE_MAP, borderMode=border)
    if oversampling > 1:
        enlarged = cv2.resize(enlarged, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    return np.asarray(enlarged, np.float32)
