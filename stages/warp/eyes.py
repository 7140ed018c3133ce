"""Eyes as two layers under the lids: a ball of sclera and a round iris, both taken from the source and completed.

The lids are part of the head's mesh. Where the source shows no eyeball (closed lids) a plain one is painted, so that the head
can open its eyes when the target does.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.filling import membrane
from stages.warp.shapes import blend_patch, bounding_box, polygon_coverage

Array = NDArray[np.float64]

CLOSED = 0.04
"""Height over width of an opening below which an eye counts as closed."""

ROUND = 0.1
"""Height over width from which an opening is drawn at full strength."""

LASHES = 0.6
"""Brightness between closed lids, share of the skin's around them."""

LIDS = 0.14
"""How far from the opening that is known the eyeball may still be seen, widths of the eye: the detector draws openings too small,
of smiling eyes most."""

LASH_LINE, LASH_BAND, DARKEST = 0.05, 0.09, 0.15
"""Width of the line that lashes draw between shut lids, widths of the eye; width of the band along an open upper lid where their
colour is looked for, and what share of it, the darkest, is theirs."""

LASH_OPACITY = 0.85

PLAIN_IRIS = np.array([62.0, 46.0, 38.0])


@dataclass(frozen=True)
class Eye:
    """One eye of the source.

    Attributes:
        origin: x, y of the patch's corner in the source's crop.
        ball: uint8 [height, width, 3], sclera without iris, also behind the lids.
        iris: uint8 [height, width, 4], the whole iris, premultiplied by its opacity.
        centre: of the iris, pixels of the source's crop.
        middle: of the opening's corners, pixels of the source's crop.
        lashes: float64 [3], RGB of the line between its lids when they are shut.
    """

    origin: tuple[int, int]
    ball: NDArray[np.uint8]
    iris: NDArray[np.uint8]
    centre: Array
    middle: Array
    lashes: Array


def openness(contour: NDArray[np.floating]) -> float:
    """Height over width of an eye's opening; contour [16, 2 or 3] with the corners at 0 and 8."""
    points = np.asarray(contour, np.float64)[:, :2]
    axis = points[8] - points[0]
    square = max(float(axis @ axis), 1e-12)
    gaps = points[:8:-1] - points[1:8]
    # Across the line between the corners: lids that touch may still be shifted along it.
    heights = np.abs(gaps[:, 0] * axis[1] - gaps[:, 1] * axis[0]) / square
    return float(np.sort(heights)[-3:].mean())


