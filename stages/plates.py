"""Plates: a picture of the background of a shot without the person, gathered from the frames that show it.

Frames are registered to each other on their background (``stages.camera``), laid over each other in the coordinates of the plate,
and what most of them agree on is kept. All transforms are 2x3 in this project's pixel convention (``stages.video.crops``): frame
pixels -> plate pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike

from stages.camera import chain
from stages.light import LITTLE, OTHER_LIGHT, Light, light_between
from stages.video.crops import frame_matrix, opencv_matrix


def greatest_motion(transforms: np.ndarray, width: int, height: int) -> float:
    """How far any corner of the frame moves over the shot, pixels; ``transforms`` float64 [frames, 2, 3]."""
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float64)
    moved = np.einsum("fij,pj->fpi", transforms[:, :, :2], corners) + transforms[:, None, :, 2]
    return float(np.abs(moved - corners).max(initial=0.0))


# ---------------------------------------------------------------------------------------------------------------- plates


def covered_box(transforms: np.ndarray, crops: np.ndarray, width: int, height: int, margin: float = 0.06) -> np.ndarray:
    """The box that all crops cover in the coordinates of the first frame, int [4]: left, top, right, bottom.

    Args:
        transforms: float64 [frames, 2, 3], frame -> first frame.
        crops: float [frames, 3], centre x, centre y, side in frame pixels.
        width, height: of the frame: what lies outside of every frame is not covered.
        margin: added on every side, share of the crop's side.
    """
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for transform, (x, y, side) in zip(transforms, crops, strict=True):
        half = side * (0.5 + margin)
        left, right = np.clip((x - half, x + half), 0, width)
        top, bottom = np.clip((y - half, y + half), 0, height)
        corners = np.array([[left, top], [right, top], [left, bottom], [right, bottom]]) @ transform[:, :2].T + transform[:, 2]
        low, high = np.minimum(low, corners.min(0)), np.maximum(high, corners.max(0))
    low, high = np.floor(low), np.ceil(high)
    return np.array([*low, *np.maximum(high, low + 1)], np.int64)


def warp_to_plate(picture: np.ndarray, transform: np.ndarray, width: int, height: int, *, nearest: bool = False) -> np.ndarray:
    """Resample ``picture`` [h, w] or [h, w, 3] into the plate; zero where it has nothing to show."""
    whole = np.round(transform[:, 2])
    if np.allclose(transform[:, :2], np.eye(2), atol=1e-9) and np.allclose(transform[:, 2], whole, atol=1e-6):
        result = np.zeros((height, width, *picture.shape[2:]), picture.dtype)
        dx, dy = int(whole[0]), int(whole[1])
        top, left = max(0, dy), max(0, dx)
        bottom, right = min(height, dy + picture.shape[0]), min(width, dx + picture.shape[1])
        if bottom > top and right > left:
            result[top:bottom, left:right] = picture[top - dy : bottom - dy, left - dx : right - dx]
        return result
    method = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return np.asarray(cv2.warpAffine(picture, opencv_matrix(transform), (width, height), flags=method))


HIDDEN, DOUBTFUL, HEAD = 1, 2, 4
"""Kinds of pixels: what hides the background, or looks as if it did; which part of that is background where it stands still while
the head moves; the head for sure."""


class PlateBuilder:
    """Lays registered frames over each other. Memory: about 4 bytes a pixel and frame added, so add a bounded number.

    Frames of a fade or a flash are brought to the light of the others; frames that show something else than most do (black, a
    title, another scene that is faded to) are left out.
    """

    DISAGREEMENT = 24
    """Where the frames differ by more than this (0..255), the median is taken instead of the mean."""

    OFF = OTHER_LIGHT
    """Frames differ by less than this (0..255, mean) from a plate that shows what they show, unless most frames do not."""

    RICH = 0.5
    """Frames with less than this share of the contrast of the shot's own may be the dark end of a fade."""

    FLAT = 4.0
    """Contrast (0..255, standard deviation) of pictures that show nothing."""

    DIMMEST = 0.4
    """Frames with less than this share of the contrast of others are not brought to their light: they are coded too coarsely for
    that, or flat."""

    FEWEST, MOST = 8, 12
    """Frames that it takes to tell what moves, and about so many suffice."""

    SLOPE, EDGES = 6.0, 50
    """Grey levels a pixel from which an edge of the head tells how it moves, and how many pixels of edges that takes."""

    DIRECTIONS = 0.1
    """Share of the edges, by the square of their cosine, that it takes in every direction: of 0.5 where there are all alike."""

    MOVES, MUCH = 0.7, 2.0
    """Pixels (standard deviation) from which a head moves enough to tell what moves with it, and from which on it is much."""

    STILL = 0.12
    """Share of the head's motion below which something stands still."""

    COARSE = 100
    """Pixels across a head that suffice to tell how it moves: of larger ones only so many are looked at."""

    NEAR = 0.06
    """Side of the window in which motion is looked at, share of the head's."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._pictures: list[np.ndarray] = []
        self._visible: list[np.ndarray] = []
        self._contrasts: list[float] = []
        self._peopled: list[bool] = []
        self.kinds: list[np.ndarray] = []
        """Of each frame added, uint8 [height, width]."""
        self.used: list[bool] = []
        """Of each frame added, whether the plate is made of it; known when that is finished."""
        self.differences: list[float] = []
        """Mean absolute difference (0..255) of each frame, as it was added, to the finished plate, where it shows background."""
        self.departures: list[float] = []
        """The same, of the frames as the plate was made of them: in its light."""

    def add(
        self,
        rgb: np.ndarray,
        visible: np.ndarray,
        transform: np.ndarray,
        kinds: np.ndarray | None = None,
    ) -> None:
        """Add a frame.

        Args:
            rgb: uint8 [h, w, 3]; visible: boolean [h, w], surely background.
            transform: float64 [2, 3], frame -> plate.
            kinds: uint8 [h, w], sums of ``HIDDEN``, ``DOUBTFUL``, ``HEAD``; or none of them anywhere.
        """
        there = warp_to_plate(visible.astype(np.uint8) * 255, transform, self.width, self.height)
        self._pictures.append(warp_to_plate(rgb, transform, self.width, self.height))
        self._visible.append(there == 255)
        self._contrasts.append(float(np.sqrt(rgb[::8, ::8].astype(np.float32).var(axis=(0, 1)).mean())))
        self._peopled.append(not visible.all())
        self.used.append(True)
        if kinds is None:
            kinds = np.zeros(rgb.shape[:2], np.uint8)
        self.kinds.append(warp_to_plate(kinds, transform, self.width, self.height, nearest=True))

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """The plate uint8 [height, width, 3] and in how many of the frames used each pixel was visible, int32 [height, width]."""
        self._settle(self._pictures)
        plate, count = self._laid_over(self._pictures)
        self.differences = self.departures = self._differences(plate, self._visible)
        if max(self.differences, default=0.0) > self.OFF:
            plate, count = self._of_one_light(plate, count)
        return plate, count

    def _differences(self, plate: np.ndarray, visible: list[np.ndarray]) -> list[float]:
        result = []
        for picture, there in zip(self._pictures, visible, strict=True):
            total = cv2.mean(cv2.absdiff(picture, plate), there.view(np.uint8))
            result.append(float(sum(total[:3]) / 3))
        return result

    def _of_one_light(self, plate: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What :meth:`finish` returns where frames depart from the ``plate`` of all of them."""
        contrasts = np.asarray(self._contrasts)
        # Those with the person are what is rendered; a title, a flash or what passes by may have more contrast than they.
        own = np.asarray(self._peopled) & (contrasts > self.FLAT)
        own = own if own.any() else np.ones(len(contrasts), bool)
        richest = float(np.quantile(contrasts[own], 0.75))
        rich = own & (contrasts >= self.RICH * richest)
        if not rich.all():
            # Where a fade is long, or a shot ends in a title, most of what is laid over each other may be dark.
            self.used = rich.tolist()
            plate, count = self._laid_over(self._pictures)
        found = [
            light_between(picture, plate, visible & (count > 0))
            for picture, visible in zip(self._pictures, self._visible, strict=True)
        ]
        usual = _usual_light([one.light for one in found], contrasts, rich)
        lit = (contrasts >= self.DIMMEST * richest) & [one.light.gain >= self.DIMMEST * usual.gain for one in found]
        pictures, self.departures = [], []
        for picture, one, bright in zip(self._pictures, found, lit, strict=True):
            helps = bright and one.share > 0.5 and one.without > one.with_it + LITTLE
            pictures.append(usual.beside(one.light).shown(picture) if helps else picture)
            self.departures.append(one.with_it if helps else one.without)
        limit = max(self.OFF, 3 * float(np.median(np.asarray(self.departures)[lit & own if (lit & own).any() else rich])))
        self.used = [value <= limit for value in self.departures]
        self._settle(pictures)
        plate, count = self._laid_over(pictures)
        self.differences = self._differences(plate, [visible & (count > 0) for visible in self._visible])
        return plate, count

    def _settle(self, pictures: list[np.ndarray]) -> None:
        """Make visible what is doubtful but stands still while the head moves: a line on the wall near hair is no strand."""
        chosen = [
            (picture, kinds, there)
            for picture, kinds, there, used in zip(pictures, self.kinds, self._visible, self.used, strict=True)
            if used
        ]
        if len(chosen) < self.FEWEST:
            return
        looked_at = chosen[:: max(1, len(chosen) // self.MOST)]
        anywhere = np.bitwise_or.reduce([kinds for _, kinds, _ in looked_at]) & DOUBTFUL > 0
        heads = [kinds for _, kinds, _ in looked_at if (kinds & HEAD).any()]
        if not heads or not anywhere.any():
            return
        head = np.bitwise_and.reduce(heads) & HEAD > 0
        if not head.any():
            return
        across = float(np.sqrt(head.sum()))
        step = max(1, int(across / self.COARSE))
        box = _box(head, 0, step)
        outline = _outline(head, across)
        motion = _motion(*_changes([(picture[box], None) for picture, _, _ in looked_at])[:3], outline[box], self.MOVES / step)
        if motion is None:
            return
        side = int(across * self.NEAR / step) | 1
        box = _box(anywhere, side * step, step)
        shown = [(picture[box], there[box] | (kinds[box] & DOUBTFUL > 0)) for picture, kinds, there in looked_at]
        change, to_right, downwards, known = _changes(shown)
        (xx, xy), (_, yy) = (motion * min(1.0, (self.MUCH / step) ** 2 / float(np.linalg.eigvalsh(motion)[-1]))).tolist()
        with_head = cv2.sqrt(np.maximum(xx * to_right**2 + 2 * xy * to_right * downwards + yy * downwards**2, 0))
        change, with_head = (cv2.blur(np.where(known, plane, 0), (side, side)) for plane in (change, with_head))
        still = (known & (change < self.STILL * with_head)).repeat(step, 0).repeat(step, 1)
        rows, columns = box[0].start, box[1].start
        for _, kinds, there in chosen:
            part = there[rows : rows + still.shape[0], columns : columns + still.shape[1]]
            height, width = part.shape
            part |= still[:height, :width] & (kinds[rows : rows + height, columns : columns + width] & DOUBTFUL > 0)

    def _laid_over(self, pictures: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The plate made of those of the ``pictures`` that are used, and in how many of them each pixel was visible."""
        chosen = [(picture, visible) for picture, visible, used in zip(pictures, self._visible, self.used, strict=True) if used]
        shape = (self.height, self.width)
        count = np.zeros(shape, np.int32)
        total = np.zeros((*shape, 3), np.float32)
        low, high = np.full((*shape, 3), 255, np.uint8), np.zeros((*shape, 3), np.uint8)
        for picture, visible in chosen:
            count += visible
            mask = visible.view(np.uint8)
            cv2.accumulate(picture, total, mask)
            cv2.copyTo(cv2.min(low, picture), mask, low)
            cv2.copyTo(cv2.max(high, picture), mask, high)
        plate = np.asarray(np.rint(total / np.maximum(count, 1)[..., None]), np.uint8)
        rows, columns = np.nonzero(((high.astype(np.int16) - low).max(-1) > self.DISAGREEMENT) & (count > 2))
        for start in range(0, len(rows), 1 << 16):
            r, c = rows[start : start + (1 << 16)], columns[start : start + (1 << 16)]
            values = np.stack([picture[r, c] for picture, _ in chosen]).astype(np.int16)
            values[~np.stack([visible[r, c] for _, visible in chosen])] = 256  # sorts behind what is visible
            values.sort(axis=0)
            middle = (count[r, c] - 1) // 2
            plate[r, c] = np.take_along_axis(values, middle[None, :, None], axis=0)[0]
        return plate, count


def _changes(
    pictures: Sequence[tuple[np.ndarray, np.ndarray | None]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """How much pictures uint8 [h, w, 3] change over time, and how steep their mean is.

    Args:
        pictures: each with boolean [h, w], where it is shown; None is everywhere.

    Returns:
        Standard deviation, grey levels; slope to the right and downwards, grey levels per pixel; float32 [h, w]; and where enough
        pictures tell them, boolean [h, w].
    """
    total, squares, count = (np.zeros(pictures[0][0].shape[:2], np.float32) for _ in range(3))
    for picture, shown in pictures:
        gray = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
        mask = None if shown is None else np.ascontiguousarray(shown).view(np.uint8)
        cv2.accumulate(gray, total, mask)
        cv2.accumulateSquare(gray, squares, mask)
        cv2.accumulate(np.ones_like(gray) if mask is None else mask, count)
    mean = total / np.maximum(count, 1)
    change = cv2.sqrt(np.maximum(squares / np.maximum(count, 1) - mean * mean, 0))
    across, down = (cv2.Sobel(mean, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
    enough = (count >= max(2, len(pictures) // 4)).astype(np.uint8)
    return change, across, down, cv2.erode(enough, np.ones((3, 3), np.uint8)) > 0


def _motion(change: np.ndarray, across: np.ndarray, down: np.ndarray, where: np.ndarray, least: float) -> np.ndarray | None:
    """Covariance [2, 2] of the motion, pixels, that explains how much edges of all directions change; see :func:`_changes`.

    An edge changes with what it moves across itself only: a line may move along itself unseen.

    Args:
        where: boolean [h, w], what moves.
        least: standard deviation.

    Returns:
        None where that has too few edges to tell, or all in one direction, or moves by less than the least in every direction.
    """
    slope = cv2.magnitude(across, down)
    strong = where & (slope > PlateBuilder.SLOPE)
    if strong.sum() < PlateBuilder.EDGES:
        return None
    x, y = across[strong] / slope[strong], down[strong] / slope[strong]
    across_them = np.stack([x, y])
    if np.linalg.eigvalsh(across_them @ across_them.T / len(x))[0] < PlateBuilder.DIRECTIONS:
        return None
    directions = np.stack([x * x, 2 * x * y, y * y], 1).astype(np.float64)
    squares = (change[strong] / slope[strong]).astype(np.float64) ** 2
    kept, values = np.ones(len(squares), bool), np.zeros(3)
    for _ in range(3):  # what changes otherwise, as eyes and mouth do, is left out
        values = np.linalg.lstsq(directions[kept], squares[kept], rcond=None)[0]
        error = np.abs(directions @ values - squares)
        kept = error <= np.quantile(error, 0.7)
    covariance = np.array([[values[0], values[1]], [values[1], values[2]]])
    return covariance if np.linalg.eigvalsh(covariance)[-1] >= least**2 else None


def _outline(head: np.ndarray, across: float) -> np.ndarray:
    """The rim of a head above the brows, boolean [h, w]: what moves as the head does, whatever the face does."""
    side = 2 * round(0.2 * across) + 1
    inner = cv2.erode(head.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), borderValue=0) > 0
    _, top, _, height = cv2.boundingRect(head.view(np.uint8))
    rim = head & ~inner
    rim[top + round(0.35 * height) :] = False
    return rim


def _box(mask: np.ndarray, margin: int, step: int) -> tuple[slice, slice]:
    """Rows and columns around what is set, and so many pixels more; every ``step``-th of them."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    rows = slice(max(top - margin, 0), min(top + height + margin, mask.shape[0]), step)
    return rows, slice(max(left - margin, 0), min(left + width + margin, mask.shape[1]), step)


def _usual_light(lights: list[Light], contrasts: np.ndarray, rich: np.ndarray) -> Light:
    """That of most frames that are neither dark nor faded. ``contrasts`` float [frames], ``rich`` boolean [frames]."""
    chosen = np.flatnonzero(rich & (contrasts >= 0.9 * np.quantile(contrasts[rich], 0.75)))
    return lights[int(sorted(chosen, key=lambda k: lights[k].gain)[len(chosen) // 2])]


def background_crop(plate: np.ndarray, transform: ArrayLike, crop: ArrayLike, size: int) -> np.ndarray:
    """The background behind one frame's crop.

    Args:
        plate: uint8 [h, w, 3].
        transform: 2x3 (or 6 numbers, row major), frame pixels -> plate pixels, of table ``plates``.
        crop: centre x, centre y, side in frame pixels.
        size: side of the result.

    Returns:
        uint8 [size, size, 3]; what lies outside the plate (outside the frame) repeats its border.
    """
    side = float(np.asarray(crop)[2])
    oversampling = min(max(int(np.ceil(side / size - 1e-6)), 1), 8)
    target = size * oversampling
    matrix = opencv_matrix(chain(transform, frame_matrix(crop, target)))
    method = cv2.INTER_CUBIC if side < size * (1 - 1e-6) else cv2.INTER_LINEAR
    picture = cv2.warpAffine(
        plate, matrix, (target, target), flags=method | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )
    if oversampling > 1:
        picture = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(picture, np.uint8)


def crop_to_frame(mask: np.ndarray, crop: ArrayLike, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A crop's mask [size, size], boolean or of kinds, in the frame: (mask, inside the crop), [height, width] each."""
    size = mask.shape[0]
    x, y, side = (float(value) for value in np.asarray(crop, np.float64))
    there, inside = np.zeros((height, width), mask.dtype), np.zeros((height, width), bool)
    columns, rows = (
        np.floor((np.arange(length) + 0.5 - centre + side / 2) * (size / side)).astype(np.int64)
        for length, centre in ((width, x), (height, y))
    )
    across, down = ((cells >= 0) & (cells < size) for cells in (columns, rows))
    if across.any() and down.any():
        (left, right), (top, bottom) = ((int(shown.argmax()), len(shown) - int(shown[::-1].argmax())) for shown in (across, down))
        inside[top:bottom, left:right] = True
        there[top:bottom, left:right] = mask[:, columns[across]][rows[down]]
    return there, inside
