"""Colours of the source's head brought towards the target's light, and skin tones for the neck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.warp import topology
from stages.warp.eyes import openness
from stages.warp.shapes import polygon_coverage

LIGHTNESS_SHARE, LIGHTNESS_LIMIT = 0.4, 22.0
CHROMA_SHARE, CHROMA_LIMIT = 0.3, 7.0
CONTRAST_SHARE, CONTRAST_LIMIT = 0.35, 0.2
HARSH, HARSH_SHARE, HARSH_LEAST = 0.65, 0.6, 0.5
"""Ratio of the faces' spans of light below which contrast is taken down by more, the exponent of it, and the least ratio."""

GLARE, DIM_LEAST = 10.0, 0.6
"""How much lighter highlights may be than the target's, in 8-bit L, where nothing else in the scene is; the least factor on L."""

EVEN_FROM, EVEN_LEAST = 1.6, 0.65
"""Ratio of the faces' deviations of colour from which strong colours come down, and the least factor on their excess."""

SLOPE_SHARE, SLOPE_LIMIT = 0.6, 25.0

WHITES = (60, 90)
"""Percentiles of L between which eyes are white: above iris and lashes, below glints and glare."""

OPEN = 0.15
"""Least height over width of an eye's opening: of narrower ones lashes hide the white."""

LIGHT_EYES = 0.0
"""By how much, in 8-bit L, the eyes of the darker face must at least be lighter than its skin to say that the skin is dark."""

SAME_SKIN, OTHER_SKIN = 35.0, 65.0
"""By how much two faces may differ in how far eyes are lighter than skin, in 8-bit L, until the skins count as different, and
from where on all of it is the skins' difference."""

BLACK = -41.0
"""8-bit L against which L is proportional to the cube root of light (16 of 100 below zero)."""


@dataclass(frozen=True)
class SkinStatistics:
    """Colour and light of a face.

    Attributes:
        mean: float64 [3], 8-bit L, a, b of the skin.
        deviation: float64 [3], their standard deviation.
        tone: float64 [3], mean RGB in linear light.
        slope: float64 [2], how L changes along the eyes' line and across it, per distance of the eye centres: from where the
            light comes.
        span: float64 [2], 5th and 95th percentile of L: the face's shadows and highlights.
        brightest: 97th percentile of L in the picture around the face: how bright anything in this light is.
        eye_white: L of the whites of the eyes, which is much the same in all people; None where no eye is open.
    """

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    tone: NDArray[np.float64]
    slope: NDArray[np.float64]
    span: NDArray[np.float64]
    brightest: float
    eye_white: float | None = None


