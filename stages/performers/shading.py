"""Colour of every pixel of the visibility buffer: skin, lips, brows, eyes, teeth, hair and cloth under three lights."""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

from stages.performers.raster import noise

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]

SKIN, TEETH, GUMS, LEFT_EYE, RIGHT_EYE, LASHES, HAIR, CLOTH = range(8)


@numba.njit(cache=True)
def _step(low: float, high: float, x: float) -> float:
    t = min(1.0, max(0.0, (x - low) / (high - low)))
    return t * t * (3 - 2 * t)


@numba.njit(cache=True)
def _along_line(x: float, y: float, line: Floats) -> tuple[float, float]:
    """Distance to a polyline [n, 2] and position along it, 0..1."""
    best, where = 1e9, 0.0
    for k in range(line.shape[0] - 1):
        dx, dy = line[k + 1, 0] - line[k, 0], line[k + 1, 1] - line[k, 1]
        t = min(1.0, max(0.0, ((x - line[k, 0]) * dx + (y - line[k, 1]) * dy) / (dx * dx + dy * dy)))
        distance = math.sqrt((x - line[k, 0] - t * dx) ** 2 + (y - line[k, 1] - t * dy) ** 2)
        if distance < best:
            best, where = distance, (k + t) / (line.shape[0] - 1)
    return best, where


@numba.njit(cache=True)
def _inside(x: float, y: float, polygon: Floats) -> bool:
    inside = False
    j = polygon.shape[0] - 1
    for i in range(polygon.shape[0]):
        if (polygon[i, 1] > y) != (polygon[j, 1] > y) and x < (polygon[j, 0] - polygon[i, 0]) * (y - polygon[i, 1]) / (
            polygon[j, 1] - polygon[i, 1]
        ) + polygon[i, 0]:
            inside = not inside
        j = i
    return inside


