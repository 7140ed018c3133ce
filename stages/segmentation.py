"""Parts of the person in a crop: which pixels are hair, face, neck, cloth, or something in front of the face.

The person comes from MediaPipe's selfie segmentation. Inside the person, hair, skin and cloth are told apart by colour
models that are fitted to the very clip (seeded by the landmarks, then refined by alternation, as in GrabCut), by where a
pixel lies relative to the head, and, where it is registered, by MediaPipe's hair network.

Everything is a function of arrays: ``rgb`` is uint8 [size, size, 3] of the crop, ``landmarks`` float [478, 2 or 3] in crop
pixels. Posteriors are computed on a grid of ``GRID`` pixels and interpolated to the size of the crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from schemas.problems import ModelError
from schemas.tables import LABELS
from stages.video.crops import crop_matrix, opencv_matrix

BACKGROUND, HAIR, FACE, NECK, CLOTH, OTHER = range(len(LABELS))

GRID = 256
"""Side of the grid on which posteriors are computed: the native size of the person network."""

_COARSE = 64
_OVAL = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136)
FACE_OVAL = (*_OVAL, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)
"""Landmark indices around the face, clockwise in the picture from the middle of the forehead."""

LEFT_EYE = (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249)
RIGHT_EYE = (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7)
LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
LEFT_BROW = (276, 283, 282, 295, 285, 336, 296, 334, 293, 300)
RIGHT_BROW = (46, 53, 52, 65, 55, 107, 66, 105, 63, 70)
_FEATURES = (LEFT_EYE, RIGHT_EYE, LIPS, LEFT_BROW, RIGHT_BROW)

# Classes of the colour models: what competes for a pixel. The last is the background.
_HAIR, _SKIN, _CLOTH, _BEHIND = range(4)


class PersonNetwork:
    """MediaPipe's selfie segmentation of single pictures (no state between calls)."""

    def __init__(self, careful: bool = False) -> None:
        """``careful``: for stills. The mirror image and the landscape network have a say too: their mistakes differ."""
        import mediapipe  # heavy: only where masks are computed

        networks = mediapipe.solutions.selfie_segmentation
        self._general = networks.SelfieSegmentation(model_selection=0)
        self._landscape = networks.SelfieSegmentation(model_selection=1) if careful else None

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """Probability that a pixel shows the person: float32 [GRID, GRID] of ``rgb`` uint8 [size, size, 3]."""
        small = rgb if rgb.shape[0] == GRID else cv2.resize(rgb, (GRID, GRID), interpolation=cv2.INTER_AREA)
        small = np.ascontiguousarray(small)
        found = np.array(self._general.process(small).segmentation_mask, np.float32)
        if self._landscape is None:
            return found
        found += self._general.process(np.ascontiguousarray(small[:, ::-1])).segmentation_mask[:, ::-1]
        return np.asarray((found + self._landscape.process(small).segmentation_mask) / 3, np.float32)

    def close(self) -> None:
        self._general.close()
        if self._landscape is not None:
            self._landscape.close()

    def __enter__(self) -> PersonNetwork:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class HairNetwork:
    """MediaPipe's hair segmentation, run by ai-edge-litert.

    The fourth input channel is meant for the previous frame's mask. It is left at zero, so that a frame's mask does not
    depend on where a chunk begins.
    """

    SIDE = 512

    def __init__(self, path: Path) -> None:
        """``path``: the registered .tflite file. Raises ``ModelError`` where it cannot be run."""
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise ModelError(
                "package_missing",
                f"The hair network {path.name} needs the package ai-edge-litert.",
                "Install the extra 'hair', or set stages.masks.hair to 'colour'.",
            ) from error
        try:
            self._network = Interpreter(str(path), num_threads=1)
            self._network.allocate_tensors()
            entry, result = self._network.get_input_details()[0], self._network.get_output_details()[0]
        except (ValueError, RuntimeError) as error:
            raise ModelError(
                "model_damaged", f"{path} is not a TensorFlow Lite file that can be run: {error}", "Register the file again."
            ) from error
        if tuple(entry["shape"]) != (1, self.SIDE, self.SIDE, 4) or tuple(result["shape"]) != (1, self.SIDE, self.SIDE, 2):
            raise ModelError(
                "model_kind",
                f"{path} maps {tuple(entry['shape'])} to {tuple(result['shape'])}, not a 512x512 RGBA picture to two classes.",
                "Register MediaPipe's hair_segmentation.tflite.",
            )
        self._entry, self._result = entry["index"], result["index"]
        self._picture = np.zeros((1, self.SIDE, self.SIDE, 4), np.float32)

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """Probability of hair: float32 [GRID, GRID] of ``rgb`` uint8 [size, size, 3]."""
        if rgb.shape[0] != self.SIDE:
            rgb = cv2.resize(rgb, (self.SIDE, self.SIDE), interpolation=cv2.INTER_AREA)
        np.multiply(rgb, np.float32(1 / 255), out=self._picture[0, :, :, :3])
        self._network.set_tensor(self._entry, self._picture)
        self._network.invoke()
        logits = self._network.get_tensor(self._result)[0]
        margin = cv2.resize(logits[..., 1] - logits[..., 0], (GRID, GRID), interpolation=cv2.INTER_AREA)
        return np.asarray(1 / (1 + np.exp(-margin)), np.float32)