def face_skin(landmarks: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Skin of the face, bool [height, width]: inside the outline, from the brows down, without eyes and lips.

    The forehead is left out because hair may cover it. Needs no label map, so that statistics of a whole shot can be taken from
    any of its frames.
    """
    outline = landmarks[topology.FACE_OVAL, :2]
    middle = outline.mean(0)
    mask = polygon_coverage(middle + (outline - middle) * 0.92, shape) > 0.5
    for ring, growth in ((topology.LEFT_EYE, 1.6), (topology.RIGHT_EYE, 1.6), (topology.OUTER_LIPS, 1.15)):
        points = landmarks[ring, :2]
        middle = points.mean(0)
        mask &= polygon_coverage(middle + (points - middle) * growth, shape) < 0.5
    down = landmarks[152, :2] - landmarks[10, :2]
    down = down / max(float(np.linalg.norm(down)), 1e-6)
    y, x = np.mgrid[: shape[0], : shape[1]]
    brow = landmarks[topology.BROWS, :2].mean(0)
    return np.asarray(mask & ((x - brow[0]) * down[0] + (y - brow[1]) * down[1] > 0))


def face_coordinates(landmarks: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Place in the face of every pixel, float32 [height, width, 2]: along the line of the eyes and across it, downwards.

    The origin lies at the tip of the nose, the unit is the distance of the eye centres.
    """
    first, second = (landmarks[ring, :2].mean(0) for ring in (topology.LEFT_EYE, topology.RIGHT_EYE))
    axis = second - first
    square = max(float(axis @ axis), 1e-6)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    x, y = x - np.float32(landmarks[1, 0]), y - np.float32(landmarks[1, 1])
    along, across = (x * axis[0] + y * axis[1]) / square, (y * axis[0] - x * axis[1]) / square
    return np.stack([along, across], axis=2).astype(np.float32)


def skin_statistics(picture: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> SkinStatistics | None:
    """Statistics of a face's skin in an RGB picture, the darkest and lightest tenth left out; None below 30 pixels."""
    mask = face_skin(landmarks, picture.shape)
    pixels = picture[mask]
    if len(pixels) < 30:
        return None
    lab = cv2.cvtColor(pixels[None], cv2.COLOR_RGB2LAB)[0].astype(np.float64)
    low, high = np.percentile(lab[:, 0], (10, 90))
    kept = (lab[:, 0] >= low) & (lab[:, 0] <= high)
    tone = to_linear(pixels[kept]).mean(0)
    places = face_coordinates(landmarks, picture.shape)[mask][kept].astype(np.float64)
    plane = np.column_stack([places, np.ones(len(places))])
    slope = np.linalg.lstsq(plane, lab[kept, 0], rcond=None)[0][:2]
    around = cv2.cvtColor(picture[::4, ::4], cv2.COLOR_RGB2LAB)[..., 0][~mask[::4, ::4]]
    brightest = float(np.percentile(around, 97)) if around.size else 255.0
    return SkinStatistics(
        mean=lab[kept].mean(0),
        deviation=lab.std(0),
        tone=tone.astype(np.float64),
        slope=slope,
        span=np.percentile(lab[:, 0], (5, 95)),
        brightest=brightest,
        eye_white=eye_white(picture, landmarks),
    )


def eye_white(picture: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> float | None:
    """8-bit L of the whites of the eyes in an RGB picture; None where no eye is open and larger than some pixels."""
    found = []
    for ring in (topology.LEFT_EYE, topology.RIGHT_EYE):
        inside = picture[polygon_coverage(landmarks[ring, :2], picture.shape) > 0.9]
        if len(inside) < 8 or openness(landmarks[ring]) < OPEN:
            continue
        lightness = cv2.cvtColor(inside[None], cv2.COLOR_RGB2LAB)[0, :, 0]
        low, high = np.percentile(lightness, WHITES)
        found.append(float(lightness[(lightness >= low) & (lightness <= high)].mean()))
    return float(np.mean(found)) if found else None


def mean_statistics(found: Sequence[SkinStatistics]) -> SkinStatistics:
    """The mean of several frames' statistics; of the whites of eyes, which lids and hands hide now and then, as much lighter or
    darker than the skin as in the median frame."""
    mean = np.mean([one.mean for one in found], 0)
    lighter = [one.eye_white - float(one.mean[0]) for one in found if one.eye_white is not None]
    return SkinStatistics(
        mean=mean,
        deviation=np.mean([one.deviation for one in found], 0),
        tone=np.mean([one.tone for one in found], 0),
        slope=np.mean([one.slope for one in found], 0),
        span=np.mean([one.span for one in found], 0),
        brightest=float(np.mean([one.brightest for one in found])),
        eye_white=float(mean[0] + np.median(lighter)) if lighter else None,
    )


def in_skin_of(source: SkinStatistics, target: SkinStatistics) -> SkinStatistics:
    """What the target's face would show in its light if its skin were the source's, as far as can be told.

    Skin looks dark because little light falls on it, or because it is dark. The whites of the eyes are in the same light and
    much the same in all people, so a face whose eyes are lighter against its skin than the other's has the darker skin. Where
    they are not seen, or do not say that the skins differ, all is light: the target's statistics as they are. So it is where the
    darker face's eyes are no lighter than its skin: then the other's lie in shadow, below brows or a brim. ``tone`` and
    ``eye_white`` stay the target's.
    """
    light = float(target.mean[0] - source.mean[0])
    if source.eye_white is None or target.eye_white is None:
        return target
    lighter, others = target.eye_white - float(target.mean[0]), source.eye_white - float(source.mean[0])
    apart = lighter - others
    # The same skin in less light has its eyes nearer to it: then the darker face would seem to have the lighter skin.
    if apart * light >= 0 or (lighter if light < 0 else others) < LIGHT_EYES:
        return target
    sure = float(np.clip((abs(apart) - SAME_SKIN) / (OTHER_SKIN - SAME_SKIN), 0, 1))
    skin = -np.sign(light) * min(sure * abs(apart), abs(light))
    factor = (target.mean[0] + skin - BLACK) / (target.mean[0] - BLACK)
    share = abs(skin / light)
    mean = target.mean + share * (source.mean - target.mean)
    mean[0] = target.mean[0] + skin
    return replace(
        target,
        mean=mean,
        deviation=target.deviation * [factor, 1, 1],
        slope=target.slope * factor,
        span=(target.span - BLACK) * factor + BLACK,
    )


def towards(
    picture: NDArray[np.uint8], landmarks: NDArray[np.floating], source: SkinStatistics, target: SkinStatistics
) -> NDArray[np.uint8]:
    """Move a picture's light and colour part of the way to another's, within limits that keep the skin's own tone.

    Args:
        picture: uint8 RGB [height, width, 3].
        landmarks: float [478, 2 or 3] of the face in it.
        source: statistics of that face.
        target: statistics of the face whose light is wanted.
    """
    target = in_skin_of(source, target)
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).astype(np.float32)
    difference = target.mean - source.mean
    shift = np.array(
        [
            np.clip(LIGHTNESS_SHARE * difference[0], -LIGHTNESS_LIMIT, LIGHTNESS_LIMIT),
            *np.clip(CHROMA_SHARE * difference[1:], -CHROMA_LIMIT, CHROMA_LIMIT),
        ]
    )
    ratio = contrast_ratio(source, target)
    lightness = lab[..., 0]
    # Hair and shadows stay dark: what is done to skin fades below its own shadows, and towards white.
    dark = np.clip(lightness / np.float32(max(60.0, 1.3 * source.span[0])), 0, 1) ** np.float32(1.5)
    room = np.minimum(dark, np.clip((255 - lightness) / 60, 0, 1))
    slope = np.clip(SLOPE_SHARE * (target.slope - source.slope), -SLOPE_LIMIT, SLOPE_LIMIT).astype(np.float32)
    # Beyond the face the light does not go on rising.
    lit = np.tanh(face_coordinates(landmarks, picture.shape)) @ slope
    moved = lightness + room * (lit + (lightness - source.mean[0]) * (ratio - 1) + shift[0])
    lab[..., 0] = np.clip(_dimmed(moved, source, target, ratio, float(shift[0])), 0, 255)
    # Blotches of strong colour come down as far as the target's skin is even.
    spread = np.sqrt((source.deviation[1:] ** 2).sum() / max(float((target.deviation[1:] ** 2).sum()), 4.0))
    evenness = np.float32(np.clip(EVEN_FROM / max(spread, 1e-3), EVEN_LEAST, 1))
    colourful = np.hypot(lab[..., 1] - 128, lab[..., 2] - 128)
    # What is less colourful than the skin (hair, teeth) stays as it is.
    excess = np.maximum(colourful - np.float32(np.hypot(*(source.mean[1:] - 128))), 0) * (1 - evenness) * room
    lab[..., 1:] = 128 + (lab[..., 1:] - 128) * (1 - excess / np.maximum(colourful, 1))[..., None]
    lab[..., 1:] += (shift[1:] * room[..., None]).astype(np.float32)
    return cv2.cvtColor(np.clip(lab + 0.5, 0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB)


def contrast_ratio(source: SkinStatistics, target: SkinStatistics) -> float:
    """Factor on the contrast of the source's lightness: a part of the way to the target's, more of it when far too strong."""
    deviation = max(target.deviation[0], 1.0) / max(source.deviation[0], 1.0)
    span = max(float(np.diff(target.span)[0]), 4.0) / max(float(np.diff(source.span)[0]), 4.0)
    mild = float(np.clip(deviation**CONTRAST_SHARE, 1 - CONTRAST_LIMIT, 1 + CONTRAST_LIMIT))
    strong = float(np.clip((span / HARSH) ** HARSH_SHARE, HARSH_LEAST, 1))
    return min(mild, strong) if strong < 1 else mild


def _dimmed(
    lightness: NDArray[np.floating], source: SkinStatistics, target: SkinStatistics, ratio: float, shift: float
) -> NDArray[np.floating]:
    """L with its light parts brought down to what the target's light can make bright; darker than the skin's shadows: unchanged.

    Args:
        lightness: float [height, width], already moved towards the target's by a contrast ``ratio`` and a ``shift``.
    """
    shadows, highlights = source.mean[0] + (source.span - source.mean[0]) * ratio + shift
    # A pale face may stay paler than the target's, but not brighter than all else in the scene.
    limit = max(target.span[1] + GLARE, min(target.brightest, 235.0))
    if highlights <= limit or limit <= shadows * 0.5:
        return lightness
    factor = max(limit / highlights, DIM_LEAST)
    return lightness * factor


def hue_of(colour: NDArray[np.floating]) -> NDArray[np.float32]:
    """An RGB colour's channels against their mean, float32 [3]."""
    return np.asarray(colour / max(float(np.mean(colour)), 1e-3), np.float32)


def shown_tone(skin: SkinStatistics) -> NDArray[np.float32]:
    """Mean colour of a face's skin in RGB, float32 [3] in 0..255."""
    return np.asarray(255 * np.maximum(skin.tone, 1e-4) ** (1 / 2.2), np.float32)


def saturation(source: SkinStatistics, target: SkinStatistics) -> float:
    """How colourful the source is against the target, 0 (grey) to 1 (as colourful as half the target's skin, or more)."""
    chroma = [float(np.hypot(*(one.mean[1:] - 128))) for one in (source, target)]
    return float(np.clip(2 * chroma[0] / max(chroma[1], 1.0), 0, 1))


def to_linear(values: NDArray[np.uint8]) -> NDArray[np.float32]:
    """8-bit sRGB to linear light in 0..1 (a power of 2.2 is near enough for gains)."""
    return (values.astype(np.float32) / np.float32(255)) ** np.float32(2.2)


def tone_gain(source: SkinStatistics, target: SkinStatistics) -> NDArray[np.float32]:
    """Factor [3] on 8-bit RGB that turns the target's skin into the source's under the same shading."""
    ratio = np.maximum(source.tone, 1e-3) / np.maximum(target.tone, 1e-3)
    return np.clip(ratio ** (1 / 2.2), 0.35, 2.4).astype(np.float32)