@numba.njit(cache=True)
def _face_paint(x, y, z, marks, hairline, tones, seed, albedo):  # type: ignore[no-untyped-def]
    """Paint skin at rest position (x, y, z). Returns gloss; ``albedo`` [3] is written."""
    brow_right, brow_left, lips, traits = marks
    skin, hair, lip_tone = tones
    freckles, beard, brows, stubble, _ = traits
    gloss = 0.8 + 0.5 * noise(x * 6 + seed, y * 6, z * 6)
    patch = noise(x * 0.55 + seed, y * 0.55, z * 0.55) - 0.5
    fine = noise(x * 5.5, y * 5.5 + seed, z * 5.5) - 0.5
    pores = noise(x * 16, y * 16, z * 16 + seed) - 0.5
    for k in range(3):
        albedo[k] = skin[k] * (1 + 0.16 * patch + 0.09 * fine + 0.07 * pores)
    # Blood under cheeks, nose and ears.
    red = 0.55 * math.exp(-((abs(x) - 5.0) ** 2) / 5 - (y + 0.2) ** 2 / 5) + 0.5 * math.exp(-(x**2) / 1.6 - (y - 0.3) ** 2 / 1.6)
    red = red * _step(4.0, 8.0, z) + 0.5 * _step(7.7, 8.8, abs(x)) + 0.25 * math.exp(-(x**2) / 4 - (y + 6.5) ** 2 / 1.5)
    albedo[0] *= 1 + 0.06 * red
    albedo[1] *= 1 - 0.20 * red
    albedo[2] *= 1 - 0.18 * red
    if freckles > 0:
        spot = _step(0.70, 0.80, noise(x * 3.4 + seed, y * 3.4, z * 3.4)) * _step(0.35, 0.6, noise(x * 1.1, y * 1.1 + seed, z))
        spot *= freckles * math.exp(-((y - 0.8) ** 2) / 7) * _step(3.0, 7.0, z)
        for k in range(3):
            albedo[k] *= 1 - spot * (0.28 + 0.14 * k)
    # Shadow under the eyes.
    under = math.exp(-((abs(x) - 3.0) ** 2) / 2.2 - (y - 2.1) ** 2 / 0.35)
    for k in range(3):
        albedo[k] *= 1 - under * (0.06 + 0.03 * k)
    around = abs(math.atan2(x, z)) * 57.2958
    if beard > 0:
        edge = -2.6 + 0.02 * max(0.0, around - 20) ** 1.25
        mask = _step(0.0, 1.3, edge - y + 0.5 * fine) * _step(-11.5, -8.5, y) * _step(-1.0, 1.5, z)
        moustache = math.exp(-((y + 1.75) ** 2) / 0.35) * _step(2.9, 2.0, abs(x)) * _step(9.0, 10.0, z)
        mask = max(mask, moustache)
        strand = 0.55 + 0.9 * noise(x * 11 + seed, y * 3.0, z * 11)
        weight = min(0.93, mask * beard * strand)
        for k in range(3):
            albedo[k] = albedo[k] * (1 - weight) + weight * hair[k] * 0.8
        gloss *= 1 - 0.6 * weight
    if stubble > 0:
        line = np.interp(around, hairline[:, 0], hairline[:, 1])
        weight = stubble * _step(-0.35, 0.9, y - line + 0.9 * (noise(x * 7, y * 2.5, z * 7) - 0.5))
        for k in range(3):
            albedo[k] = albedo[k] * (1 - weight) + weight * (0.75 * hair[k] + 0.12 * skin[k])
        gloss *= 1 - 0.75 * weight
    if z > 5:
        if y > 3.4:
            distance, where = _along_line(x, y, brow_left if x > 0 else brow_right)
            wide = 0.52 * (1 - 0.62 * where * where)
            if distance < 1.6 * wide:
                shape = _step(1.15, 0.35, distance / wide) * _step(-0.01, 0.10, where) * (1 - 0.45 * _step(0.75, 1.0, where))
                slant = x * (1 if x > 0 else -1) * 0.9 - y * (1.0 - 0.75 * where)
                hairs = noise(slant * 9 + seed, y * 1.6, 5.0)
                weight = min(0.95, brows * shape * (0.35 + 1.15 * hairs))
                for k in range(3):
                    albedo[k] = albedo[k] * (1 - weight) + weight * hair[k] * 0.75
                gloss *= 1 - 0.6 * weight
        elif y < -1.0 and abs(x) < 3.6 and z > 8:
            distance, _ = _along_line(x, y, lips)
            signed = distance if _inside(x, y, lips) else -distance
            weight = _step(-0.10, 0.22, signed + 0.06 * fine)
            crease = noise(x * 6.5 + seed, y * 0.9, 2.0) - 0.5
            for k in range(3):
                albedo[k] = albedo[k] * (1 - weight) + weight * lip_tone[k] * (1 + 0.22 * crease)
            gloss = gloss * (1 - weight) + weight * (1.5 + 0.8 * crease)
    return gloss


