"""What lies under the new head: the background, the target's body completed where the old head hid it, and the neck.

The neck is continued upwards behind the new chin and shaded towards the new skin, so that neither a gap nor the old chin shows.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.tables import LABELS
from stages.blocks import dilate
from stages.filling import membrane
from stages.warp import topology
from stages.warp.colour import hue_of

BACKGROUND, HAIR, FACE, NECK, CLOTH, OTHER = (
    LABELS.index(name) for name in ("background", "hair", "face", "neck", "cloth", "other")
)
HALF, QUARTER = 2, 4
"""Masks are made at half the crop's size, colours that are filled in at a quarter: both are smooth."""

SHADOW = 0.38
"""How much darker the neck is right under the jaw of the new head."""

STRANDS = 19
"""Width, at half the crop's size, of the band around the old head in which the background covers strands the labels miss."""

SHADED = 55.0
"""Distance in RGB, 0..441, that shadow puts between the inside and the outside of a collar."""

SMALL_PATCH = 0.3
"""Area, in squared eye distances, up to which a patch in shadow may be a collar."""

MISSED_REACH, MISSED_DIFFERENCE = 0.6, 60.0
"""How far, in eye distances, hair may reach beyond its label, and how far in RGB its colour may lie from the rest's."""

PLAIN = 70.0
"""Distance in RGB from which cloth and skin differ plainly."""

SHADE = 0.35
"""How dark skin and cloth get in the head's shadow, share of what they are in the light."""

SIDEWAYS = 1.0
"""How much farther from the chin, in eye distances, the neck of a turned head is looked for on the side of its back."""

SPECK = 0.01
"""Area, in squares of the eye distance, below which what is labelled neck beside hair is none: a few pixels, less than the least
of a neck or finger that is seen."""

HUE_LIMIT = 1.25
"""Largest correction for a neck of another hue than its face."""

REPAINTED = (1.3, 1.8)
"""Largest factor between both skins' colours from which the neck is painted in the new one, and from where on wholly: factors
that large make gaudy fringes of what is no skin, and bluish necks of beards."""

BRIGHTEST_NECK, DARKEST_NECK = 1.1, 0.2
"""Range of a painted neck's shading, shares of the new face's colour."""

LIKE, UNLIKE = 30.0, 60.0
"""Distance in RGB from the neck's own colour, under any shading, within which the rim of a neck is neck, and beyond which not."""

Mask = NDArray[np.uint8]
Soft = NDArray[np.float32]


def neck_column(labels: Mask, landmarks: NDArray[np.floating], unit: float) -> tuple[Soft, float, float]:
    """Where the neck would go on under the old head: between the visible neck's sides, up to the height of the mouth.

    Args:
        labels: uint8 [height, width] label map.
        landmarks: float [478, 2 or 3] of the target, pixels of the label map.
        unit: distance of the eye centres, pixels of the label map.

    Returns:
        float32 [height, width] soft mask in 0..1, and the columns of its left and right edge.
    """
    height, width = labels.shape
    chin = landmarks[152, :2]
    # Only what lies under the chin is neck for sure; a hand has the same label's colour.
    under = _under_chin(labels, landmarks, unit)
    neck = under if under.any() else labels == NECK
    half, centre = 0.85 * unit, float(chin[0])
    lower = float(chin[1]) + 0.6 * unit
    # Of a turned head the chin lies on one side of the neck, or beyond.
    turned = sideways(landmarks)
    reach = 1.4 + np.maximum(np.array([-turned, turned]), 0) * SIDEWAYS
    left, right = (int(np.clip(chin[0] + side * beyond * unit, 0, width)) for side, beyond in zip((-1, 1), reach, strict=True))
    rows = np.flatnonzero(neck[:, left:right].sum(1) > 0.3 * unit)
    if len(rows):
        # A mean over many rows keeps still while the label map trembles.
        band = neck[rows[0] : rows[0] + max(2, int(0.8 * unit)), left:right]
        band = band[band.any(1)]
        starts, ends = left + band.argmax(1), right - band[:, ::-1].argmax(1)
        low, high = np.quantile(starts, (0.2, 0.8))
        start = float(starts[(starts >= low) & (starts <= high)].mean())
        low, high = np.quantile(ends, (0.2, 0.8))
        end = float(ends[(ends >= low) & (ends <= high)].mean())
        centre = (start + end) / 2
        half = float(np.clip((end - start) / 2, 0.6 * unit, 1.1 * unit))
        lower = max(lower, rows[0] + 0.3 * unit)
    # Up to the height of the mouth; of a turned head's neck more is to be seen, up to the ear.
    mouth, ears = (float(landmarks[ends, 1].mean()) for ends in ([13, 14], topology.EARS))
    top = mouth + abs(turned) * (ears - mouth)
    x = np.arange(width, dtype=np.float32)[None] + 0.5
    y = np.arange(height, dtype=np.float32)[:, None] + 0.5
    inside = np.clip((half - np.abs(x - centre)) / (0.12 * unit) + 0.5, 0, 1)
    # It ends in a round neckline.
    bottom = lower - 0.7 * unit * ((x - centre) / half) ** 2
    below = np.clip((y - top) / (0.25 * unit), 0, 1) * np.clip((bottom - y) / (0.15 * unit) + 1, 0, 1)
    return np.asarray(inside * below, np.float32), centre - half, centre + half


