"""The back of the head, which the source's picture does not show and a turned head does."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import Delaunay

from schemas.tables import LABELS
from stages.filling import membrane
from stages.renderer import Portrait
from stages.warp.geometry import SKULL_CENTRE, Array, Pose
from stages.warp.raster import OUTSIDE, rasterise, triangle_rows

HAIR, FACE = (LABELS.index(name) for name in ("hair", "face"))
BROWS = [105, 334]
"""Landmarks on the upper borders of the brows."""

LENGTH = 1.25
"""Length of a head from its middle backwards, in halves of its width."""

NAPE = (-0.8, -1.1)
"""Height in model space at which the head's back begins to give way to the neck, and where it has."""

TURNED = (np.deg2rad(4.0), np.deg2rad(14.0))
"""Out-of-plane rotation against the source from which the back is shown, and from which on wholly."""

RAISED = (np.deg2rad(8.0), np.deg2rad(20.0))
"""The same for a chin that is raised: then the back goes down behind the neck, and is not shown."""

STEPS, SPACING, LEAST_CORNERS = 6, 5, 12
"""Belts of corners from the silhouette to the middle, pixels from corner to corner, and how few are no sheet."""

EDGE = 0.8
"""Blur of the drawn sheet, pixels: its border is a fold, which the rasteriser draws in steps."""

MARGINS, LEAST_LEFT = (7, 4, 2), 0.25
"""Borders that are tried to be taken from the hair, pixels, and what share of it must be left."""

LEAST_HAIR = 0.05
"""Share of a head that must be hair; of less, the back has the colour of the forehead."""


