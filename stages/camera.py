"""How the camera moved: frames of a shot are registered on their background.

All transforms are 2x3 in this project's pixel convention (``stages.video.crops``): frame pixels -> plate pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike

from stages.segmentation import shrunk
from stages.video.crops import opencv_matrix
from stages.video.view import FrameView, as_view


def identity() -> np.ndarray:
    """The transform that changes nothing, float64 [2, 3]."""
    return np.array([[1.0, 0, 0], [0, 1.0, 0]])


def chain(second: ArrayLike, first: ArrayLike) -> np.ndarray:
    """The transform that does ``first``, then ``second``; float64 [2, 3] each."""
    a, b = np.asarray(second, np.float64).reshape(2, 3), np.asarray(first, np.float64).reshape(2, 3)
    return np.hstack([a[:, :2] @ b[:, :2], a[:, :2] @ b[:, 2:] + a[:, 2:]])


def invert(transform: ArrayLike) -> np.ndarray:
    """The inverse transform, float64 [2, 3]. Raises ``numpy.linalg.LinAlgError`` where there is none."""
    a = np.asarray(transform, np.float64).reshape(2, 3)
    inverse = np.linalg.inv(a[:, :2])
    return np.hstack([inverse, -inverse @ a[:, 2:]])


# ---------------------------------------------------------------------------------------------------------- registration


LEVELS = 4
"""How often pictures are halved for corners that may have moved far."""

NEAR_LEVELS = (1, 0)
"""The same, there and back, where it is known to some 20 pixels where they went."""

WINDOW = 21
"""Pixels around a corner that are looked at to track it; odd."""

FEWEST = 8
"""Corners that a transform needs."""


@dataclass(frozen=True)
class Registration:
    """Where a picture lies in the coordinates of another."""

    transform: np.ndarray
    """float64 [2, 3], pixels of the picture -> pixels of the reference."""
    matches: int
    """Corners that agree with the transform."""
    residual: float
    """Their root mean square distance to it, pixels."""


class Reference:
    """A picture to which others are registered, by corners of its background."""

    SAME_LIGHT = 0.06
    """Where mean or contrast around corners differ by more than this share of the contrast, they are made the same and the
    corners are tracked anew: what grows brighter seems to move."""

    def __init__(self, gray: np.ndarray, usable: np.ndarray, corners: int = 160) -> None:
        """Find the corners.

        Args:
            gray: uint8 [height, width].
            usable: boolean [height, width], background.
            corners: how many at most.
        """
        self.gray = gray
        distance = max(5, gray.shape[1] // 80)
        # At the person's outline coding leaves a halo that goes with the person, not with the background.
        away = cv2.erode(usable.astype(np.uint8), np.ones((WINDOW, WINDOW), np.uint8))
        self._points = cv2.goodFeaturesToTrack(gray, corners, 0.005, distance, mask=away)
        self._levels = _levels(gray)
        self.contrast = self._levels[1]
        self.blind = self._points is None or len(self._points) < FEWEST
        """Whether it has so few corners that nothing can be registered to it."""

    def register(
        self, picture: np.ndarray, guess: np.ndarray | None = None, near: bool = False, levelled: bool = False
    ) -> Registration | None:
        """Similarity (turn, zoom, shift) from ``picture`` to this one, from its corners tracked there and back.

        Args:
            picture: gray uint8 [height, width] of the same size.
            guess: expected transform picture -> reference, float64 [2, 3].
            near: whether the guess is good to some 20 pixels: corners are then looked for in half the time.
            levelled: give both the same brightness and contrast first, for lights that are turned up or down.

        Returns:
            None where too little of the background can be recognised.
        """
        if self._points is None or self.blind:
            return None
        # In other light noise is made stronger with the rest: it takes more corners to believe what is found there.
        found = (
            self._once(*_levelled(self.gray, picture, self._levels, _levels(picture)), guess, near, 2 * FEWEST, 0.6)
            if levelled
            else self._once(self.gray, picture, guess, near)
        )
        if found is None:
            return None
        registration, here = found
        if _alike(self._levels, _levels(picture), self.SAME_LIGHT / 2):
            return registration  # by far most frames
        ours, theirs = (_levels(_patches(part, points)) for part, points in zip((self.gray, picture), here, strict=True))
        if _alike(ours, theirs, self.SAME_LIGHT):
            return registration
        again = self._once(*_levelled(self.gray, picture, ours, theirs), registration.transform, True, 2 * FEWEST)
        return None if again is None else again[0]

    def _once(
        self,
        gray: np.ndarray,
        picture: np.ndarray,
        guess: np.ndarray | None,
        near: bool,
        fewest: int = FEWEST,
        share: float = 0.35,
    ) -> tuple[Registration, tuple[np.ndarray, np.ndarray]] | None:
        """``picture`` registered to ``gray``, and corners that agree, float32 [matches, 2] each: here and there.

        ``fewest``, ``share``: how many corners have to agree, and which share of those that were tracked.
        """
        points = self._points
        assert points is not None
        start = points.copy()
        if guess is not None:
            back = opencv_matrix(invert(guess))
            start = (points.reshape(-1, 2) @ back[:, :2].T + back[:, 2]).astype(np.float32).reshape(-1, 1, 2)
        there_levels, back_levels = NEAR_LEVELS if near else (LEVELS, LEVELS)
        moved, status = _track(gray, picture, points, start, there_levels)
        again, status_back = _track(picture, gray, moved, points.copy(), back_levels)
        # A corner that does not come back to where it started was lost behind the person.
        good = status & status_back & (np.abs(again - points).max(axis=(1, 2)) < 0.7)
        if good.sum() < FEWEST:
            return None
        there, here = points[good].reshape(-1, 2), moved[good].reshape(-1, 2)
        matrix, inliers = cv2.estimateAffinePartial2D(here, there, method=cv2.RANSAC, ransacReprojThreshold=1.5, maxIters=500)
        if matrix is None or int(inliers.sum()) < max(fewest, share * good.sum()):
            return None
        agree = inliers.ravel() > 0
        error = here[agree] @ matrix[:, :2].T + matrix[:, 2] - there[agree]
        transform = matrix.copy()
        transform[:, 2] += 0.5 - matrix[:, :2] @ (0.5, 0.5)  # OpenCV counts from the centre of the first pixel
        found = Registration(transform, int(agree.sum()), float(np.sqrt((error**2).sum(1).mean())))
        return found, (there[agree], here[agree])


def register(
    reference: np.ndarray, picture: np.ndarray, usable: np.ndarray, guess: np.ndarray | None = None, corners: int = 160
) -> Registration | None:
    """``picture`` registered to ``reference``, gray uint8 [height, width] both, once; see :class:`Reference`."""
    return Reference(reference, usable, corners).register(picture, guess)


def _levels(gray: np.ndarray) -> tuple[float, float]:
    """Mean and contrast of a picture; of patches [patches, pixels] the medians of theirs."""
    if gray.dtype == np.uint8:
        mean, spread = cv2.meanStdDev(gray)
        return float(mean[0, 0]), float(spread[0, 0])
    return float(np.median(gray.mean(1))), float(np.median(gray.std(1)))


def _alike(levels: tuple[float, float], others: tuple[float, float], share: float) -> bool:
    """Whether mean and contrast differ by less than a share of the smaller contrast."""
    limit = share * min(levels[1], others[1])
    return abs(levels[0] - others[0]) < limit and abs(levels[1] - others[1]) < limit


_PATCH = np.stack(np.meshgrid(np.arange(-8, 9, 2), np.arange(-8, 9, 2)), -1).reshape(-1, 2)


def _patches(gray: np.ndarray, points: np.ndarray) -> np.ndarray:
    """What is seen around some 32 of the points float [n, 2]: float32 [patches, 81]."""
    points = points[:: max(1, len(points) // 32)]
    at = np.clip(np.rint(points).astype(np.int32)[:, None] + _PATCH, 0, (gray.shape[1] - 1, gray.shape[0] - 1))
    return gray[at[..., 1], at[..., 0]].astype(np.float32)


def _levelled(
    first: np.ndarray, second: np.ndarray, levels: tuple[float, float], other_levels: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Two gray pictures, the one with less contrast brought to the mean and the contrast of the other."""
    (mean, spread), (other_mean, other_spread) = levels, other_levels
    if spread > other_spread:
        second, first = _levelled(second, first, other_levels, levels)
        return first, second
    tones = other_mean + (np.arange(256) - mean) * (other_spread / max(spread, 1e-3))
    return cv2.LUT(first, np.asarray(np.clip(np.rint(tones), 0, 255), np.uint8)), second