def sideways(landmarks: NDArray[np.floating]) -> float:
    """How far a head is turned to the side: 0 towards the camera, or nearly; 1 some 30 degrees, or more, so that its back lies to
    the right in the picture, -1 to the left."""
    left, right = landmarks[topology.EARS, :2]
    across = right - left  # not the picture's rows: a head that is tilted is not turned
    off = float(((left + right) / 2 - landmarks[1, :2]) @ across / max(float(across @ across), 1e-6))
    return float(np.sign(off) * np.clip((abs(off) - 0.15) / 0.25, 0, 1))


def shoulder_line(labels: Mask, left: float, right: float) -> Soft:
    """The row at which neck and shoulders begin in each column, float32 [width].

    Where the body's upper edge borders on the background it is seen. Where hair hangs over it, the line runs straight between
    what is seen on both sides and the foot of the neck, whose edges are ``left`` and ``right``.
    """
    height, width = labels.shape
    body = (labels == CLOTH) | (labels == NECK)
    columns = np.arange(width)
    top = np.where(body.any(0), body.argmax(0), height)
    above = labels[np.maximum(top - 1, 0), columns]
    outside = (columns < left) | (columns > right)
    seen = (top < height) & (above == BACKGROUND) & outside
    known = {int(column): float(top[column]) for column in np.flatnonzero(seen)}
    neck = labels == NECK
    for edge in (left, right):
        column = int(np.clip(round(edge), 0, width - 1))
        rows = np.flatnonzero(neck[:, column])
        if len(rows):
            known[column] = float(rows[-1])
    if not known:
        return np.full(width, height, np.float32)
    places = np.array(sorted(known))
    values = np.array([known[int(place)] for place in places])
    line = np.interp(columns, places, values)
    # Beyond what is seen a shoulder slopes down.
    line += 0.35 * (np.maximum(places[0] - columns, 0) + np.maximum(columns - places[-1], 0))
    return line.astype(np.float32)