def take_eye(picture: NDArray[np.uint8], contour: NDArray[np.floating], iris: NDArray[np.floating]) -> Eye:
    """Split one eye of the source into eyeball and iris.

    Args:
        picture: uint8 RGB [size, size, 3], the source's crop.
        contour: float [16, 2 or 3], opening, pixels of the crop.
        iris: float [5, 2 or 3], centre and four border points.
    """
    contour = np.asarray(contour, np.float64)[:, :2]
    iris = np.asarray(iris, np.float64)[:, :2]
    width = float(np.linalg.norm(contour[0] - contour[8]))
    left, top, right, bottom = bounding_box(contour, picture.shape[:2], margin=0.7 * width)
    origin = np.array([left, top], np.float64)
    patch = picture[top:bottom, left:right]
    radius = float(np.clip(np.linalg.norm(iris[1:] - iris[0], axis=1).mean(), 0.15 * width, 0.3 * width))
    centre = iris[0]
    is_open = openness(contour) >= CLOSED
    y, x = np.mgrid[: bottom - top, : right - left].astype(np.float64) + 0.5
    distance = np.hypot(x - (centre[0] - left), y - (centre[1] - top))
    shape = patch.shape[:2]
    opening = polygon_coverage(contour - origin, shape)
    # The lid's edge and its shadow belong to the lid: leave a rim of about a pixel and a half out of the eyeball.
    seen = cv2.erode((opening > 0.99).astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    white = seen & (distance > 1.12 * radius)
    ball = _ball(patch, white if is_open else np.zeros(shape, bool), opening)
    inner = seen & (distance < radius) if is_open else np.zeros(shape, bool)
    disc = _disc(patch, inner, distance, radius)
    if is_open:
        ball[white] = patch[white]
    coverage = np.clip((1.08 * radius - distance) / max(0.16 * radius, 1.0) + 0.5, 0, 1)
    layer = np.concatenate([disc * coverage[..., None], 255 * coverage[..., None]], axis=2)
    middle = (contour[0] + contour[8]) / 2
    lashes = _lash_colour(patch, contour - origin, white | (distance < 1.15 * radius))
    return Eye((left, top), ball.astype(np.uint8), np.round(layer).astype(np.uint8), centre.copy(), middle, lashes)


def without_eyeball(picture: NDArray[np.uint8], contour: NDArray[np.floating], widened: float = 0.0) -> None:
    """Paint the skin of the lids, in shade as among lashes, over an eye's opening, in place.

    The head's mesh draws the lids together when the eye closes; what is left of the opening must then not be white.

    Args:
        picture: uint8 RGB [height, width, 3].
        contour: float [16, 2 or 3], opening, pixels of the picture.
        widened: how far around the opening skin is painted as well, widths of the eye.
    """
    contour = np.asarray(contour, np.float64)[:, :2]
    width = float(np.linalg.norm(contour[0] - contour[8]))
    left, top, right, bottom = bounding_box(contour, picture.shape[:2], margin=(0.3 + widened) * width)
    if right <= left or bottom <= top:
        return
    patch = picture[top:bottom, left:right]
    opening = polygon_coverage(contour - (left, top), patch.shape[:2])
    coverage = opening
    if widened > 0:
        reach = 2 * round(widened * width) + 1
        coverage = cv2.dilate(opening, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
        coverage = cv2.GaussianBlur(coverage, (0, 0), max(0.25 * widened * width, 0.5))
    lid = membrane(patch, cv2.dilate(coverage, np.ones((3, 3), np.uint8)) <= 1e-3, relax=2)
    blend_patch(patch, lid * (1 - (1 - LASHES) * opening[..., None]), coverage)


def shut_share(contour: NDArray[np.floating]) -> float:
    """How far an opening float [16, 2 or 3] counts as shut: 1 up to CLOSED, 0 from ROUND."""
    return float(1 - np.clip((openness(contour) - CLOSED) / (ROUND - CLOSED), 0, 1))


def _ball(patch: NDArray[np.uint8], white: NDArray[np.bool_], opening: NDArray[np.float32]) -> NDArray[np.uint8]:
    if white.sum() >= 12:
        return np.asarray(np.clip(np.rint(membrane(patch, white, relax=2)), 0, 255), np.uint8)
    # No sclera to be seen: skin made paler and greyer.
    skin = patch[opening < 0.5].reshape(-1, 3).astype(np.float64).mean(0)
    pale = 0.35 * skin + 0.65 * skin.mean() + 28
    return np.broadcast_to(np.clip(pale, 0, 235), patch.shape).astype(np.uint8)


def _disc(patch: NDArray[np.uint8], inner: NDArray[np.bool_], distance: Array, radius: float) -> Array:
    """The iris with what the lids hide completed by the mean colour at the same distance from its centre."""
    rings = 12
    ring = np.clip((distance / radius * rings).astype(int), 0, rings - 1)
    profile = np.full((rings, 3), np.nan)
    for number in range(rings):
        pixels = patch[inner & (ring == number)]
        if len(pixels) >= 3:
            profile[number] = np.median(pixels, axis=0)
    known = np.isfinite(profile[:, 0])
    if known.sum() < 3:
        shade = np.linspace(0.35, 1.0, rings)[:, None]
        profile = PLAIN_IRIS * shade
    else:
        for channel in range(3):
            profile[:, channel] = np.interp(np.arange(rings), np.flatnonzero(known), profile[known, channel])
    disc = profile[ring]
    softness = cv2.GaussianBlur(inner.astype(np.float32), (0, 0), 0.8)[..., None] * inner[..., None]
    return np.asarray(softness * patch + (1 - softness) * disc)


def draw_eye(
    picture: NDArray[np.uint8], eye: Eye, contour: NDArray[np.floating], iris: NDArray[np.floating], turn: Array
) -> None:
    """Draw an eye into the opening of the lids, in place.

    Args:
        picture: uint8 RGB [height, width, 3], the head as warped so far.
        eye: of the source.
        contour: float [16, 2 or 3], opening wanted, pixels of the picture.
        iris: float [5, 2 or 3], wanted; only its centre is used, so that the iris stays round.
        turn: float64 [2, 2], how the head's front turns and scales from source to picture.
    """
    contour = np.asarray(contour, np.float64)[:, :2]
    strength = 1 - shut_share(contour)
    if strength <= 0:
        return
    left, top, right, bottom = bounding_box(contour, picture.shape[:2], margin=2)
    if right <= left or bottom <= top:
        return
    origin = np.array([left, top], np.float64)
    size = (right - left, bottom - top)
    middle = (contour[0] + contour[8]) / 2
    ball = _moved(eye.ball, eye, eye.middle, middle - origin, turn, size, cv2.BORDER_REPLICATE)
    centre = _inside(np.asarray(iris, np.float64)[0, :2], contour)
    disc = _moved(eye.iris, eye, eye.centre, centre - origin, turn, size, cv2.BORDER_CONSTANT)
    filled = ball * (1 - disc[..., 3:] / np.float32(255)) + disc[..., :3]
    coverage = polygon_coverage(contour - origin, (size[1], size[0])) * np.float32(strength)
    blend_patch(picture[top:bottom, left:right], filled, coverage)


def draw_lashes(picture: NDArray[np.uint8], eye: Eye, contour: NDArray[np.floating]) -> None:
    """Draw the line of lashes between the lids of an eye, as far as it is shut, in place.

    The mesh presses what lies between the lids to nothing when it draws them together.

    Args:
        picture, eye, contour: as for ``draw_eye``.
    """
    contour = np.asarray(contour, np.float64)[:, :2]
    shut = shut_share(contour)
    if shut <= 0:
        return
    width = float(np.linalg.norm(contour[8] - contour[0]))
    left, top, right, bottom = bounding_box(contour, picture.shape[:2], margin=LASH_LINE * width + 2)
    if width < 1 or right <= left or bottom <= top:
        return
    line = _lash_line(contour - (left, top), LASH_LINE * width)
    coverage = cv2.GaussianBlur(polygon_coverage(line, (bottom - top, right - left)), (0, 0), max(0.012 * width, 0.4))
    patch = picture[top:bottom, left:right]
    blend_patch(patch, np.broadcast_to(eye.lashes, patch.shape), coverage * np.float32(LASH_OPACITY * shut))


def _lash_line(contour: Array, width: float) -> Array:
    """Outline [16, 2] of a line along the upper lid that is as wide in its middle and ends in points."""
    lid = np.concatenate([contour[8:], contour[:1]])
    axis = contour[8] - contour[0]
    across = np.array([-axis[1], axis[0]]) / max(float(np.linalg.norm(axis)), 1e-9)
    half = 0.5 * width * np.sqrt(np.sin(np.linspace(0, np.pi, len(lid))).clip(0))[:, None] * across
    return np.concatenate([lid + half, (lid - half)[-2:0:-1]])


def _lash_colour(patch: NDArray[np.uint8], contour: Array, eyeball: NDArray[np.bool_]) -> Array:
    """Of the darkest places along the upper lid, made darker where they are not as dark as what lies between shut lids."""
    width = float(np.linalg.norm(contour[8] - contour[0]))
    along, around = (polygon_coverage(_lash_line(contour, band * width), patch.shape[:2]) > 0.5 for band in (LASH_BAND, 0.8))
    along &= ~eyeball
    skin = np.median(patch[around & ~eyeball if (around & ~eyeball).any() else ...].reshape(-1, 3), axis=0)
    if not along.any():
        return np.asarray(LASHES * skin)
    pixels = patch[along].astype(np.float64)
    light = pixels.mean(1)
    found = pixels[light <= np.quantile(light, DARKEST)].mean(0)
    return np.asarray(found * min(1.0, LASHES * float(skin.mean()) / max(float(found.mean()), 1e-9)))


def _moved(
    layer: NDArray[np.uint8], eye: Eye, source: Array, wanted: Array, turn: Array, size: tuple[int, int], border: int
) -> NDArray[np.float32]:
    """A layer drawn so that the source point comes to lie at the wanted point of a patch."""
    offset = wanted - turn @ (source - np.array(eye.origin) - 0.5) - 0.5
    matrix = np.concatenate([turn, offset[:, None]], axis=1)
    return cv2.warpAffine(layer, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border).astype(np.float32)


def _inside(centre: Array, contour: Array) -> Array:
    """The iris kept between the corners of the eye."""
    axis = contour[8] - contour[0]
    share = float((centre - contour[0]) @ axis / max(axis @ axis, 1e-9))
    return np.asarray(centre + (np.clip(share, 0.22, 0.78) - share) * axis)
