"""The back of the head, which the source's picture does not show and a turned head does."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import Delaunay, QhullError

from schemas.tables import LABELS
from stages.filling import membrane
from stages.renderer import Portrait
from stages.warp import topology
from stages.warp.geometry import FLIP, SKULL_CENTRE, Array, Pose, facing_angle, hanging_share, smooth_step
from stages.warp.raster import maps_of, rasterise, reduced, reduction, sampled, triangle_rows
from stages.warp.shapes import bounding_box

HAIR, FACE = (LABELS.index(name) for name in ("hair", "face"))

LENGTH = 1.25
"""Length of a head from its middle backwards, in halves of its width, seen from the front."""

NAPE, LOWEST = -1.1, -4.0
"""Height in model space at which the head's back has given way to the neck, and the lowest at which hair behind it may end."""

GIVES_WAY, TIPS = 0.3, 0.06
"""Height in model space over which the back gives way to the neck, and over which hanging hair ends."""

STRAND, BAND = 0.12, 0.1
"""Width in model space that hair beside a face has at least to hang there, and height of the bands in which that is asked."""

BELOW_EAR, GAP = -0.6, 2
"""Height in model space from which that is asked (above, an ear may lie before the hair), and bands that an earring may hide."""

NARROWER, NARROWS, CROPPED = 0.6, (0.2, 1.0), 0.3
"""How much less deep the back is at the nape, below which heights in model space (turned round) it becomes so, and how much lower
than the ears hair has to hang for it not to: cropped hair follows the skull, longer one falls from where that is widest."""

TURNED = (np.deg2rad(4.0), np.deg2rad(14.0))
"""Out-of-plane rotation against the source from which the back comes forth, and from which on it is all there."""

RAISED = (np.deg2rad(8.0), np.deg2rad(20.0))
"""The same for a chin that is raised, over which the back becomes flat: else it would come down behind the neck."""

SOLID = 0.1
"""Share of the way from ``TURNED`` to wholly at which the back is opaque above the nape: before, it lies so close to the head's
own outline that no veil is seen. Hair that hangs below always is: there a neck may leave a gap to the hair beside it."""

SURE, INSIDE = 0.98, 4
"""Opacity of the source from which, and pixels inside of it where, that hair always is: its own soft border shall stay soft."""

STEPS, SPACING = 6, 5
"""Belts of corners from the silhouette to the middle, and pixels from corner to corner."""

EDGE = 0.8
"""Blur of the drawn sheet, pixels: its border is a fold, which the rasteriser draws in steps."""

MARGINS, LEAST_LEFT = (14, 7, 4, 2), 0.25
"""Borders that are tried to be taken from hair where it ends at skin or clothes, pixels, and what share of it must be left."""

RIM = 2
"""Border that is taken from it where it ends at the background, pixels."""

ACROSS, DOWN = 6, 2
"""How many pixels across the head and down become one where its hair is continued: the back is lit as the hair beside it at its
own height is, not as the crown above."""

LEAST_HAIR = 0.05
"""Share of a head that must be hair; of less, the back has the colour of the forehead."""