def missed_hair(labels: Mask, small: NDArray[np.uint8], behind: NDArray[np.uint8], unit: float) -> Mask:
    """Pixels labelled background that have the colour of the hair beside them and hide what is behind: uint8 [height, width].

    Args:
        labels: uint8 [height, width].
        small: uint8 RGB [height / 2, width / 2, 3], the picture; behind: of the same size, the background.
        unit: distance of the eye centres, pixels of the label map.
    """
    coarse = np.ascontiguousarray(labels[::2, ::2][: small.shape[0], : small.shape[1]])
    hair = coarse == HAIR
    beside = dilate(hair, MISSED_REACH * unit / 2) & (coarse == BACKGROUND)
    if hair.sum() < 40 or not beside.any():
        return np.zeros(labels.shape, np.uint8)
    picture = small.astype(np.float32)
    from_hair = np.linalg.norm(picture - np.median(picture[hair], axis=0), axis=2)
    from_behind = np.linalg.norm(picture - behind, axis=2)
    found = beside & (from_hair < MISSED_DIFFERENCE) & (from_behind > from_hair)
    even = cv2.medianBlur(found.astype(np.uint8), 3)
    grown = cv2.dilate(even, np.ones((3, 3), np.uint8)) & beside
    return np.asarray(cv2.resize(grown.astype(np.uint8), labels.shape[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)


def collar_as_cloth(labels: Mask, small: NDArray[np.uint8], landmarks: NDArray[np.floating], unit: float) -> Mask:
    """A label map in which patches of hair that look like the cloth beside them, not like the head's hair, are cloth.

    The shaded inside of a collar is often taken for hair. Only patches that lie apart from the head's hair, below the nose, are
    looked at.

    Args:
        labels: uint8 [height, width].
        small: uint8 RGB [height / 2, width / 2, 3], the picture.
        landmarks: float [478, 2 or 3], pixels of the label map.
        unit: distance of the eye centres, pixels of the label map.
    """
    count, numbered, statistics, _ = cv2.connectedComponentsWithStats((labels == HAIR).astype(np.uint8), connectivity=4)
    apart = [number for number in range(1, count) if statistics[number, cv2.CC_STAT_TOP] > landmarks[1, 1]]
    if not apart:
        return labels
    result = labels.copy()
    quarter = numbered[::2, ::2][: small.shape[0], : small.shape[1]]
    cloth = (labels == CLOTH)[::2, ::2]
    hair = np.isin(quarter, apart, invert=True) & (quarter > 0)
    for number in apart:
        own = quarter == number
        beside = dilate(own, 0.25 * unit) & cloth
        if not own.any() or not beside.any():
            continue
        colour, other = (np.median(small[mask], axis=0) for mask in (own, beside))
        from_hair = np.linalg.norm(colour - np.median(small[hair], axis=0)) if hair.any() else np.inf
        from_cloth = np.linalg.norm(colour - other)
        # In its own shadow a collar may be as dark as hair.
        shaded = from_cloth < SHADED and statistics[number, cv2.CC_STAT_AREA] < SMALL_PATCH * unit**2
        if shaded or from_cloth < from_hair:
            result[numbered == number] = CLOTH
    return result


def collar_beside_skin(labels: Mask, small: NDArray[np.uint8], unit: float) -> Mask:
    """A label map in which what is labelled neck but has the colour of the cloth around it is cloth, and small patches of cloth
    amid the neck that have the skin's colour are neck.

    Only where cloth and skin differ plainly; elsewhere the labels are all there is. Arguments as for ``collar_as_cloth``.
    """
    coarse = np.ascontiguousarray(labels[::2, ::2][: small.shape[0], : small.shape[1]])
    neck, cloth = coarse == NECK, coarse == CLOTH
    around = dilate(neck, 0.5 * unit) & cloth
    face = cv2.erode((coarse == FACE).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    if not neck.any() or around.sum() < 40 or face.sum() < 40:
        return labels
    picture = cv2.GaussianBlur(small, (0, 0), 1.0).astype(np.float32)
    skin, worn = np.median(picture[face], axis=0), np.median(picture[around], axis=0)
    if np.linalg.norm(skin - worn) < PLAIN:
        return labels
    # Neck and collar lie in the head's shadow: all colours between a surface's and its shade are that surface.
    from_skin, from_cloth = (
        np.linalg.norm(picture - np.clip(picture @ colour / max(float(colour @ colour), 1), SHADE, 1)[..., None] * colour, axis=2)
        for colour in (skin, worn)
    )
    _, numbered, statistics, _ = cv2.connectedComponentsWithStats(cloth.astype(np.uint8), connectivity=4)
    patches = np.flatnonzero(statistics[:, cv2.CC_STAT_AREA] < 0.1 * (unit / 2) ** 2)
    patch = np.isin(numbered, patches[patches > 0]) & dilate(neck, 2)
    worn_there = neck & (from_cloth < 0.7 * from_skin)
    bare_there = patch & (from_skin < 0.7 * from_cloth)
    if not worn_there.any() and not bare_there.any():
        return labels
    result = labels.copy()
    for mask, label, where in ((worn_there, CLOTH, (NECK,)), (bare_there, NECK, (CLOTH,))):
        even = cv2.medianBlur(mask.astype(np.uint8), 5)
        large = cv2.resize(even, labels.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
        result[large & np.isin(labels, where)] = label
    return result


def specks_as_hair(labels: Mask, unit: float) -> Mask:
    """A label map in which specks labelled neck beside hair are hair: between its tips something is often taken for skin, and
    would stay in the air where the hair is taken away.

    Args:
        labels: uint8 [height, width]. unit: distance of the eye centres, pixels of the label map.
    """
    _, numbered, statistics, _ = cv2.connectedComponentsWithStats((labels == NECK).astype(np.uint8), connectivity=4)
    small = np.flatnonzero(statistics[1:, cv2.CC_STAT_AREA] < SPECK * unit**2) + 1
    if not len(small):
        return labels
    found = np.isin(numbered, np.intersect1d(small, numbered[dilate(labels == HAIR, 2)]))
    return np.where(found, np.uint8(HAIR), labels)


def mirrored_cloth(picture: NDArray[np.uint8], cloth: Mask, wanted: Mask) -> NDArray[np.uint8]:
    """Cloth continued under what covers it: each wanted pixel shows what lies as far on the other side of the cloth's edge.

    Edges between colours of cloth go on where they meet the cover, which a smooth fill would smear.

    Args:
        picture: uint8 RGB [height, width, 3].
        cloth: uint8 [height / 2, width / 2], where cloth is surely seen.
        wanted: uint8 of the same size, where it is to be continued.

    Returns:
        uint8 RGB [height, width, 3]; the picture itself where nothing is wanted.
    """
    height, width = cloth.shape
    _, numbered = cv2.distanceTransformWithLabels(1 - cloth, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    rows, columns = np.nonzero(cloth)
    place = np.zeros((int(numbered.max()) + 1, 2), np.float32)
    place[numbered[rows, columns]] = np.stack([columns, rows], 1)
    nearest = place[numbered]
    grid = np.stack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)), 2)
    beyond = 2 * nearest - grid
    found = np.where(_seen_at(cloth, beyond)[..., None], beyond, nearest)
    # Neighbouring pixels take neighbouring cloth: without smoothing, rays spread from every corner of the edge. Half-way between
    # two edges the mean of both directions leads nowhere, least of all to cloth.
    smooth = cv2.GaussianBlur(found - grid, (0, 0), 1.5) + grid
    found = np.where(_seen_at(cloth, smooth)[..., None], smooth, found)
    found = np.where((wanted > 0)[..., None], found, grid)
    result = picture.copy()
    box = _box(wanted)
    if box is None:
        return result
    fine = _scaled(box, HALF)
    size = (fine[1].stop - fine[1].start, fine[0].stop - fine[0].start)
    maps, steps = (cv2.resize(found[box], size, interpolation=how) for how in (cv2.INTER_LINEAR, cv2.INTER_NEAREST))
    inside = cv2.resize(wanted[box], size, interpolation=cv2.INTER_NEAREST) > 0
    maps = np.where((_seen_at(cloth, maps) | ~inside)[..., None], maps, steps) * HALF + np.float32(0.5 * HALF - 0.5)
    shown = cv2.remap(picture, maps, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    np.copyto(result[fine], shown, where=inside[..., None])
    return result


def _seen_at(mask: Mask, places: Soft) -> NDArray[np.bool_]:
    """Whether a mask is set at places float32 [height, width, 2], columns and rows: bool [height, width]."""
    x, y = (np.clip(np.rint(places[..., k]), 0, mask.shape[1 - k] - 1).astype(int) for k in (0, 1))
    return np.asarray(mask[y, x] > 0)


def underlay(
    picture: NDArray[np.uint8],
    background: NDArray[np.uint8],
    labels: Mask,
    landmarks: NDArray[np.floating],
    unit: float,
    gain: NDArray[np.floating] | None,
    face: NDArray[np.floating] | None = None,
) -> tuple[NDArray[np.uint8], Soft, Mask]:
    """The picture the new head is laid on.

    Args:
        picture: uint8 RGB [height, width, 3], the target's crop.
        background: uint8 RGB, what is behind the person.
        labels: uint8 [height, width].
        landmarks: float [478, 3] of the target, pixels of the crop.
        unit: distance of the eye centres, pixels of the crop.
        gain: float [3] on the neck's RGB towards the new skin; None leaves its colour.
        face: float [3], 0..255, colour of the target's face, for which the gain is meant: a neck is often paler or greener.

    Returns:
        uint8 RGB [height, width, 3]; how much of each pixel is skin of the neck, float32 [height, width]; and where neck,
        clothes and bare hands are, uint8 [height / 2, width / 2], 0 or 1.
    """
    height, width = labels.shape
    half = np.ascontiguousarray(labels[::HALF, ::HALF])
    points, distance = landmarks[:, :2] / HALF, unit / HALF
    small = cv2.resize(picture, (width // QUARTER, height // QUARTER), interpolation=cv2.INTER_AREA)
    half = collar_beside_skin(collar_as_cloth(half, small, points, distance), small, distance)
    half = specks_as_hair(half, distance)
    column, left, right = neck_column(half, points, distance)
    old = ((half == HAIR) | (half == FACE)).astype(np.uint8)
    body = ((half == CLOTH) | (half == NECK)).astype(np.uint8)
    behind = cv2.resize(background, (width // QUARTER, height // QUARTER), interpolation=cv2.INTER_AREA)
    old |= missed_hair(half, small, behind, distance)
    near = cv2.dilate(old, np.ones((5, 5), np.uint8))
    # Strands of hair that the labels miss go with the head.
    below = np.arange(half.shape[0], dtype=np.float32)[:, None] >= shoulder_line(half, left, right)[None]
    strands = cv2.dilate(old, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (STRANDS, STRANDS))) & (half == BACKGROUND) & ~below
    hidden = old | strands | (near & body)
    covered = (hidden & (below | (body > 0)) & (half != BACKGROUND)).astype(np.uint8)

    sure = 1 - cv2.dilate(near, np.ones((3, 3), np.uint8))
    cloth = (half == CLOTH).astype(np.uint8) & sure
    cloth = cloth if cloth.sum() > 200 else body & sure
    clothes = mirrored_cloth(picture, cloth, covered) if cloth.any() else picture
    neck = cv2.erode((half == NECK).astype(np.uint8), np.ones((3, 3), np.uint8)) & sure
    if neck.sum() < 12:  # the neck is hidden: the face's own skin, below the nose
        low = np.arange(half.shape[0])[:, None] > points[1, 1]
        neck = (cv2.erode((half == FACE).astype(np.uint8), np.ones((5, 5), np.uint8)) & low).astype(np.uint8)
    tone = _continued(small, neck)

    rim = cv2.dilate(near & (half == NECK), np.ones((3, 3), np.uint8)) & hidden
    filled = np.maximum(column * ((hidden > 0) & (half != CLOTH)), rim)
    changed = cv2.dilate((hidden | (half == NECK)).astype(np.uint8), np.ones((13, 13), np.uint8))
    base, skin = picture.copy(), np.zeros((height, width), np.float32)
    person = (body | covered | (filled > 0.5)).astype(np.uint8)
    box = _box(changed)
    if box is None:
        return base, skin, person
    coarse, fine, colours = (_scaled(box, scale) for scale in (1, HALF, HALF / QUARTER))
    size = (fine[1].stop - fine[1].start, fine[0].stop - fine[0].start)
    tone = cv2.resize(tone[colours], size, interpolation=cv2.INTER_LINEAR)
    layer = _mix(background[fine], clothes[fine], _enlarged(covered[coarse], size, 1.0))
    # Also where the neck itself is seen: at the soft border of what is hidden the background would shine through as a line.
    layer = _mix(layer, tone, _enlarged(np.maximum(filled, half == NECK)[coarse], size, 0.8))
    part = _mix(picture[fine], layer, _enlarged(hidden[coarse], size, 1.0))
    skin[fine] = _enlarged(np.maximum(filled, _under_chin(half, points, distance))[coarse], size, 0.8)
    if gain is not None:
        y = np.arange(fine[0].start, fine[0].stop, dtype=np.float32)[:, None] + 0.5
        depth = (y - np.float32(landmarks[152, 1])) / np.float32(unit)
        share = skin[fine] * np.clip(1 - (depth - 1.2) / 1.6, 0.25, 1).astype(np.float32)
        own = gain if face is None else gain * _hue_ratio(small, neck, hue_of(face))
        if face is None or not _repainted(gain):
            _shade(part, share, own)
        else:
            sure = cv2.erode(np.ceil(filled).astype(np.uint8) | (half == NECK), np.ones((5, 5), np.uint8))
            _paint(part, share, gain, face, own, tone, _enlarged(sure[coarse], size, 0.8))
    base[fine] = part
    return base, skin, person


def _hue_ratio(small: NDArray[np.uint8], neck: Mask, hue: NDArray[np.floating]) -> NDArray[np.floating]:
    """Factor [3] between the hue of the target's face and that of its neck; ``neck`` at half, ``small`` at quarter size."""
    seen = cv2.resize(neck, (small.shape[1], small.shape[0]), interpolation=cv2.INTER_NEAREST) > 0
    if seen.sum() < 40:
        return np.ones(3, np.float32)
    return np.clip(hue / np.maximum(hue_of(small[seen].mean(0)), 1e-3), 1 / HUE_LIMIT, HUE_LIMIT)


def _under_chin(labels: Mask, landmarks: NDArray[np.floating], unit: float) -> NDArray[np.bool_]:
    """The parts labelled neck that reach up to the chin: bare hands and arms have the same label, but hang elsewhere."""
    count, numbered = cv2.connectedComponents((labels == NECK).astype(np.uint8), connectivity=4)
    x, y = landmarks[152, :2]
    top, bottom = (int(np.clip(y + side * unit, 0, labels.shape[0])) for side in (-0.6, 0.35))
    left, right = (int(np.clip(x + side * unit, 0, labels.shape[1])) for side in (-1.3, 1.3))
    kept = np.zeros(count, bool)
    kept[np.unique(numbered[top:bottom, left:right])] = True
    kept[0] = False
    return np.asarray(kept[numbered])


Box = tuple[slice, slice]


def _box(mask: Mask) -> Box | None:
    """Rows and columns around what is not zero, on even numbers."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return tuple(  # type: ignore[return-value]
        slice(int(found[0]) // 2 * 2, min(-(-(int(found[-1]) + 1) // 2) * 2, length))
        for found, length in ((rows, mask.shape[0]), (columns, mask.shape[1]))
    )


def _scaled(box: Box, scale: float) -> Box:
    return (
        slice(int(box[0].start * scale), int(box[0].stop * scale)),
        slice(int(box[1].start * scale), int(box[1].stop * scale)),
    )


def _shade(picture: NDArray[np.uint8], share: Soft, gain: NDArray[np.floating]) -> None:
    """Multiply RGB by a gain where and as far as ``share`` says, in place."""
    rows = np.flatnonzero(share.any(1))
    if not len(rows):
        return
    inside = slice(int(rows[0]), int(rows[-1]) + 1)
    factor = 1 + (gain.astype(np.float32) - 1) * share[inside, :, None]
    picture[inside] = np.clip(picture[inside] * factor + np.float32(0.5), 0, 255).astype(np.uint8)


def _repainted(gain: NDArray[np.floating]) -> float:
    """How far a neck is painted in the new skin instead of shaded towards it, 0..1."""
    least, most = REPAINTED
    return float(np.clip((max(gain.max(), 1 / gain.min()) - least) / (most - least), 0, 1))


def _paint(
    picture: NDArray[np.uint8],
    share: Soft,
    gain: NDArray[np.floating],
    face: NDArray[np.floating],
    own_gain: NDArray[np.floating],
    neck: NDArray[np.uint8],
    inner: Soft,
) -> None:
    """Show a neck in the new skin under its own light and shadow, in place.

    Args:
        picture, share: as for ``_shade``. gain: float [3], from the old face's RGB to the new one's. face: float [3], 0..255, the
            old face's. own_gain: the gain for a neck of this hue. neck: uint8 [height, width, 3], the neck's own colour
            continued everywhere. inner: float32 [height, width], what is neck for sure.
    """
    box = _box((share > 0).astype(np.uint8))
    if box is None:
        return
    other = _repainted(gain)
    pixels, colour = picture[box].astype(np.float32), neck[box].astype(np.float32)
    factor = np.einsum("ijk,ijk->ij", pixels, colour) / np.maximum(np.einsum("ijk,ijk->ij", colour, colour), 1)
    from_neck = np.linalg.norm(pixels - np.clip(factor, SHADE, 1 / SHADE)[..., None] * colour, axis=2)
    alike = np.maximum(np.clip((UNLIKE - from_neck) / (UNLIKE - LIKE), 0, 1), inner[box])
    light = np.clip(pixels.mean(2) / max(float(np.mean(face)), 1), DARKEST_NECK, BRIGHTEST_NECK)
    wanted = other * light[..., None] * (face * gain).astype(np.float32) + (1 - other) * pixels * own_gain.astype(np.float32)
    part = (share[box] * (1 - other * (1 - alike)))[..., None]
    picture[box] = np.clip(pixels + part * (wanted - pixels) + np.float32(0.5), 0, 255).astype(np.uint8)


def jaw_shadow(head: Soft, skin: Soft, unit: float) -> Soft:
    """Factor [height, width] that darkens the neck just below the new head, as any head's shadow does."""
    size = (head.shape[1], head.shape[0])
    small = cv2.resize(head, (size[0] // QUARTER, size[1] // QUARTER), interpolation=cv2.INTER_AREA)
    drop = max(1, round(0.22 * unit / QUARTER))
    lowered = np.zeros_like(small)
    lowered[drop:] = small[:-drop]
    soft = cv2.GaussianBlur(lowered, (0, 0), max(0.18 * unit / QUARTER, 0.5))
    return np.asarray(1 - SHADOW * cv2.resize(soft, size, interpolation=cv2.INTER_LINEAR) * skin, np.float32)


def _continued(small: NDArray[np.uint8], known: Mask) -> NDArray[np.uint8]:
    """The colours of known places, given at half size, continued everywhere; at quarter size."""
    weight = cv2.resize(known.astype(np.float32), (small.shape[1], small.shape[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(np.clip(np.rint(membrane(small, weight > 0.99, relax=1)), 0, 255), np.uint8)


def _enlarged(mask: NDArray[np.generic], size: tuple[int, int], softness: float) -> Soft:
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), softness)
    return np.asarray(cv2.resize(soft, size, interpolation=cv2.INTER_LINEAR), np.float32)


def _mix(below: NDArray[np.uint8], above: NDArray[np.uint8], share: Soft) -> NDArray[np.uint8]:
    return np.asarray(cv2.blendLinear(below, above, 1 - share, share), np.uint8)
