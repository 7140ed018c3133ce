"""Colour of every pixel: skin, lips, brows, eyes, teeth, hair, cloth and glasses under three lights.

The visibility buffer has four samples a pixel. A pixel is shaded once for every kind of surface that its samples see (nearly
always once), in the middle of those samples, and mixed by their number: clean edges for little more than the price of one sample.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

from stages.performers.paint import (
    BEARD,
    BROW,
    BROW_AT,
    BROW_SLANT,
    DEPTH,
    FRECKLES,
    HAIRLINE,
    JAW,
    LASH,
    LAYER,
    LIP,
    PATCH,
    RED,
    UNDER,
    U,
    V,
)
from stages.performers.raster import grain

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]

SKIN, TEETH, GUMS, LEFT_EYE, RIGHT_EYE, LASHES, HAIR, CLOTH, GLASSES, HAND, SLEEVE = range(11)
"""Kinds of surface."""

BACKGROUND_LABEL, HAIR_LABEL, FACE_LABEL, NECK_LABEL, CLOTH_LABEL, OTHER_LABEL = range(6)
"""As in ``schemas.tables.LABELS``."""

SAMPLES = 2
"""Samples of the visibility buffer along each side of a pixel."""

_SAME_SURFACE = 1.2  # centimetres of depth between samples of one pixel that are still one surface

BRIGHTEST = 1.5
TONES = 32_768
"""Entries of the table from linear light 0..``BRIGHTEST`` to shown values."""


@numba.njit(cache=True)
def _step(low: float, high: float, x: float) -> float:
    t = min(1.0, max(0.0, (x - low) / (high - low)))
    return t * t * (3 - 2 * t)


@numba.njit(cache=True)
def _visible(frequency: float, detail: float) -> float:
    """How much of a pattern with so many grains a centimetre a camera with ``detail`` pixels a centimetre shows, 0..1."""
    return min(1.0, max(0.0, (detail / frequency - 1.0) / 1.2))


@numba.njit(cache=True)
def _skin(p, wa, wb, wc, a, b, c, table, tones, traits, detail, albedo):  # type: ignore[no-untyped-def]
    """Paint skin. Returns gloss; ``albedo`` [3] is written."""
    u = wa * p[a, U] + wb * p[b, U] + wc * p[c, U]
    v = wa * p[a, V] + wb * p[b, V] + wc * p[c, V]
    patch = wa * p[a, PATCH] + wb * p[b, PATCH] + wc * p[c, PATCH]
    fine = (grain(table, u * 5.5, v * 5.5) - 0.5) * _visible(5.5, detail)
    gloss = 1.05 + 0.5 * fine
    tone = 1 + 0.16 * patch + 0.09 * fine
    pores = _visible(16.0, detail)
    if pores > 0:
        tone += 0.07 * pores * (grain(table, u * 16, v * 16) - 0.5)
    red = wa * p[a, RED] + wb * p[b, RED] + wc * p[c, RED]
    under = wa * p[a, UNDER] + wb * p[b, UNDER] + wc * p[c, UNDER]
    albedo[0] = tones[0, 0] * tone * (1 + 0.06 * red) * (1 - 0.06 * under)
    albedo[1] = tones[0, 1] * tone * (1 - 0.20 * red) * (1 - 0.09 * under)
    albedo[2] = tones[0, 2] * tone * (1 - 0.18 * red) * (1 - 0.12 * under)
    freckles = traits[0] * (wa * p[a, FRECKLES] + wb * p[b, FRECKLES] + wc * p[c, FRECKLES])
    if freckles > 0.02:
        spot = freckles * _step(0.70, 0.84, grain(table, u * 4.4, v * 4.4)) * _step(0.3, 0.6, grain(table, u * 1.1, v * 1.1))
        for k in range(3):
            albedo[k] *= 1 - spot * (0.28 + 0.14 * k)
    beard = traits[1] * (wa * p[a, BEARD] + wb * p[b, BEARD] + wc * p[c, BEARD])
    if beard > 0.01:
        weight = min(
            0.93, beard * (0.55 + 0.9 * (0.5 + (grain(table, u * 11, v * 3.0) - 0.5) * max(0.35, _visible(11.0, detail))))
        )
        for k in range(3):
            albedo[k] = albedo[k] * (1 - weight) + weight * tones[1, k] * 0.8
        gloss *= 1 - 0.6 * weight
    above = wa * p[a, HAIRLINE] + wb * p[b, HAIRLINE] + wc * p[c, HAIRLINE]
    if traits[3] > 0 and above > -1.0:
        weight = traits[3] * _step(-0.35, 0.9, above + 0.9 * (grain(table, u * 7, v * 2.5) - 0.5))
        for k in range(3):
            albedo[k] = albedo[k] * (1 - weight) + weight * (0.75 * tones[1, k] + 0.12 * tones[0, k])
        gloss *= 1 - 0.75 * weight
    brow = wa * p[a, BROW] + wb * p[b, BROW] + wc * p[c, BROW]
    if brow < 1.3:
        where = wa * p[a, BROW_AT] + wb * p[b, BROW_AT] + wc * p[c, BROW_AT]
        slant = wa * p[a, BROW_SLANT] + wb * p[b, BROW_SLANT] + wc * p[c, BROW_SLANT]
        shape = _step(1.15, 0.35, brow) * _step(-0.02, 0.16, where) * (1 - 0.45 * _step(0.75, 1.0, where))
        hairs = 0.5 + (grain(table, slant * 9, v * 1.6) - 0.5) * max(0.4, _visible(9.0, detail))
        weight = min(0.96, traits[2] * shape * (0.75 + 1.1 * hairs))
        for k in range(3):
            albedo[k] = albedo[k] * (1 - weight) + weight * tones[7, k]
        gloss *= 1 - 0.9 * weight
    lip = wa * p[a, LIP] + wb * p[b, LIP] + wc * p[c, LIP]
    if lip > -0.3:
        weight = _step(-0.10, 0.22, lip + 0.06 * fine)
        crease = grain(table, u * 6.5, v * 0.9) - 0.5
        for k in range(3):
            albedo[k] = albedo[k] * (1 - weight) + weight * tones[2, k] * (1 + 0.22 * crease)
        gloss = gloss * (1 - weight) + weight * (1.5 + 0.8 * crease)
    return gloss


@numba.njit(cache=True)
def shade(
    seen: Integers,
    depth: Floats,
    points: Floats,
    triangles: Integers,
    kind: Integers,
    paint: Floats,
    vertices: Floats,
    camera: Floats,
    detail: float,
    lights: Floats,
    tones: Floats,
    eyes: Floats,
    traits: Floats,
    table: Floats,
    shown: npt.NDArray[np.uint8],
    background: Floats,
    picture: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    alpha: npt.NDArray[np.uint8],
) -> None:
    """Write ``picture`` (uint8 [h, w, 3]), ``labels`` and ``alpha`` (uint8 [h, w]).

    Args:
        seen, depth: int32, float32 [2 h, 2 w], from ``raster.visibility``. points: float32 [vertices, 3], in its samples.
        triangles, kind: int32 [triangles, 3], [triangles]. paint: float32 [vertices, 15] (``stages.performers.paint``).
        vertices: float32 [vertices, 11]: place, normal, share of the key light, openness to the sky, direction of the strands.
        camera: float32 [3], centimetres. detail: pixels a centimetre. lights: [4, 3] direction of the key, colours of key, fill
            and sky. tones: [8, 3] skin, hair, lips, iris, cloth, glasses, skin of the hands, brows. eyes: [2, 2, 3] centre and
            gaze of the left, then the right eye. traits: freckles, beard, brows, stubble, shine of the hair.
        table: ``raster.GRAIN``. shown: uint8 [``TONES``], from light to what a screen shows. background: float32 [h, w, 3].
    """
    height, width = labels.shape
    albedo, mixed = np.zeros(3), np.zeros(3)
    group, counts = np.zeros(4, np.int64), np.zeros(6, np.int64)
    key, key_colour, fill_colour, sky = lights[0], lights[1], lights[2], lights[3]
    f, p = vertices, paint
    to_table = (shown.shape[0] - 1) / 1.5
    fine_hair, thin_hair = _visible(22.0, detail), max(0.3, _visible(7.0, detail))
    fine_knit = _visible(12.0, detail)
    for row in range(height):
        for column in range(width):
            covered = 0
            mixed[0] = mixed[1] = mixed[2] = 0.0
            for k in range(4):
                if seen[2 * row + (k >> 1), 2 * column + (k & 1)] >= 0:
                    group[k] = 0
                    covered += 1
                else:
                    group[k] = -1
            alpha[row, column] = (covered * 255 + 2) // 4
            counts[:] = 0
            counts[0] = 4 - covered
            for first in range(4):
                if group[first] != 0:
                    continue
                t = seen[2 * row + (first >> 1), 2 * column + (first & 1)]
                m = kind[t]
                near = depth[2 * row + (first >> 1), 2 * column + (first & 1)]
                members, sx, sy = 0, 0.0, 0.0
                for other in range(first, 4):
                    if group[other] != 0:
                        continue
                    r, q = 2 * row + (other >> 1), 2 * column + (other & 1)
                    if kind[seen[r, q]] == m and abs(depth[r, q] - near) < _SAME_SURFACE:
                        group[other] = 1
                        members += 1
                        sx += q + 0.5
                        sy += r + 0.5
                sx, sy = sx / members, sy / members
                a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
                x2, y2 = points[c, 0], points[c, 1]
                area = (points[b, 1] - y2) * (points[a, 0] - x2) + (x2 - points[b, 0]) * (points[a, 1] - y2)
                wa = ((points[b, 1] - y2) * (sx - x2) + (x2 - points[b, 0]) * (sy - y2)) / area
                wb = ((y2 - points[a, 1]) * (sx - x2) + (points[a, 0] - x2) * (sy - y2)) / area
                # The middle of the samples may lie beside this triangle: the nearest place of it will do.
                wa, wb = min(1.0, max(0.0, wa)), min(1.0, max(0.0, wb))
                wc = max(0.0, 1 - wa - wb)
                norm = wa + wb + wc
                wa, wb, wc = wa / norm, wb / norm, wc / norm
                nx = wa * f[a, 3] + wb * f[b, 3] + wc * f[c, 3]
                ny = wa * f[a, 4] + wb * f[b, 4] + wc * f[c, 4]
                nz = wa * f[a, 5] + wb * f[b, 5] + wc * f[c, 5]
                px = wa * f[a, 0] + wb * f[b, 0] + wc * f[c, 0]
                py = wa * f[a, 1] + wb * f[b, 1] + wc * f[c, 1]
                pz = wa * f[a, 2] + wb * f[b, 2] + wc * f[c, 2]
                lit = wa * f[a, 6] + wb * f[b, 6] + wc * f[c, 6]
                ao = wa * f[a, 7] + wb * f[b, 7] + wc * f[c, 7]
                vx, vy, vz = camera[0] - px, camera[1] - py, camera[2] - pz
                norm = math.sqrt(vx * vx + vy * vy + vz * vz)
                vx, vy, vz = vx / norm, vy / norm, vz / norm
                norm = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9
                nx, ny, nz = nx / norm, ny / norm, nz / norm
                facing = nx * vx + ny * vy + nz * vz
                lining = facing < 0
                if lining:
                    nx, ny, nz, facing = -nx, -ny, -nz, -facing
                hx, hy, hz = key[0] + vx, key[1] + vy, key[2] + vz
                norm = math.sqrt(hx * hx + hy * hy + hz * hz)
                hx, hy, hz = hx / norm, hy / norm, hz / norm
                ndl = nx * key[0] + ny * key[1] + nz * key[2]
                ndh = max(0.0, nx * hx + ny * hy + nz * hz)
                fill = max(0.0, -nx * key[0] * 0.9 + 0.25 * ny + 0.5 * nz)
                up = 0.72 + 0.28 * ny
                edge = max(0.0, 1 - facing)
                rim = edge * edge * edge * math.sqrt(edge)
                specular = 0.0
                wrap = 0.12
                label = FACE_LABEL
                if m == SKIN:
                    gloss = _skin(p, wa, wb, wc, a, b, c, table, tones, traits, detail, albedo)
                    if lining and facing > 0.15:
                        # The inside of the head, seen through the open mouth.
                        dark = _step(0.15, 0.3, facing)
                        albedo[0] = albedo[0] * (1 - dark) + dark * 0.13
                        albedo[1] = albedo[1] * (1 - dark) + dark * 0.025
                        albedo[2] = albedo[2] * (1 - dark) + dark * 0.025
                        gloss *= 1 - dark
                        lit *= 1 - 0.9 * dark
                        ao *= 1 - 0.7 * dark
                    specular = gloss * (0.065 * ndh**14 + 0.07 * ndh**48) + 0.04 * rim * ao
                    wrap = 0.28
                    if wa * p[a, JAW] + wb * p[b, JAW] + wc * p[c, JAW] <= 0:
                        label = NECK_LABEL
                elif m == HAND:
                    u = wa * p[a, U] + wb * p[b, U] + wc * p[c, U]
                    v = wa * p[a, V] + wb * p[b, V] + wc * p[c, V]
                    fine = grain(table, u * 5.5, v * 5.5) - 0.5
                    for k in range(3):
                        albedo[k] = tones[6, k] * (1 + 0.09 * fine)
                    albedo[1] *= 0.94
                    albedo[2] *= 0.94
                    specular = 0.05 * ndh**14 + 0.04 * rim * ao
                    wrap = 0.28
                    label = OTHER_LABEL
                elif m == TEETH:
                    albedo[0], albedo[1], albedo[2] = 0.78, 0.74, 0.64
                    # Openness was measured with the mouth closed; inside it, it is a matter of depth.
                    z = wa * p[a, DEPTH] + wb * p[b, DEPTH] + wc * p[c, DEPTH]
                    ao = 0.12 + 0.6 * _step(6.5, 10.6, z)
                    lit = 0.5 * _step(8.0, 10.6, z)
                    specular = 0.06 * ndh**40 * lit
                elif m == GUMS:
                    albedo[0], albedo[1], albedo[2] = 0.40, 0.13, 0.12
                    z = wa * p[a, DEPTH] + wb * p[b, DEPTH] + wc * p[c, DEPTH]
                    ao = 0.06 + 0.5 * _step(5.0, 10.4, z)
                    lit = 0.4 * _step(7.0, 10.4, z)
                    specular = 0.10 * ndh**30 * lit
                elif m in (LEFT_EYE, RIGHT_EYE):
                    which = 0 if m == LEFT_EYE else 1
                    rx, ry, rz = px - eyes[which, 0, 0], py - eyes[which, 0, 1], pz - eyes[which, 0, 2]
                    norm = math.sqrt(rx * rx + ry * ry + rz * rz)
                    cosine = (rx * eyes[which, 1, 0] + ry * eyes[which, 1, 1] + rz * eyes[which, 1, 2]) / norm
                    angle = math.acos(min(1.0, max(-1.0, cosine))) * 57.2958
                    spoke = grain(table, math.atan2(ry, rx) * 7 + 30, angle * 0.12 + traits[4])
                    iris = _step(26.0, 24.0, angle)
                    ring = _step(18.0, 25.0, angle)
                    inner = _step(16.0, 10.0, angle)
                    pupil = _step(10.2, 9.0, angle)
                    for k in range(3):
                        white = 0.76 if k == 0 else 0.70 if k == 1 else 0.67
                        tone = tones[3, k] * (0.65 + 0.75 * spoke) * (1 - 0.75 * ring) * (1 + 0.6 * inner)
                        albedo[k] = (white * (1 - iris) + tone * iris) * (1 - pupil) + 0.004 * pupil
                    specular = 0.55 * ndh**220 + 0.03 * ndh**20
                    window = max(0.0, nx * 0.35 + ny * 0.42 + nz * 0.84)
                    specular += 0.35 * window**420
                elif m == LASHES:
                    # Lashes are finer than a sample: between them the lid shows, more so towards their tips.
                    dense = 0.35 + 0.6 * (wa * p[a, LASH] + wb * p[b, LASH] + wc * p[c, LASH])
                    for k in range(3):
                        albedo[k] = (1 - dense) * 0.85 * tones[0, k] + dense * (0.03 + 0.15 * tones[1, k])
                elif m == GLASSES:
                    for k in range(3):
                        albedo[k] = tones[5, k]
                    specular = 0.30 * ndh**60 + 0.08 * rim
                elif m == HAIR:
                    x = wa * p[a, U] + wb * p[b, U] + wc * p[c, U]
                    y = wa * p[a, V] + wb * p[b, V] + wc * p[c, V]
                    z = wa * p[a, LAYER] + wb * p[b, LAYER] + wc * p[c, LAYER]
                    tx = wa * f[a, 8] + wb * f[b, 8] + wc * f[c, 8]
                    ty = wa * f[a, 9] + wb * f[b, 9] + wc * f[c, 9]
                    tz = wa * f[a, 10] + wb * f[b, 10] + wc * f[c, 10]
                    thin = 0.5 + (grain(table, x * 7.0, y * 0.10 + z * 9) - 0.5) * thin_hair
                    norm = math.sqrt(tx * tx + ty * ty + tz * tz) + 1e-9
                    bend = 0.35 * (grain(table, x * 5.0, y * 0.12 + z * 7) - 0.5)
                    tx, ty, tz = tx / norm + bend * nx, ty / norm + bend * ny, tz / norm + bend * nz
                    norm = math.sqrt(tx * tx + ty * ty + tz * tz) + 1e-9
                    tx, ty, tz = tx / norm, ty / norm, tz / norm
                    lock = grain(table, x * 1.6, y * 0.06 + z * 3)
                    tone = 0.45 + 0.5 * lock + 0.45 * thin
                    if fine_hair > 0:
                        tone += 0.35 * fine_hair * (grain(table, x * 22.0, y * 0.25 + z * 5) - 0.5)
                    tone *= 0.45 + 0.55 * _step(0.0, 0.9, y)  # roots along the parting
                    for k in range(3):
                        albedo[k] = tones[1, k] * tone
                    tl = tx * key[0] + ty * key[1] + tz * key[2]
                    th = tx * hx + ty * hy + tz * hz
                    ndl = 0.55 * ndl + 0.45 * math.sqrt(max(0.0, 1 - tl * tl))
                    shine = math.sqrt(max(0.0, 1 - th * th))
                    specular = traits[4] * (0.030 * shine**90 + 0.014 * shine**24) * (0.3 + 1.2 * thin)
                    gleam = 1 + 1.1 * traits[4] * shine**20 * lit * max(0.0, ndl)
                    for k in range(3):
                        albedo[k] *= gleam
                    ao = 0.25 + 0.75 * ao
                    label = HAIR_LABEL
                else:
                    x = wa * p[a, U] + wb * p[b, U] + wc * p[c, U]
                    y = wa * p[a, V] + wb * p[b, V] + wc * p[c, V]
                    z = wa * p[a, LAYER] + wb * p[b, LAYER] + wc * p[c, LAYER]
                    knit = 0.5 + 0.5 * math.sin(x * 9.0 + 1.4 * math.sin(y * 9.0))
                    weave = 0.84 + 0.12 * knit + 0.18 * (grain(table, x * 1.3 + z, y * 1.3) - 0.5)
                    if fine_knit > 0:
                        weave += 0.14 * fine_knit * (grain(table, x * 12, y * 12) - 0.5)
                    for k in range(3):
                        albedo[k] = tones[4, k] * weave
                    specular = 0.02 * ndh**8
                    wrap = 0.2
                    label = CLOTH_LABEL if m == CLOTH else OTHER_LABEL
                share = 0.25 * members
                counts[label] += members
                skin = m in (SKIN, HAND)
                root = math.sqrt(ao) if skin else 1.0
                for k in range(3):
                    reach, shadow, open_sky = wrap, lit, ao
                    if skin:
                        # Light that wanders under the skin comes out redder beyond the terminator.
                        reach *= 1.15 if k == 0 else 0.62 if k == 1 else 0.5
                        shadow += (1 - lit) * (0.12 if k == 0 else 0.045 if k == 1 else 0.03)
                        open_sky = ao + (root - ao) * (0.5 if k == 0 else 0.1 if k == 1 else 0.0)
                    diffuse = max(0.0, (ndl + reach) / (1 + reach))
                    light = key_colour[k] * diffuse * shadow + fill_colour[k] * fill * (0.35 + 0.65 * ao) + sky[k] * up * open_sky
                    out = albedo[k] * light * 0.62 + specular * (key_colour[k] * lit + 0.12 * sky[k])
                    if m != TEETH:
                        out += albedo[k] * rim * 0.35 * ao * sky[k]
                    mixed[k] += share * min(out, BRIGHTEST)
            bare = 0.25 * (4 - covered)
            for k in range(3):
                value = mixed[k] + bare * min(float(background[row, column, k]), BRIGHTEST) if bare > 0 else mixed[k]
                picture[row, column, k] = shown[int(max(0.0, value) * to_table + 0.5)]
            best = 0
            for k in range(1, 6):
                if counts[k] > counts[best]:
                    best = k
            labels[row, column] = best