class BackOfHead:
    """A sheet behind the head, inflated from its silhouette in the source, in the colours of its hair.

    In the source's own pose it lies within the silhouette, hidden by the head itself but for where its neck was.

    Args:
        portrait: of the source.
    """

    def __init__(self, portrait: Portrait) -> None:
        pose = portrait.pose
        centre = pose.project(SKULL_CENTRE[None])[0]
        height = _height(portrait.matte.shape, pose, float(centre[2]))
        ends = _ends(portrait, height)
        # As low as on the shorter side: the other one may be a braid.
        self._has_long_hair = max(ends) < NAPE + GIVES_WAY - BAND / 2
        end = max(*ends, LOWEST) if self._has_long_hair else NAPE
        mask = (portrait.matte > 0.5) & (height > end)
        # Of a head seen from the side the far end is the other ear, not the back.
        length = 1 + (LENGTH - 1) * max(float(pose.rotation[2, 2]), 0) ** 2
        depth, belts = _inflated(mask, portrait.matte > 0.5)
        points = _corners(mask, belts)
        try:
            triangles = Delaunay(points).simplices
        except (QhullError, ValueError):  # nothing, or a line
            self.covers_something = False
            return
        self.covers_something = True
        inside = [mask[rows, columns] for columns, rows in _pixels(points[triangles].mean(1), mask.shape)]
        self._triangles = triangle_rows(triangles[np.array(inside)])
        columns, rows = _pixels(points, mask.shape).T
        cropped = np.clip(1 - (BELOW_EAR - min(ends)) / CROPPED, 0, 1)
        depth *= 1 - NARROWER * cropped * smooth_step(-height, *NARROWS)
        self._pose = pose
        self._coordinates = points.astype(np.float32)
        # As in the mesh, hair below the jaw hangs straight from where the head carries the jaw's height.
        jaw = float(portrait.landmarks[topology.JAW_CORNERS, 1].mean())
        self._drop = np.maximum(points[:, 1] - jaw, 0)
        self._hanging = hanging_share(self._drop, pose.scale)[:, None]
        carried = np.column_stack([points[:, 0], np.minimum(points[:, 1], jaw)])
        self._flat, self._deep = (
            np.stack([pose.lift(np.column_stack([at, centre[2] + behind * depth[rows, columns]])) for at in (points, carried)])
            for behind in (0.0, length)
        )
        low, over = (end, TIPS) if self._has_long_hair else (NAPE, GIVES_WAY)
        fade = np.clip((height - low) / over, 0, 1)[..., None]
        layers = np.concatenate([_colours(portrait) * fade, 255 * fade], axis=2)
        self._texture = np.clip(layers + 0.5, 0, 255).astype(np.uint8)
        below = np.clip(255 * (NAPE + GIVES_WAY - height) / GIVES_WAY, 0, 255)
        solid = cv2.erode((portrait.matte > SURE).astype(np.float32), np.ones((2 * INSIDE + 1,) * 2, np.uint8))
        always = below * cv2.GaussianBlur(solid, (0, 0), INSIDE / 2)
        self._below = np.dstack([below, always]).astype(np.uint8)

    @property
    def hangs(self) -> bool:
        """Whether hair hangs down to the nape or lower, where it is behind neck and body."""
        return self.covers_something and self._has_long_hair

    def share(self, shown: Pose) -> float:
        """How far it has come forth in a pose, of its depth, 0..1."""
        if not self.covers_something:
            return 0.0
        raised = np.arcsin(np.clip([shown.rotation[1, 2], self._pose.rotation[1, 2]], -1, 1))
        return self._turned(shown) * (1 - float(smooth_step(raised[0] - raised[1], *RAISED)))

    def draw(
        self, shown: Pose, size: tuple[int, int], body: NDArray[np.float32] | None = None
    ) -> tuple[tuple[slice, slice], NDArray[np.uint8]] | None:
        """Rows and columns of a picture of some size, and the premultiplied RGBA that lies there, uint8; None for nothing.

        Args:
            body: float32 [height, width], 0..1, where neck and clothes are: hair that hangs below the nape is behind them.
        """
        opaque = min(self._turned(shown) / SOLID, 1.0) if self.covers_something else 0.0
        corners = self._corners(shown) if opaque > 0 or self.hangs else np.zeros((0, 3), np.float32)
        left, top, right, bottom = bounding_box(corners[:, :2], size, margin=3) if len(corners) else (0, 0, 0, 0)
        if right <= left or bottom <= top:
            return None
        corners[:, :2] -= (left, top)
        drawn = rasterise(corners, self._coordinates, self._triangles, bottom - top, right - left)
        smaller = reduction(shown.scale / self._pose.scale, self._texture.shape[0])
        maps = maps_of(drawn, smaller)
        layers = sampled(reduced(self._texture, smaller), *maps)
        box = np.s_[top:bottom, left:right]
        if self.hangs:
            below, always = np.moveaxis(sampled(reduced(self._below, smaller), *maps).astype(np.float32) / np.float32(255), 2, 0)
            share = opaque + (1 - opaque) * always
            layers = np.rint(layers * (share if body is None else share * (1 - body[box] * below))[..., None]).astype(np.uint8)
            opaque = 1.0
        layers = cv2.convertScaleAbs(cv2.GaussianBlur(layers, (0, 0), EDGE), alpha=opaque)
        return box, np.asarray(layers, np.uint8)

    def _turned(self, shown: Pose) -> float:
        return float(smooth_step(facing_angle(self._pose.rotation, shown.rotation), *TURNED))

    def _corners(self, shown: Pose) -> NDArray[np.float32]:
        """Where the corners go. The sheet comes forth as it deepens: faded in, it would be a veil beside the head."""
        rigid, hung = (shown.project(shape) for shape in self._flat + self.share(shown) * (self._deep - self._flat))
        hung[:, 1] += self._drop * shown.scale / self._pose.scale
        return np.asarray(rigid + self._hanging * (hung - rigid), np.float32)