def _track(
    before: np.ndarray, after: np.ndarray, points: np.ndarray, start: np.ndarray, levels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lucas-Kanade in a pyramid: where ``points`` went, searched for from ``start``, and which were found."""
    found, status, _ = cv2.calcOpticalFlowPyrLK(
        before,
        after,
        points,
        start,
        winSize=(WINDOW, WINDOW),
        maxLevel=levels,
        criteria=(cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 0.01),
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    return found, status.ravel() > 0


@dataclass(frozen=True)
class _Earlier:
    """A frame that was registered, and may become a reference."""

    gray: np.ndarray
    background: Callable[[], np.ndarray]
    to_first: np.ndarray


class Camera:
    """Follows the camera through a shot, frame by frame, relative to the shot's first frame.

    Each frame is registered to a reference frame, not to its neighbour, so that errors do not add up; a new reference is
    taken only when little of the old one is still in view, or when nothing of it can be recognised: it may be a frame of a fade,
    too dark to know others by.
    """

    LONGEST_SIDE = 480

    PATIENCE = 4
    """A frame takes the place of a reference as rich in contrast when so many frames in a row were lost; a poorer one later."""

    RICHER = 1.5
    """A frame with so many times the contrast takes the place of a reference: the dark end of a fade shows no small things."""

    def __init__(self, closely: bool = True) -> None:
        """``closely``: the frames follow each other, so that the camera has not gone far from one to the next."""
        self._closely = closely
        self._patience = self.PATIENCE if closely else 1  # frames far apart: the next may show something else altogether
        self._reference: Reference | None = None
        self._earlier: _Earlier | None = None
        self._to_first = identity()
        self._last = identity()
        self._most = 0
        self._lost_in_a_row = 0
        self.lost = 0
        """Frames whose background could not be recognised; they keep the transform of the frame before."""

    @property
    def blind(self) -> bool:
        """Whether no frame so far had anything to recognise: black, or a wall without detail."""
        return self._reference is None or self._reference.blind

    def follow(self, picture: np.ndarray | FrameView, background: Callable[[], np.ndarray]) -> np.ndarray:
        """Transform from this frame to the first, float64 [2, 3], frame pixels.

        Args:
            picture: uint8 [height, width, 3], or a view.
            background: gives boolean [height, width], what surely does not show the person; called for references only, which a
                frame may become while the next one is followed.
        """
        view = as_view(picture)
        height, width = view.height, view.width
        scale = min(1.0, self.LONGEST_SIDE / max(height, width))
        size = (max(16, round(width * scale)), max(16, round(height * scale)))
        # By halves as far as possible: that takes a tenth of the time.
        gray = view.brightness()
        while gray.shape[1] >= 2 * size[0] and gray.shape[0] >= 2 * size[1]:
            gray = shrunk(gray, 2)
        gray = cv2.resize(np.ascontiguousarray(gray), size, interpolation=cv2.INTER_AREA)
        shrink = np.array([[size[0] / width, 0, 0], [0, size[1] / height, 0]])
        if self._reference is None:
            self._reference = _reference(gray, background)
            return identity()
        found = self._found(self._reference, self._to_first, gray, shrink) or self._found_from_earlier(gray, shrink)
        if found is None:
            self.lost += 1
            self._lost_in_a_row += 1
            self._earlier = None
            self._replace(self._reference, gray, background)
            return self._last
        self._lost_in_a_row = 0
        self._last = chain(self._to_first, chain(invert(shrink), chain(found.transform, shrink)))
        self._most = max(self._most, found.matches)
        self._earlier = _Earlier(gray, background, self._last)
        if found.matches < 0.4 * self._most or _levels(gray)[1] > self.RICHER * self._reference.contrast:
            self._refer(_reference(gray, background), self._last)
        return self._last

    def _found(self, reference: Reference, to_first: np.ndarray, gray: np.ndarray, shrink: np.ndarray) -> Registration | None:
        guess = chain(chain(shrink, chain(invert(to_first), self._last)), invert(shrink))
        found = reference.register(gray, guess, near=self._closely)
        if self._closely and (found is None or found.matches < 0.7 * self._most):
            found = reference.register(gray, guess) or found
        return found or reference.register(gray, guess, levelled=True)

    def _found_from_earlier(self, gray: np.ndarray, shrink: np.ndarray) -> Registration | None:
        """A frame registered to the one before, which becomes the reference where that succeeds."""
        earlier = self._earlier
        if earlier is None:
            return None
        reference = _reference(earlier.gray, earlier.background)
        found = self._found(reference, earlier.to_first, gray, shrink)
        if found is not None:
            self._refer(reference, earlier.to_first)
        return found

    def _replace(self, reference: Reference, gray: np.ndarray, background: Callable[[], np.ndarray]) -> None:
        """After a loss: take this frame for ``reference`` where that is blind, or was given long enough for how rich it is.

        The camera counts as not having moved while frames were lost.
        """
        if reference.blind or _levels(gray)[1] * self._lost_in_a_row >= reference.contrast * self._patience:
            candidate = _reference(gray, background)
            if not candidate.blind:
                self._refer(candidate, self._last)

    def _refer(self, reference: Reference, to_first: np.ndarray) -> None:
        self._reference, self._to_first = reference, to_first
        self._earlier, self._most, self._lost_in_a_row = None, 0, 0


def _reference(gray: np.ndarray, background: Callable[[], np.ndarray]) -> Reference:
    size = (gray.shape[1], gray.shape[0])
    return Reference(gray, cv2.resize(background().astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0)