@numba.njit(cache=True)
def shade(
    triangle_buffer: Integers,
    weights: Floats,
    triangles: Integers,
    kind: Integers,
    rest: Floats,
    world: Floats,
    normals: Floats,
    tangents: Floats,
    occlusion: Floats,
    key_light: Floats,
    camera: Floats,
    lights: Floats,
    tones: Floats,
    eyes: Floats,
    brow_right: Floats,
    brow_left: Floats,
    lips: Floats,
    hairline: Floats,
    jaw: Floats,
    traits: Floats,
    seed: float,
    picture: Floats,
    labels: npt.NDArray[np.uint8],
) -> None:
    """Fill ``picture`` (float32 [h, w, 3], linear light) and ``labels`` (uint8 [h, w]) where a triangle is seen.

    rest: [vertices, 3], where paint is anchored (hair and cloth: across, along, layer). lights: [4, 3] direction of the key,
    then colours of key, fill and sky. tones: [5, 3] skin, hair, lips, iris, cloth. eyes: [2, 2, 3] centre and gaze of the left,
    then right eye. jaw: [n, 2] degrees around the head and height of the jaw. traits: freckles, beard, brows,
    stubble, shine of the hair.
    """
    height, width = triangle_buffer.shape
    albedo, out = np.zeros(3), np.zeros(3)
    key, key_colour, fill_colour, sky = lights[0], lights[1], lights[2], lights[3]
    marks = (brow_right, brow_left, lips, traits)
    shades = (tones[0], tones[1], tones[2])
    for row in range(height):
        for column in range(width):
            t = triangle_buffer[row, column]
            if t < 0:
                continue
            a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            wa, wb = weights[row, column, 0], weights[row, column, 1]
            wc = 1 - wa - wb
            nx = wa * normals[a, 0] + wb * normals[b, 0] + wc * normals[c, 0]
            ny = wa * normals[a, 1] + wb * normals[b, 1] + wc * normals[c, 1]
            nz = wa * normals[a, 2] + wb * normals[b, 2] + wc * normals[c, 2]
            px = wa * world[a, 0] + wb * world[b, 0] + wc * world[c, 0]
            py = wa * world[a, 1] + wb * world[b, 1] + wc * world[c, 1]
            pz = wa * world[a, 2] + wb * world[b, 2] + wc * world[c, 2]
            x = wa * rest[a, 0] + wb * rest[b, 0] + wc * rest[c, 0]
            y = wa * rest[a, 1] + wb * rest[b, 1] + wc * rest[c, 1]
            z = wa * rest[a, 2] + wb * rest[b, 2] + wc * rest[c, 2]
            ao = wa * occlusion[a] + wb * occlusion[b] + wc * occlusion[c]
            seen = wa * key_light[a] + wb * key_light[b] + wc * key_light[c]
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
            rim = (1 - facing) ** 3.5
            m = kind[t]
            specular = 0.0
            wrap = 0.12
            if m == SKIN:
                gloss = _face_paint(x, y, z, marks, hairline, shades, seed, albedo)
                # The lining of the mouth.
                depth = 1.0 if lining else 10.3 - 0.22 * x * x - z
                if lining or (-6.5 < y < -1.0 and abs(x) < 3.4 and z > -1 and depth > 0):
                    dark = _step(0.0, 0.7, depth)
                    albedo[0] = albedo[0] * (1 - dark) + dark * 0.13
                    albedo[1] = albedo[1] * (1 - dark) + dark * 0.025
                    albedo[2] = albedo[2] * (1 - dark) + dark * 0.025
                    gloss *= 1 - dark
                    seen *= 1 - 0.9 * dark
                    ao *= 1 - 0.7 * dark
                specular = gloss * (0.065 * ndh**14 + 0.07 * ndh**48) + 0.04 * rim * ao
                wrap = 0.28
                line = np.interp(math.atan2(abs(x), z) * 57.2958, jaw[:, 0], jaw[:, 1])
                labels[row, column] = 2 if y > line else 3
            elif m == TEETH:
                albedo[0], albedo[1], albedo[2] = 0.78, 0.74, 0.64
                # Occlusion was measured with the mouth closed; inside it, it is a matter of depth.
                ao = 0.12 + 0.6 * _step(6.5, 10.6, z)
                seen = 0.5 * _step(8.0, 10.6, z)
                specular = 0.06 * ndh**40 * seen
                labels[row, column] = 2
            elif m == GUMS:
                albedo[0], albedo[1], albedo[2] = 0.40, 0.13, 0.12
                ao = 0.06 + 0.5 * _step(5.0, 10.4, z)
                seen = 0.4 * _step(7.0, 10.4, z)
                specular = 0.10 * ndh**30 * seen
                labels[row, column] = 2
            elif m in (LEFT_EYE, RIGHT_EYE):
                which = 0 if m == LEFT_EYE else 1
                rx, ry, rz = px - eyes[which, 0, 0], py - eyes[which, 0, 1], pz - eyes[which, 0, 2]
                norm = math.sqrt(rx * rx + ry * ry + rz * rz)
                cosine = (rx * eyes[which, 1, 0] + ry * eyes[which, 1, 1] + rz * eyes[which, 1, 2]) / norm
                angle = math.acos(min(1.0, max(-1.0, cosine))) * 57.2958
                spoke = noise(math.atan2(ry, rx) * 7 + 30, angle * 0.12, seed)
                iris = _step(26.0, 24.0, angle)
                ring = _step(18.0, 25.0, angle)
                inner = _step(16.0, 10.0, angle)
                pupil = _step(10.2, 9.0, angle)
                white = (0.76, 0.70, 0.67)
                for k in range(3):
                    tone = tones[3, k] * (0.65 + 0.75 * spoke) * (1 - 0.75 * ring) * (1 + 0.6 * inner)
                    albedo[k] = (white[k] * (1 - iris) + tone * iris) * (1 - pupil) + 0.004 * pupil
                # A lid's shadow, and a wet surface.
                ao = ao**0.8
                specular = 0.55 * ndh**220 + 0.03 * ndh**20
                window = max(0.0, nx * 0.35 + ny * 0.42 + nz * 0.84)
                specular += 0.35 * window**420
                labels[row, column] = 2
            elif m == LASHES:
                for k in range(3):
                    albedo[k] = 0.03 + 0.15 * tones[1, k]
                labels[row, column] = 2
            elif m == HAIR:
                tx = wa * tangents[a, 0] + wb * tangents[b, 0] + wc * tangents[c, 0]
                ty = wa * tangents[a, 1] + wb * tangents[b, 1] + wc * tangents[c, 1]
                tz = wa * tangents[a, 2] + wb * tangents[b, 2] + wc * tangents[c, 2]
                bend = 0.35 * (noise(x * 5.0, y * 0.12, z) - 0.5)
                tx, ty, tz = tx + bend * nx, ty + bend * ny, tz + bend * nz
                norm = math.sqrt(tx * tx + ty * ty + tz * tz) + 1e-9
                tx, ty, tz = tx / norm, ty / norm, tz / norm
                lock = noise(x * 1.6, y * 0.06, z + 3)
                thin = noise(x * 7.0, y * 0.10, z + 9)
                thread = noise(x * 22.0, y * 0.25, z)
                tone = 0.45 + 0.5 * lock + 0.45 * thin + 0.35 * (thread - 0.5)
                tone *= 0.45 + 0.55 * _step(0.0, 0.9, y)  # roots along the parting
                for k in range(3):
                    albedo[k] = tones[1, k] * tone
                tl = tx * key[0] + ty * key[1] + tz * key[2]
                th = tx * hx + ty * hy + tz * hz
                ndl = 0.55 * ndl + 0.45 * math.sqrt(max(0.0, 1 - tl * tl))
                shine = math.sqrt(max(0.0, 1 - th * th))
                specular = traits[4] * (0.030 * shine**90 + 0.014 * shine**24) * (0.3 + 1.2 * thin)
                for k in range(3):
                    albedo[k] *= 1 + 1.1 * traits[4] * shine**20 * seen * max(0.0, ndl)
                ao = 0.25 + 0.75 * ao
                labels[row, column] = 1
            else:
                knit = 0.5 + 0.5 * math.sin(x * 9.0 + 1.4 * math.sin(y * 9.0))
                weave = (
                    0.84
                    + 0.12 * knit
                    + 0.18 * (noise(x * 1.3, y * 1.3, z + seed) - 0.5)
                    + 0.14 * (noise(x * 12, y * 12, z) - 0.5)
                )
                for k in range(3):
                    albedo[k] = tones[4, k] * weave
                specular = 0.02 * ndh**8
                wrap = 0.2
                labels[row, column] = 4
            for k in range(3):
                # Light that wanders under the skin comes out redder beyond the terminator.
                reach = wrap * (1.0 if m != SKIN else (1.15, 0.62, 0.5)[k])
                diffuse = max(0.0, (ndl + reach) / (1 + reach))
                shadow = seen if m != SKIN else seen + (1 - seen) * (0.12, 0.045, 0.03)[k]
                open_sky = ao if m != SKIN else ao ** (0.75, 0.95, 1.0)[k]
                light = key_colour[k] * diffuse * shadow + fill_colour[k] * fill * (0.35 + 0.65 * ao) + sky[k] * up * open_sky
                out[k] = albedo[k] * light * 0.62 + specular * (key_colour[k] * seen + 0.12 * sky[k])
                if m != TEETH:
                    out[k] += albedo[k] * rim * 0.35 * ao * sky[k]
                picture[row, column, k] = out[k]