def _height(shape: tuple[int, ...], pose: Pose, depth: float) -> Array:
    """Height in model space of every pixel of a crop, seen at a depth: float64 [height, width]."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    places = np.stack([x, y, np.full(x.shape, depth)], axis=-1)
    return np.asarray(pose.lift(places.reshape(-1, 3))[:, 1].reshape(shape))


def _ends(portrait: Portrait, height: Array) -> tuple[float, float]:
    """Height in model space down to which hair hangs on each side of the face, ``BELOW_EAR`` where none does.

    ``height``: of every pixel."""
    hair = (portrait.labels == HAIR) & (portrait.matte > 0.5)
    axis = portrait.pose.rotation[:2, 0] * FLIP[:2]
    axis = axis / max(float(np.linalg.norm(axis)), 1e-6)
    ears = np.asarray(portrait.landmarks[topology.EARS, :2], np.float64) @ axis
    y, x = np.mgrid[: hair.shape[0], : hair.shape[1]] + 0.5
    across = x * axis[0] + y * axis[1]
    sides = across < ears.min(), across > ears.max()
    bands = np.floor((BELOW_EAR - height) / BAND).astype(np.int64)
    least = STRAND * BAND * portrait.pose.scale**2
    left, right = (_lowest(np.bincount(bands[hair & side & (bands >= 0)]) >= least) for side in sides)
    return left, right


def _lowest(enough: NDArray[np.bool_]) -> float:
    """Height down to which hair goes on from below the ear without a gap of more than ``GAP`` bands: a patch that lies lower is
    none of it. ``enough``: for each band whether there is hair."""
    reached = -1
    for band in np.flatnonzero(enough):
        if band - reached > GAP + 1:
            break
        reached = int(band)
    return BELOW_EAR - BAND * (reached + 1)


def _inflated(mask: NDArray[np.bool_], head: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Thickness, from its middle plane, of a round body with the silhouette of a ``head`` of which ``mask`` is a part, pixels
    [height, width]; and in which of ``STEPS`` belts of equal turn, from the silhouette inwards, each pixel of the mask lies, from
    1 on. Where the mask ends and the head does not, the body goes on."""
    if not mask.any():
        return np.zeros(mask.shape), np.zeros(mask.shape, np.int64)
    # The picture's lower border cuts a neck, the others end the head.
    around = cv2.copyMakeBorder(head.astype(np.uint8), 1, 0, 1, 1, cv2.BORDER_CONSTANT, value=0)
    distance = cv2.distanceTransform(around, cv2.DIST_L2, 5)[1:, 1:-1].astype(np.float64)
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


def _deep_inside(mask: NDArray[np.bool_], solid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask of hair without its border to the rest of what is ``solid``, as long as something is left: there ears and skin
    mingle with the hair, and it lies in the shadow of the face. Narrow hair beside a face is what its back continues, so less is
    taken from it at the background."""
    whole = mask & _shrunk(solid, RIM)
    for margin in MARGINS:
        inner = whole & _shrunk(mask | ~solid, margin)
        if inner.sum() > LEAST_LEFT * mask.sum():
            return inner
    return mask


def _shrunk(mask: NDArray[np.bool_], margin: int) -> NDArray[np.bool_]:
    return cv2.erode(mask.astype(np.uint8), np.ones((2 * margin + 1,) * 2, np.uint8)) > 0


def _colours(portrait: Portrait) -> NDArray[np.float32]:
    """The head in nothing but its hair (its forehead where it is bald), float32 RGB [size, size, 3]: its own where there is
    some, continued from it elsewhere."""
    solid = portrait.matte > 0.98
    known = solid & (portrait.labels == HAIR)
    if known.sum() < LEAST_HAIR * max(int(solid.sum()), 1):
        brows = np.asarray(portrait.landmarks[topology.BROWS], np.float64)
        forehead = _height(solid.shape, portrait.pose, float(brows[:, 2].mean())) > portrait.pose.lift(brows)[:, 1].mean()
        known = solid & (portrait.labels == FACE) & forehead
    known = _deep_inside(known, solid)
    less = (portrait.colours.shape[1] // ACROSS, portrait.colours.shape[0] // DOWN)
    small = cv2.resize(portrait.colours, less, interpolation=cv2.INTER_AREA)
    sure = cv2.resize(known.astype(np.uint8) * 255, less, interpolation=cv2.INTER_AREA) == 255
    if not sure.any():
        small[:], sure[:] = np.median(portrait.colours[solid] if solid.any() else portrait.colours.reshape(-1, 3), axis=0), True
    smooth = cv2.resize(membrane(small, sure), portrait.colours.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    own = cv2.GaussianBlur(known.astype(np.float32), (0, 0), 1.5)[..., None] * known[..., None]
    return np.asarray(smooth * (1 - own) + portrait.colours * own, np.float32)
