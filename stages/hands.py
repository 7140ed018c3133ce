"""Hands in front of the face: found by MediaPipe's hand landmarks, since their colour is the face's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType

import cv2
import numpy as np

from stages.segmentation import HeadFrame, polygon, shrunk
from stages.video.crops import to_crop
from stages.video.view import FrameView, as_view

POINTS = 21
INTERVAL = 4
"""Hands are looked for in frames whose number is a multiple of this, and in all frames next to one with a hand at the head. The
network misses a hand now and then: looking half as often lost one on the chin for half a second."""

_WIDE, _LOWER, _SIDE = 1.5, 0.15, 320
"""The window in which hands are looked for is larger than the crop and lies lower, to show more of an arm; its longest side."""

_PALM = (0, 1, 5, 9, 13, 17)
_FINGERS = ((1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12), (13, 14, 15, 16), (17, 18, 19, 20))


class HandNetwork:
    """MediaPipe's hand landmarks on single pictures (no state between calls)."""

    def __init__(self) -> None:
        import mediapipe  # heavy: only where masks are computed

        self._network = mediapipe.solutions.hands.Hands(
            static_image_mode=True, max_num_hands=2, model_complexity=1, min_detection_confidence=0.3
        )

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """Landmarks float64 [hands, 21, 2] in pixels of ``rgb`` uint8 [height, width, 3]."""
        found = self._network.process(np.ascontiguousarray(rgb)).multi_hand_landmarks or []
        points = np.array([[(point.x, point.y) for point in hand.landmark] for hand in found], np.float64)
        return points.reshape(-1, POINTS, 2) * (rgb.shape[1], rgb.shape[0])

    def close(self) -> None:
        self._network.close()

    def __enter__(self) -> HandNetwork:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def hands_in_crop(network: HandNetwork, picture: np.ndarray | FrameView, crop: np.ndarray, size: int) -> np.ndarray:
    """Hands found in a window around a crop, float64 [hands, 21, 2] in pixels of the crop.

    Args:
        network: the network.
        picture: uint8 [height, width, 3] or a view, the whole frame.
        crop: centre x, centre y, side in frame pixels; size: of the crop's own picture.
    """
    x, y, side = (float(value) for value in crop)
    half = _WIDE * side / 2
    view = as_view(picture)
    left, top = max(0, int(x - half)), max(0, int(y + _LOWER * side - half))
    right, bottom = min(view.width, int(x + half)), min(view.height, int(y + _LOWER * side + half))
    if right - left < 2 or bottom - top < 2:
        return np.zeros((0, POINTS, 2))
    window = view.part(left, top, right, bottom)
    factor = max(1, min(max(window.shape[:2]) // _SIDE, *window.shape[:2]))
    window = shrunk(window, factor)
    scale = min(1.0, _SIDE / max(window.shape[:2]))
    small = cv2.resize(window, (round(window.shape[1] * scale), round(window.shape[0] * scale)), interpolation=cv2.INTER_AREA)
    ratio = factor * np.array([window.shape[1] / small.shape[1], window.shape[0] / small.shape[0]])
    return to_crop(network(small) * ratio + (left, top), crop, size)


def at_head(hands: np.ndarray, landmarks: np.ndarray) -> bool:
    """Whether any hand reaches above the chin, in front of or beside the head."""
    head = HeadFrame.of(landmarks)
    away = (hands - head.centre) / head.size
    u = away[..., 0] * head.right[0] + away[..., 1] * head.right[1]
    v = -away[..., 0] * head.right[1] + away[..., 1] * head.right[0]
    return bool(((np.abs(u) < 0.9) & (v < 0.62) & (v > -1)).any())


def hand_mask(hands: np.ndarray, grid: int, crop: int) -> np.ndarray:
    """Palms and fingers, uint8 0 or 255 [grid, grid], of ``hands`` float [hands, 21, 2] in pixels of a crop of side ``crop``."""
    mask = np.zeros((grid, grid), np.uint8)
    for points in hands:
        scaled = points * (grid / crop)
        palm = float(np.linalg.norm(scaled[5] - scaled[17]) + np.linalg.norm(scaled[0] - scaled[9])) / 2
        width = max(1, round(0.26 * palm))  # of a finger
        mask |= polygon(cv2.convexHull(points[list(_PALM)].astype(np.float32))[:, 0], grid, crop)
        for finger in (*_FINGERS, (0, 1, 5, 9, 13, 17, 0)):
            line = scaled[list(finger)]
            if finger in _FINGERS:
                line[-1] += 0.35 * (line[-1] - line[-2])  # the last landmark lies under the nail
            cv2.polylines(mask, [np.round((line - 0.5) * 16).astype(np.int32)], False, 255, width, cv2.LINE_8, 4)
    return mask


@dataclass
class Awaiting:
    """A frame whose hands are not known yet."""

    number: int
    landmarks: np.ndarray | None
    """float [478, 2 or 3] in pixels of the crop; None without a face."""
    crop: np.ndarray
    size: int
    picture: np.ndarray | FrameView
    """The whole frame, uint8 [height, width, 3] or a view."""


def find_hands(frames: Iterable[Awaiting], network: HandNetwork) -> Iterator[np.ndarray]:
    """Hands at the head, float64 [hands, 21, 2] in pixels of each frame's crop, for frames in order.

    Looks at every INTERVAL-th frame, counted from the clip's first, and at those between where one of both ends has a hand at
    the head; so the result does not depend on where a chunk begins, except for its first and last INTERVAL frames.
    """
    none = np.zeros((0, POINTS, 2))
    waiting: list[Awaiting] = []
    before = True  # unknown counts as found

    def look(frame: Awaiting) -> np.ndarray:
        if frame.landmarks is None:
            return none
        hands = hands_in_crop(network, frame.picture, frame.crop, frame.size)
        return hands if len(hands) and at_head(hands, frame.landmarks) else none

    last = none
    for frame in frames:
        if frame.number % INTERVAL:
            waiting.append(frame)
            continue
        hands = look(frame)
        found = [look(earlier) if before or len(hands) else none for earlier in waiting] + [hands]
        yield from _bridged(found, last)
        waiting, before, last = [], len(hands) > 0, hands
    yield from _bridged([look(earlier) for earlier in waiting], last)


def _bridged(found: list[np.ndarray], before: np.ndarray) -> list[np.ndarray]:
    """Where the network missed a hand for a frame, the neighbour's takes its place: the one before, else the one after."""
    result = list(found)
    for k, hands in enumerate(found):
        if not len(hands):
            previous = found[k - 1] if k else before
            result[k] = previous if len(previous) or k + 1 == len(found) else found[k + 1]
    return result