@dataclass(frozen=True)
class HeadFrame:
    """Coordinates that move with the head: origin in the middle of the face oval, unit = height of the face."""

    centre: np.ndarray
    """float64 [2], crop pixels."""
    right: np.ndarray
    """Unit vector to the right of the upright head in the picture, float64 [2]."""
    size: float
    """Height of the face (landmark 10 to 152), crop pixels."""

    @classmethod
    def of(cls, landmarks: np.ndarray) -> HeadFrame:
        points = np.asarray(landmarks, np.float64)[:, :2]
        down = points[152] - points[10]
        height, width = float(np.hypot(*down)), float(np.hypot(*(points[454] - points[234])))
        size = max(height, 1.2 * width, 1e-3)  # a nodding head is foreshortened in height, a turned one in width
        down = down / max(height, 1e-6)
        oval = points[list(FACE_OVAL)]
        return cls((oval.min(0) + oval.max(0)) / 2, np.array([down[1], -down[0]]), size)

    def coordinates(self, grid: int, crop: int) -> tuple[np.ndarray, np.ndarray]:
        """``u`` to the right and ``v`` downwards at the pixel centres of a ``grid`` over the crop; float32 [grid, grid] each."""
        axis = (np.arange(grid) + 0.5) * (crop / grid)
        x, y = (((axis - centre) / self.size)[:, None] * self.right for centre in self.centre)
        x, y = x.astype(np.float32), y.astype(np.float32)
        return x[None, :, 0] + y[:, None, 1], y[:, None, 0] - x[None, :, 1]