class BackOfHead:
    """A sheet behind the head, inflated from its silhouette in the source, in the colours of its hair.

    In the source's own pose it lies within the silhouette, hidden by the head itself.

    Args:
        portrait: of the source.
    """

    def __init__(self, portrait: Portrait) -> None:
        pose = portrait.pose
        centre = pose.project(SKULL_CENTRE[None])[0]
        height = _height(portrait.matte.shape, pose, float(centre[2]))
        mask = (portrait.matte > 0.5) & (height > NAPE[1])
        depth, levels = _inflated(mask)
        points = _corners(mask, levels)
        self.covers_something = len(points) > LEAST_CORNERS
        if not self.covers_something:
            return
        triangles = Delaunay(points).simplices
        inside = [mask[rows, columns] for columns, rows in _pixels(points[triangles].mean(1), mask.shape)]
        self._triangles = triangle_rows(triangles[np.array(inside)])
        columns, rows = _pixels(points, mask.shape).T
        self._model = pose.lift(np.column_stack([points, centre[2] + LENGTH * depth[rows, columns]]))
        self._rotation = pose.rotation
        self._coordinates = points.astype(np.float32)
        fade = np.clip((height - NAPE[1]) / (NAPE[0] - NAPE[1]), 0, 1)[..., None]
        layers = np.concatenate([_colours(portrait) * fade, 255 * fade], axis=2)
        self._texture = np.clip(layers + 0.5, 0, 255).astype(np.uint8)

    def share(self, shown: Pose) -> float:
        """How much of it is to be seen in a pose, 0..1."""
        if not self.covers_something:
            return 0.0
        start, end = self._rotation[:, 2], shown.rotation[:, 2]
        turned = float(np.arccos(np.clip(start @ end, -1, 1)))
        raised = float(np.arcsin(np.clip(end[1], -1, 1)) - np.arcsin(np.clip(start[1], -1, 1)))
        return _smooth(turned, *TURNED) * (1 - _smooth(raised, *RAISED))

    def draw(self, shown: Pose, size: tuple[int, int]) -> NDArray[np.uint8] | None:
        """Premultiplied RGBA, uint8 [*size, 4]; None where nothing of it is to be seen."""
        share = self.share(shown)
        if share <= 0:
            return None
        corners = shown.project(self._model).astype(np.float32)
        drawn = rasterise(corners, self._coordinates, self._triangles, *size)
        maps = np.where(drawn[..., :1] <= OUTSIDE, np.float32(OUTSIDE), drawn[..., :2] - np.float32(0.5))
        layers = cv2.remap(self._texture, maps, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        return np.asarray(cv2.convertScaleAbs(cv2.GaussianBlur(layers, (0, 0), EDGE), alpha=share), np.uint8)


def _smooth(value: float, low: float, high: float) -> float:
    share = float(np.clip((value - low) / (high - low), 0, 1))
    return share * share * (3 - 2 * share)


def _height(shape: tuple[int, ...], pose: Pose, depth: float) -> Array:
    """Height in model space of every pixel of the source's crop, seen at a depth: float64 [height, width]."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    places = np.stack([x, y, np.full(x.shape, depth)], axis=-1)
    return np.asarray(pose.lift(places.reshape(-1, 3))[:, 1].reshape(shape))


def _inflated(mask: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Thickness of a round body with this silhouette, from its middle plane, pixels [height, width]; and in which of ``STEPS``
    belts of equal turn, from the silhouette inwards, each pixel lies, from 1 on. Below, where the head is cut off, it is not
    round but goes on."""
    rows = np.flatnonzero(mask.any(1))
    if not len(rows):
        return np.zeros(mask.shape), np.zeros(mask.shape, np.int64)
    open_below = mask.copy()
    open_below[rows[-1] :] |= mask[rows[-1]]
    distance = cv2.distanceTransform(np.pad(open_below, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1].astype(np.float64)
    half = float(distance[mask].max())
    inwards = 1 - np.minimum(distance / half, 1)
    belts = 1 + np.floor(np.arccos(inwards) / (np.pi / 2) * STEPS)
    return half * np.sqrt(1 - inwards**2), np.where(mask, np.minimum(belts, STEPS), 0).astype(np.int64)


def _corners(mask: NDArray[np.bool_], belts: NDArray[np.int64]) -> Array:
    """Corners [n, 2], pixels, along the outer border of every belt: close where the sheet bends most."""
    found = []
    for belt in range(1, STEPS + 1):
        contours, _ = cv2.findContours((belts >= belt).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        found += [contour[::SPACING, 0] for contour in contours if len(contour) > SPACING]
    points = np.concatenate([np.zeros((0, 2), np.int32), *found])
    return np.unique(points, axis=0).astype(np.float64)


def _pixels(points: Array, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Columns and rows [n, 2] of the pixels at points [n, 2]."""
    return np.clip(points.round(), 0, [shape[1] - 1, shape[0] - 1]).astype(np.int64)


def _deep_inside(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask without its border, where ears and skin mingle with the hair, as long as something is left."""
    for margin in MARGINS:
        inner = cv2.erode(mask.astype(np.uint8), np.ones((2 * margin + 1,) * 2, np.uint8)) > 0
        if inner.sum() > LEAST_LEFT * mask.sum():
            return inner
    return mask


def _colours(portrait: Portrait) -> NDArray[np.float32]:
    """The head in nothing but hair, float32 RGB [size, size, 3]: its own where there is some, continued from it elsewhere."""
    solid = portrait.matte > 0.98
    known = solid & (portrait.labels == HAIR)
    if known.sum() < LEAST_HAIR * max(int(solid.sum()), 1):
        brows = np.asarray(portrait.landmarks[BROWS], np.float64)
        forehead = _height(solid.shape, portrait.pose, float(brows[:, 2].mean())) > portrait.pose.lift(brows)[:, 1].mean()
        known = solid & (portrait.labels == FACE) & forehead
    known = _deep_inside(known)
    half = (portrait.colours.shape[1] // 2, portrait.colours.shape[0] // 2)
    small = cv2.resize(portrait.colours, half, interpolation=cv2.INTER_AREA)
    sure = cv2.resize(known.astype(np.uint8) * 255, half, interpolation=cv2.INTER_AREA) == 255
    smooth = cv2.resize(membrane(small, sure), portrait.colours.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    own = cv2.GaussianBlur(known.astype(np.float32), (0, 0), 1.5)[..., None] * known[..., None]
    return np.asarray(smooth * (1 - own) + portrait.colours * own, np.float32)
