"""What a generated region does to a picture: flicker, seams, lost detail, and whether anything outside was touched."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.face3d.canonical import FINE, band_contrast, canonical_face

Picture = NDArray[np.float32]
Mask = NDArray[np.bool_]

SEAM_BAND = 0.035
"""Width of the bands on both sides of the border that are compared, share of the picture's side."""


def flicker(before: Picture, now: Picture, after: Picture, region: Mask) -> float:
    """How much a region's brightness departs from the mean of its neighbours in time, 0..255; NaN for an empty region.

    Steady change (a light that fades, a head that moves evenly) cancels to first order. Details are blurred away before, so that
    it is the light that is compared and not the sharpness of hair.

    Args:
        before, now, after: float32 [h, w] brightness of three frames, 0..255. region: bool [h, w].
    """
    if not region.any():
        return float("nan")
    return float(np.abs(now - 0.5 * (before + after))[region].mean())


def brightness(rgb: Picture) -> Picture:
    """Luma (BT.709) of float32 [h, w, 3], blurred over a fiftieth of the picture: float32 [h, w]."""
    luma = cv2.transform(rgb, np.array([[0.2126, 0.7152, 0.0722]], np.float32))
    return np.asarray(cv2.blur(luma, (2 * (rgb.shape[0] // 50) + 1,) * 2), np.float32)


def seam_steps(picture: Picture, region: Mask, usable: Mask) -> NDArray[np.float32]:
    """Colour step across a region's border: mean of a band inside against a band outside, at every pixel of the border.

    Args:
        picture: float32 [h, w, 3], 0..255. region, usable: bool [h, w]; only usable pixels are part of a band.

    Returns:
        float32 [border pixels]: mean absolute difference of the channels. The order is the same for pictures of the same masks.
    """
    reach = max(2, round(SEAM_BAND * max(region.shape)))
    square = np.ones((3, 3), np.uint8)
    inside = region.astype(np.uint8)
    band_inside = (region & ~(cv2.erode(inside, square, iterations=reach, borderValue=1) > 0) & usable).astype(np.float32)
    band_outside = ((cv2.dilate(inside, square, iterations=reach) > 0) & ~region & usable).astype(np.float32)
    border = region & ~(cv2.erode(inside, square, borderValue=1) > 0) & usable
    size = (2 * reach + 1, 2 * reach + 1)
    shares = [cv2.boxFilter(band, -1, size, normalize=False) for band in (band_inside, band_outside)]
    border &= (shares[0] >= reach) & (shares[1] >= reach)
    if not border.any():
        return np.zeros(0, np.float32)
    means = [
        cv2.boxFilter(picture * band[..., None], -1, size, normalize=False)[border] / share[border][:, None]
        for band, share in zip((band_inside, band_outside), shares, strict=True)
    ]
    return np.asarray(np.abs(means[0] - means[1]).mean(-1), np.float32)


def seam(result: Picture, target: Picture, region: Mask, usable: Mask | None = None) -> float:
    """Mean colour step across the border of ``region`` beyond the target's own there, 0..255; NaN without a border."""
    everywhere = np.ones(region.shape, bool) if usable is None else usable
    own, reference = seam_steps(result, region, everywhere), seam_steps(target, region, everywhere)
    return float(np.maximum(own - reference, 0).mean()) if len(own) else float("nan")


def face_detail(picture: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> float:
    """How much fine detail a face shows: contrast of lines and lashes against its own brightness, whatever its size and turn.

    The face is brought to one size by its eyes, and what lies between two blurs, one to two pixels there, is compared with its
    mean. NaN where too little of the face is in the picture.

    Args:
        picture: uint8 RGB [h, w, 3]. landmarks: [478, 2 or 3], of the face, in its pixels.
    """
    found = canonical_face(picture, landmarks)
    if found is None:
        return float("nan")
    face, inside = found
    return band_contrast(face, inside, *FINE) / max(float(face[inside].mean()), 8.0)


def softness(result: float, source: float, target: float) -> float:
    """Share of the detail that both the source's face and the target's own show, and the result lacks: 0..1; NaN if unknown.

    A source without detail cannot give any, and where the target is out of focus, or moves too fast, a sharp head would be wrong.

    Args:
        result, source, target: of ``face_detail``.
    """
    there = min(source, target) if np.isfinite(source) and np.isfinite(target) else float("nan")
    return float(np.clip(1 - result / there, 0, 1)) if there > 0 else float("nan")


def outside_difference(
    result: NDArray[np.integer], target: NDArray[np.integer], box: tuple[int, int, int, int], bits: tuple[int, int]
) -> float:
    """Mean absolute difference of luma outside a box, as of 8 bits; NaN where the box covers the whole picture.

    Args:
        result, target: [h, w] codes. box: left, top, right, bottom of the part left out, end exclusive. bits: depth of each.
    """
    height, width = min(result.shape[0], target.shape[0]), min(result.shape[1], target.shape[1])
    left, top, right, bottom = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
    total, count = 0.0, 0
    right, bottom = max(right, left), max(bottom, top)
    everything, beside = slice(0, width), slice(top, bottom)
    parts = (
        (slice(0, top), everything),
        (slice(bottom, height), everything),
        (beside, slice(0, left)),
        (beside, slice(right, width)),
    )
    for rows, columns in parts:
        ours, theirs = result[rows, columns], target[rows, columns]
        if not ours.size:
            continue
        if bits == (8, 8):
            total += float(cv2.sumElems(cv2.absdiff(np.ascontiguousarray(ours), np.ascontiguousarray(theirs)))[0])
        else:
            total += float(np.abs(ours / 2.0 ** (bits[0] - 8) - theirs / 2.0 ** (bits[1] - 8)).sum())
        count += ours.size
    return total / count if count else float("nan")