def polygon(points: np.ndarray, grid: int, crop: int, mask: np.ndarray | None = None) -> np.ndarray:
    """Filled polygon, uint8 0 or 255 [grid, grid], of points in crop pixels [n, 2]; added to ``mask`` where one is given."""
    mask = np.zeros((grid, grid), np.uint8) if mask is None else mask
    scaled = np.round((points[:, :2] * (grid / crop) - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(mask, [scaled], 255, shift=4)
    return mask


def oval_mask(landmarks: np.ndarray, grid: int, crop: int) -> np.ndarray:
    """The face oval, uint8 0 or 255 [grid, grid]."""
    return polygon(landmarks[list(FACE_OVAL)], grid, crop)


def shrunk(picture: np.ndarray, factor: int) -> np.ndarray:
    """``picture`` averaged over ``factor`` x ``factor`` pixels; up to ``factor`` - 1 rows and columns at its end are left out.

    Whole factors take a fraction of the time that others take, and so does resampling what was made small before.
    """
    height, width = picture.shape[0] // factor, picture.shape[1] // factor
    if factor <= 1 or not (height and width):
        return picture
    return np.asarray(
        cv2.resize(picture[: height * factor, : width * factor], (width, height), interpolation=cv2.INTER_AREA), picture.dtype
    )


def small_crop(picture: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """A crop (centre x, centre y, side) at GRID pixels: in a tenth of the time of ``extract_crop``, and less smooth.

    Cubic interpolation makes up for the smoothing of the averages: linear cost hair 0.003 of IoU.

    Args:
        picture: uint8 [height, width, 3].
        crop: float [3], pixels of ``picture``.

    Returns:
        uint8 [GRID, GRID, 3].
    """
    factor = max(1, min(int(float(crop[2]) // GRID), *picture.shape[:2]))
    matrix = opencv_matrix(crop_matrix(np.asarray(crop, np.float64) / factor, GRID))
    small = shrunk(picture, factor)
    return np.asarray(
        cv2.warpAffine(small, matrix, (GRID, GRID), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


# ---------------------------------------------------------------------------------------------------------------- colour

_BINS = 32


_TONES = np.clip((np.arange(256) - 64) >> 2, 0, _BINS - 1)
_STEPS = np.stack([np.arange(256) >> 3, _TONES, _TONES], -1).astype(np.uint8)[None]
_PLACES = np.array([[_BINS * _BINS, _BINS, 1]], np.float32)


def colour_index(rgb: np.ndarray) -> np.ndarray:
    """Cell of each pixel's colour in Lab, int32 of the picture's height and width: 32 steps of L, 32 of a and b around grey."""
    steps = cv2.LUT(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), _STEPS)
    return np.asarray(cv2.transform(steps.astype(np.float32), _PLACES), np.int32)


def colour_density(cells: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Smoothed density over colour cells, float32 [32768], sums to one; uniform where there are no samples."""
    counts = np.bincount(cells.ravel(), None if weights is None else weights.ravel(), minlength=_BINS**3)
    total = counts.sum()
    if total < 1:
        return np.full(_BINS**3, 1 / _BINS**3, np.float32)
    cube = (counts / total).astype(np.float32).reshape(_BINS, _BINS, _BINS)
    return (np.float32(0.75) * _blurred(cube, (0.8, 0.8, 0.8)) + np.float32(0.25) * _blurred(cube, (2.5, 1.5, 1.5))).ravel()


def _blurred(cube: np.ndarray, sigmas: tuple[float, float, float]) -> np.ndarray:
    """Gaussian blur of float32 [32, 32, 32] along its axes: the last two as a picture, the first as its columns."""
    first, second, third = (cv2.getGaussianKernel(2 * int(4 * sigma + 0.5) + 1, sigma, cv2.CV_32F) for sigma in sigmas)
    alone, border = np.ones((1, 1), np.float32), cv2.BORDER_REFLECT
    along = cv2.sepFilter2D(cube.reshape(_BINS, _BINS * _BINS), -1, alone, first, borderType=border)
    along = cv2.sepFilter2D(along.reshape(_BINS * _BINS, _BINS), -1, third, alone, borderType=border)
    planes = along.reshape(_BINS, _BINS, _BINS)
    return np.stack([cv2.sepFilter2D(plane, -1, alone, second, borderType=border) for plane in planes])


def place_priors(head: HeadFrame, crop: int) -> np.ndarray:
    """How likely hair, skin and cloth are at a place, whatever the colour: float32 [3, 64, 64], not normalised."""
    u, v = head.coordinates(_COARSE, crop)
    side = np.abs(u)

    def above(edge: float, width: float) -> np.ndarray:
        return np.asarray(1 / (1 + np.exp(np.clip((v - edge) / width, -30, 30))), np.float32)

    def within(distance: np.ndarray, reach: float) -> np.ndarray:
        square = np.square(distance * np.float32(1 / reach))
        return np.asarray(np.exp(-square * square), np.float32)

    column = within(side, 0.36) * (1 - above(0.45, 0.04))  # under the chin: neck, collar
    ears = within(side - 0.44, 0.14) * within(v + 0.02, 0.34)
    wide = (1 - above(0.25, 0.03)) / (1 + np.exp(np.clip((0.66 - side) / 0.04, -30, 30)))  # over the shoulders
    hair = (0.06 + 0.54 * above(1.25, 0.2) + 0.4 * above(0.5, 0.1)) * (1 - 0.75 * column) * (1 - 0.92 * wide)
    skin = 0.01 + 0.6 * column * above(1.2, 0.12) + 0.5 * ears
    skin += (0.05 + 0.15 * within(side, 0.5)) * (1 - above(0.5, 0.05))  # bare chest rather than shoulders
    skin += 0.35 * above(-0.3, 0.02) * (1 - above(-0.7, 0.05)) * np.exp(-(np.square(side / 0.42) ** 3))  # forehead above the oval
    cloth = 1e-3 + (1 - above(0.45, 0.05)) * (0.25 + 0.75 * (1 - above(1.0, 0.1))) + 0.15 * wide
    return np.asarray([hair, skin, cloth], np.float32)


@dataclass(frozen=True)
class _View:
    """What is known about one frame before colours are looked at, on a grid of ``side`` pixels."""

    u: np.ndarray
    v: np.ndarray
    oval: np.ndarray
    """uint8 0 or 255."""
    features: np.ndarray
    """Eyes, brows and lips, uint8 0 or 255."""
    priors: np.ndarray
    """float32 [4, side, side]: hair, skin, cloth, background."""

    @classmethod
    def of(cls, landmarks: np.ndarray, crop: int, side: int, person: np.ndarray, hair: np.ndarray | None) -> _View:
        head = HeadFrame.of(landmarks)
        u, v = head.coordinates(side, crop)
        oval = oval_mask(landmarks, side, crop)
        features = np.zeros((side, side), np.uint8)
        for feature in _FEATURES:
            points = cv2.convexHull(np.asarray(landmarks[list(feature), :2], np.float32))[:, 0]
            polygon(points, side, crop, features)
        features = cv2.dilate(features, np.ones((side // 40, side // 40), np.uint8))
        priors = np.empty((4, side, side), np.float32)
        for k, plane in enumerate(place_priors(head, crop)):
            cv2.resize(plane, (side, side), priors[k], interpolation=cv2.INTER_LINEAR)
        # Inside the oval there is skin; hair may hang over the forehead and the temples.
        box = _box_around(oval, side // 16)  # beyond which the blurred oval is zero
        inside = cv2.GaussianBlur(oval[box], (0, 0), side / 128).astype(np.float32) * np.float32(1 / 255)
        fringe = np.clip((np.float32(0.02) - v[box]) * np.float32(1 / 0.3), 0, 1) * np.float32(0.3)
        hairy, skin, cloth = (priors[kind][box] for kind in (_HAIR, _SKIN, _CLOTH))
        hairy += (fringe - hairy) * inside
        skin += (1 - skin) * inside
        cloth *= 1 - inside
        if hair is not None:
            priors[_HAIR] *= np.float32(0.1) + np.float32(0.9) * hair
            priors[_SKIN : _CLOTH + 1] *= 1 - np.float32(0.95) * hair
        sure = np.clip(person, np.float32(0.01), np.float32(0.99))
        np.maximum(sure[box], inside * np.float32(0.995), out=sure[box])
        behind = np.maximum(np.maximum(priors[_HAIR], priors[_SKIN], out=priors[_BEHIND]), priors[_CLOTH], out=priors[_BEHIND])
        behind *= (1 - sure) / sure
        return cls(u, v, oval, features, priors)


def _box_around(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """The rows and columns in which ``mask`` (uint8 [height, width]) is not zero, and ``margin`` more on every side."""
    left, top, width, height = cv2.boundingRect(mask)
    return slice(max(top - margin, 0), top + height + margin), slice(max(left - margin, 0), left + width + margin)


def _shares(likelihood: np.ndarray, cells: np.ndarray, priors: np.ndarray) -> np.ndarray:
    """Posterior of the four classes: float32 [4, height, width]. ``likelihood``: float32 [4, 32768]."""
    planes = np.empty((len(likelihood), *cells.shape), np.float32)
    cells = cells.astype(np.intp)
    for densities, plane in zip(likelihood, planes, strict=True):
        np.take(densities, cells, out=plane, mode="clip")  # cells are in range; the mode is the fast one
    planes *= priors
    total = planes[0] + planes[1]
    for plane in planes[2:]:
        total += plane
    planes /= total
    return planes


def _edge_aware(planes: np.ndarray, guide: np.ndarray, radius: int = 4, epsilon: float = 60.0) -> np.ndarray:
    """Smooth float32 [n, height, width] with edges where those of ``guide`` (uint8 [height, width]) are: the fast guided filter.

    He and Sun, "Fast Guided Filter", 2015: the linear coefficients are found at half the resolution.
    """
    height, width = guide.shape
    half, window = (width // 2, height // 2), (radius + 1, radius + 1)
    small = cv2.resize(guide, half, interpolation=cv2.INTER_AREA).astype(np.float32)
    mean = cv2.blur(small, window)
    inverse = 1 / (cv2.blur(small * small, window) - mean * mean + np.float32(epsilon))
    picture = guide.astype(np.float32)
    result = np.empty_like(planes)
    for k, plane in enumerate(planes):
        target = cv2.resize(plane, half, interpolation=cv2.INTER_AREA)
        level = cv2.blur(target, window)
        slope = (cv2.blur(small * target, window) - mean * level) * inverse
        offset = level - slope * mean
        slope, offset = (
            cv2.resize(cv2.blur(c, window), (width, height), interpolation=cv2.INTER_LINEAR) for c in (slope, offset)
        )
        np.multiply(slope, picture, out=result[k])
        result[k] += offset
    return result


_HABIT = 48
_HABIT_LEFT, _HABIT_TOP, _HABIT_SPAN = -1.5, -1.2, 3.0
"""Hair's habitual place is kept on a grid over this square of head coordinates."""


def _habit_cells(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = np.float32(_HABIT / _HABIT_SPAN)
    return (u - np.float32(_HABIT_LEFT)) * scale - np.float32(0.5), (v - np.float32(_HABIT_TOP)) * scale - np.float32(0.5)


class HeadParser:
    """Colour models of one subject, and the label maps they give.

    The models are fitted on a few frames spread over a chunk and then stay as they are, so that labels do not drift.
    """

    ROUNDS = 4

    def __init__(self, likelihood: np.ndarray, habit: np.ndarray, neck: np.ndarray) -> None:
        """Take models as they are; usually made by :meth:`fit`.

        Args:
            likelihood: float32 [4, 32768], density of hair, skin, cloth and background per colour cell.
            habit: float32 [48, 48], how often hair was found at a place of the head's coordinates, 0 to 1.
            neck: the same of skin: what is usually bare, as opposed to a hand that comes and goes.
        """
        self.likelihood = likelihood
        self.habit = habit
        self.neck = neck

    @classmethod
    def fit(
        cls,
        crops: Sequence[np.ndarray],
        landmarks: Sequence[np.ndarray],
        persons: Sequence[np.ndarray],
        hairs: Sequence[np.ndarray | None],
    ) -> HeadParser:
        """Alternate between labels and colour models, from seeds given by the landmarks.

        Args:
            crops: uint8 [size, size, 3] each; landmarks: float [478, 2 or 3] each, crop pixels.
            persons: float32 [GRID, GRID] each, from :class:`PersonNetwork`; negative outside the picture.
            hairs: float32 [GRID, GRID] each, from :class:`HairNetwork`, or None.
        """
        side = GRID // 2
        all_cells, all_inside, all_seeds, views = [], [], [], []
        for rgb, points, person, hair in zip(crops, landmarks, persons, hairs, strict=True):
            inside = cv2.resize(person, (side, side), interpolation=cv2.INTER_AREA)
            network = None if hair is None else cv2.resize(hair, (side, side), interpolation=cv2.INTER_AREA)
            view = _View.of(points, rgb.shape[0], side, inside, network)
            views.append(view)
            all_cells.append(colour_index(cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA)))
            all_inside.append(inside)
            outside = (cv2.dilate(view.oval, np.ones((9, 9), np.uint8)) == 0) & (inside > 0.8)
            skin = (cv2.erode(view.oval, np.ones((5, 5), np.uint8)) > 0) & (view.features == 0) & (view.v > -0.3)
            hairy = outside & ((view.v < -0.45) | ((view.v < 0.05) & (np.abs(view.u) > 0.5)))
            shown = inside >= 0
            all_seeds.append(np.stack([hairy, skin & shown, outside & (view.v > 0.95), shown & (inside < 0.05)]))
        cells, inside = np.concatenate(all_cells), np.concatenate(all_inside)
        seeds = np.concatenate(all_seeds, axis=1).astype(np.float32)
        priors = np.concatenate([view.priors for view in views], axis=1)
        skin_density, behind = colour_density(cells, seeds[_SKIN])[cells], colour_density(cells, seeds[_BEHIND])[cells]
        # A bald or short-haired head shows skin where hair is expected: leave out what looks like the face itself.
        typical = np.median(skin_density[seeds[_SKIN] > 0]) if seeds[_SKIN].any() else 0.0
        seeds[_HAIR] *= skin_density < 0.15 * typical
        # The person network may take in a piece of background: leave out what looks more like it, unless all hair does.
        sure = seeds[_HAIR] * (colour_density(cells, seeds[_HAIR])[cells] > behind)
        if sure.sum() > 0.3 * seeds[_HAIR].sum():
            seeds[_HAIR] = sure
        # Long hair hangs over the chest, where cloth is looked for: what looks more like it and comes down from beside the chin
        # is left out, unless most cloth is of that colour.
        hairlike = colour_density(cells, seeds[_HAIR])[cells] > colour_density(cells, seeds[_CLOTH])[cells]
        hairlike &= inside > 0.5
        for k, view in enumerate(views):
            rows = slice(k * side, (k + 1) * side)
            hairlike[rows] = _component_at(hairlike[rows].astype(np.uint8), (view.v < 0.55) & (view.oval == 0) & hairlike[rows])
        if (seeds[_CLOTH] * hairlike).sum() < 0.7 * seeds[_CLOTH].sum():
            seeds[_CLOTH] *= ~hairlike
        weights = seeds
        for _ in range(cls.ROUNDS):
            likelihood = np.stack([colour_density(cells, weight) for weight in weights]) + np.float32(0.05 / _BINS**3)
            # Half as much weight on a log scale: the person network knows better where clothes resemble the background.
            likelihood[_BEHIND] = np.sqrt(likelihood[_BEHIND] * likelihood[:3].max(0))
            posterior = _shares(likelihood, cells, priors)
            weights = posterior**2
            weights[:3] *= inside > 0.5
            weights[_BEHIND] *= (inside < 0.95) & (inside >= 0)
            weights += 0.25 * seeds
        hair_masks, skin_masks = [], []
        for k, view in enumerate(views):
            kind = posterior[:, k * side : (k + 1) * side].argmax(0)
            hair_masks.append(_hanging((kind == _HAIR) & (view.features == 0), view.v, view.oval).astype(np.float32))
            skin_masks.append(((kind == _SKIN) | (view.oval > 0)).astype(np.float32))
        return cls(likelihood, _habit(hair_masks, views), _habit(skin_masks, views))

    def labels(
        self,
        rgb: np.ndarray,
        landmarks: np.ndarray,
        person: np.ndarray,
        hair: np.ndarray | None = None,
        size: int | None = None,
        front: np.ndarray | None = None,
    ) -> np.ndarray:
        """Label map of one crop; see ``schemas.tables.LABELS``.

        Args:
            rgb: uint8 [n, n, 3]; a crop of GRID pixels serves as well as a larger one.
            landmarks: float [478, 2 or 3] in pixels of ``rgb``.
            person, hair: float32 [GRID, GRID], from the networks; person is negative where the crop reaches beyond the
                picture (background there), hair may be None.
            size: side of the label map, by default that of ``rgb``.
            front: uint8 [GRID, GRID], not zero where a hand may be (its outline is adjusted to where skin is).

        Returns:
            uint8 [size, size].
        """
        view = _View.of(landmarks, rgb.shape[0], GRID, person, hair)
        small = rgb if rgb.shape[0] == GRID else cv2.resize(rgb, (GRID, GRID), interpolation=cv2.INTER_AREA)
        columns, rows = _habit_cells(view.u, view.v)
        habit = cv2.remap(self.habit, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        usual = np.clip((habit - np.float32(0.25)) * np.float32(1 / 0.35), np.float32(0.03), 1)
        view.priors[_HAIR] *= np.where(view.v > 0.3, usual, np.float32(1))
        shares = _shares(self.likelihood, colour_index(small), view.priors)
        shares = _edge_aware(shares[:3], cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
        best = np.maximum(np.maximum(shares[_HAIR], shares[_SKIN]), shares[_CLOTH])
        is_hair, is_skin = shares[_HAIR] >= best, shares[_SKIN] >= best
        inside = (best >= 1 - (shares[_HAIR] + shares[_SKIN] + shares[_CLOTH])) & (person >= 0)
        inside = (inside | (view.oval > 0)).astype(np.uint8)
        shown = (view.oval > 0) & (person >= 0)
        if shown.any():  # where the face lies off the crop or the picture, whoever is there is better than nobody
            inside = _component_at(inside, shown)
        on = (_filled(inside, person) > 0) & (person >= 0)
        hairy = _hanging(is_hair & on & (view.features == 0), view.v, view.oval)
        high, face = view.v < 0.3, view.oval > 0
        result = np.where(is_skin, np.uint8(NECK), np.uint8(CLOTH))
        np.copyto(result, FACE, where=face | (is_skin & high))
        np.copyto(result, HAIR, where=hairy)
        np.copyto(result, HAIR, where=(result == CLOTH) & (view.v < 0.12))  # hats, ribbons: they go with the head
        result *= on
        if front is not None and front.any():
            usual = cv2.remap(self.neck, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            arm = (result == NECK) & (usual < 0.7) & ((view.v > 0.65) | (np.abs(view.u) > 0.3))
            hand = (front > 0) & on & (is_skin | face)
            hand |= (cv2.dilate(front, np.ones((9, 9), np.uint8)) > 0) & is_skin & on & ~face
            hand = _component_at((arm | hand).astype(np.uint8), front & hand) > 0
            result[hand] = OTHER
        return enlarge_labels(result, size or rgb.shape[0])


def _habit(found: Sequence[np.ndarray], views: Sequence[_View]) -> np.ndarray:
    """Mean of hair masks in head coordinates, float32 [48, 48]."""
    total = np.zeros((_HABIT, _HABIT), np.float32)
    steps = (np.arange(_HABIT, dtype=np.float32) + 0.5) * np.float32(_HABIT_SPAN / _HABIT)
    column, row = np.meshgrid(_HABIT_LEFT + steps, _HABIT_TOP + steps)
    for mask, view in zip(found, views, strict=True):
        # Head coordinates are affine in the picture: three pixels determine the map from one to the other.
        last = mask.shape[0] - 1
        corners = np.array([[0, 0], [last, 0], [0, last]], np.float32)
        there = np.array([[view.u[int(y), int(x)], view.v[int(y), int(x)]] for x, y in corners], np.float32)
        affine = cv2.getAffineTransform(there, corners)
        x, y = ((affine[k, 0] * column + affine[k, 1] * row + affine[k, 2]).astype(np.float32) for k in range(2))
        total += cv2.remap(mask, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.GaussianBlur(total / np.float32(max(len(views), 1)), (0, 0), 1.5)


def _component_at(mask: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """The components of ``mask`` (0 or 1) that touch ``seed``: one person, not whoever stands behind. Nothing where none does."""
    seed = seed if seed.dtype == bool else seed > 0
    count, numbered = cv2.connectedComponents(mask, connectivity=4)
    if count <= 2 and mask[seed].any():
        return mask
    return _chosen(numbered, count, seed)


def _chosen(numbered: np.ndarray, count: int, seed: np.ndarray) -> np.ndarray:
    """The numbered components, without number 0, that meet ``seed`` (boolean): uint8 0 or 1."""
    keep = np.zeros(count, np.uint8)
    keep[numbered[seed]] = 1
    keep[0] = 0
    return np.take(keep, numbered, mode="clip")


def _filled(mask: np.ndarray, person: np.ndarray) -> np.ndarray:
    """``mask`` (0 or 1) without holes: background is what is connected to pixels that are surely not the person."""
    count, numbered = cv2.connectedComponents(1 - mask, connectivity=4)
    return 1 - _chosen(numbered, count, person < 0.3)


def _hanging(mask: np.ndarray, v: np.ndarray, oval: np.ndarray) -> np.ndarray:
    """The parts of a boolean hair mask that hang from the head: connected, by more than a thread, to hair beside the face."""
    thread = np.ones((max(3, mask.shape[0] // 60) | 1,) * 2, np.uint8)
    thick = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, thread)
    thick |= (mask & (v < 0.3)).astype(np.uint8)
    count, numbered = cv2.connectedComponents(thick, connectivity=4)
    hanging = _chosen(numbered, count, (v < 0.3) & (oval == 0))
    return (cv2.dilate(hanging, thread) > 0) & mask


def enlarge_labels(labels: np.ndarray, size: int) -> np.ndarray:
    """Labels on the grid to ``size``, with smooth borders: each label's indicator is interpolated, the largest wins."""
    if labels.shape[0] == size:
        return labels
    grid = labels.shape[0]
    factor = size // grid if size % grid == 0 else 0
    best = np.zeros((size, size), np.uint8)
    result = np.zeros((size, size), np.uint8)
    for label in range(len(LABELS)):
        where = cv2.compare(labels, label, cv2.CMP_EQ)
        left, top, width, height = cv2.boundingRect(where)
        if not width:
            continue
        if factor:  # beyond two pixels around the label its indicator is zero
            columns, rows = slice(max(left - 2, 0), left + width + 2), slice(max(top - 2, 0), top + height + 2)
            where = where[rows, columns]
            shape = (where.shape[1] * factor, where.shape[0] * factor)
            there = np.s_[rows.start * factor :, columns.start * factor :]
        else:
            shape, there = (size, size), np.s_[:, :]
        blurred = cv2.GaussianBlur(where, (3, 3), 0, borderType=cv2.BORDER_REFLECT_101 | cv2.BORDER_ISOLATED)
        indicator = cv2.resize(blurred, shape, interpolation=cv2.INTER_LINEAR)
        so_far = best[there][: shape[1], : shape[0]]
        if label != BACKGROUND:
            np.copyto(result[there][: shape[1], : shape[0]], label, where=indicator > so_far)
        np.maximum(so_far, indicator, out=so_far)
    return result
