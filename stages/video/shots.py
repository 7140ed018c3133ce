"""Find cuts: where one frame and the next do not belong to the same run of the camera.

Two measures are combined, each 0 for equal frames and about 1 for unrelated ones: the histogram distance in HSV over a grid
of blocks, and one minus the correlation of the middle frequencies of the small grey pictures. Light that changes (a flash,
a fade) moves the histogram and leaves the structure, so structure weighs more. A cut must stand out from its neighbours, so
fast motion is none; the picture must not come back within a few frames, so a flash is none; flat frames (black or white) are
passed over, so a scene that fades out and in again is one shot, while another scene after the black is a new one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np

SMALL_WIDTH = 96
SMALL_HEIGHT = 54
"""Size at which frames are compared; the aspect ratio does not matter."""

LOOK_BACK = 5
"""Each frame is compared with this many before it, so that a flash of up to four frames is recognised."""

_GRID = 3
_BINS = (8, 4, 6)
_NEIGHBOURS = 4
_STRUCTURE = 0.7
_FLAT = 0.4
"""Standard deviation, in grey levels, of a picture's middle frequencies below which it is flat."""
_PROMINENCE = 1.7
_CALM = 0.75
_CALM_PROMINENCE = 6.0
_RETURN = 0.6
"""Share of the threshold below which a picture counts as come back."""


@dataclass(frozen=True)
class _Features:
    histogram: np.ndarray  # float32 [blocks, bins], each block sums to 1
    structure: np.ndarray  # float32 [pixels], zero mean, unit length (zero where the picture is flat)


class ChangeMeter:
    """Collects, frame after frame, how much each differs from the five before it. Memory: 20 bytes a frame."""

    def __init__(self) -> None:
        self._recent: deque[_Features] = deque(maxlen=LOOK_BACK)
        self._changes: list[np.ndarray] = []

    def add(self, small: np.ndarray) -> None:
        """``small``: uint8 [SMALL_HEIGHT, SMALL_WIDTH, 3] RGB of the next frame."""
        features = _features(small)
        row = np.full(LOOK_BACK, np.nan, np.float32)
        if features is None:
            row[: len(self._recent)] = 0.0
            self._changes.append(row)
            return
        for back, earlier in enumerate(reversed(self._recent)):
            row[back] = _change(features, earlier)
        self._changes.append(row)
        self._recent.append(features)

    @property
    def changes(self) -> np.ndarray:
        """float32 [frames, LOOK_BACK]: change of frame k against frame k - 1 - column; NaN before the first frame."""
        return np.stack(self._changes) if self._changes else np.empty((0, LOOK_BACK), np.float32)


def find_shots(changes: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    """Shots as (first frame, end frame), covering every frame.

    Args:
        changes: float32 [frames, LOOK_BACK] of ``ChangeMeter``.
        threshold: change from one frame to the next that counts as a cut, 0..1.
    """
    count = len(changes)
    steps = changes[:, 0]
    cuts = [0]
    for frame in range(1, count):
        if _is_step(steps, frame, threshold) and not _comes_back(changes, frame, threshold):
            cuts.append(frame)
    return list(zip(cuts, [*cuts[1:], count], strict=True))


def _is_step(steps: np.ndarray, frame: int, threshold: float) -> bool:
    """Whether a change is large, and larger than those around it; between alike scenes a smaller one will do if all is calm."""
    around = np.concatenate([steps[max(1, frame - _NEIGHBOURS) : frame], steps[frame + 1 : frame + 1 + _NEIGHBOURS]])
    usual = float(np.median(around)) if len(around) else 0.0
    step = float(steps[frame])
    return (step >= threshold and step >= _PROMINENCE * usual) or (step >= _CALM * threshold and step >= _CALM_PROMINENCE * usual)


def _comes_back(changes: np.ndarray, frame: int, threshold: float) -> bool:
    """Whether the picture before this frame is seen again shortly after it, or this one was seen shortly before."""
    after = [changes[frame + later, later] for later in range(1, LOOK_BACK) if frame + later < len(changes)]
    return bool(np.nanmin([1.0, *after, *changes[frame, 1:]]) < _RETURN * threshold)


def _features(small: np.ndarray) -> _Features | None:
    """None for a nearly flat picture (black or white between two scenes): it has no structure to compare."""
    hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV).astype(np.int32)
    hue = hsv[..., 0] * _BINS[0] // 180
    saturation = hsv[..., 1] * _BINS[1] // 256
    value = hsv[..., 2] * _BINS[2] // 256
    # The hue of a grey or dark pixel is noise.
    colourless = (hsv[..., 1] < 40) | (hsv[..., 2] < 40)
    bins = np.where(colourless, value, _BINS[2] + (hue * _BINS[1] + saturation) * _BINS[2] + value)
    size = _BINS[2] + _BINS[0] * _BINS[1] * _BINS[2]
    height, width = bins.shape
    row = np.arange(height) * _GRID // height
    column = np.arange(width) * _GRID // width
    block = row[:, None] * _GRID + column[None, :]
    histogram = np.bincount((block * size + bins).ravel(), minlength=_GRID * _GRID * size).reshape(-1, size).astype(np.float32)
    histogram /= histogram.sum(axis=1, keepdims=True)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    detail = (cv2.GaussianBlur(grey, (0, 0), 2.0) - cv2.GaussianBlur(grey, (0, 0), 10.0))[::2, ::2].ravel()
    detail -= detail.mean()
    length = float(np.linalg.norm(detail))
    if length < _FLAT * np.sqrt(detail.size):
        return None
    return _Features(histogram, detail / length)


def _change(first: _Features, second: _Features) -> float:
    histogram = float(1.0 - np.minimum(first.histogram, second.histogram).sum(axis=1).mean())
    structure = float(np.clip(1.0 - first.structure @ second.structure, 0.0, 1.0))
    return (1.0 - _STRUCTURE) * histogram + _STRUCTURE * structure
