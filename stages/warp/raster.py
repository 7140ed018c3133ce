"""A small z-buffered triangle rasteriser that writes where in the texture each pixel comes from.

Writing texture coordinates instead of colours keeps the inner loop to three interpolations; the texture is then sampled with
``cv2.remap``, which is vectorised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., Any])
OUTSIDE = -1e4
"""Texture coordinate of a pixel that no triangle covers."""

LEAST_RATIO = 0.8
"""Textures shown smaller than this are made smaller before they are sampled."""


def compiled(function: Function) -> Function:
    """Compile, keeping the machine code on disk where that is possible.

    Numba refuses to cache (RuntimeError: no locator available) where neither the package's folder nor the user's cache
    folder can be written, as in a read-only container; the function is then compiled anew in each process.
    """
    try:
        return numba.njit(cache=True, nogil=True, fastmath=False)(function)  # type: ignore[no-any-return]
    except RuntimeError:
        return numba.njit(nogil=True, fastmath=False)(function)  # type: ignore[no-any-return]


@compiled
def rasterise(vertices: Any, texture: Any, triangles: Any, height: int, width: int) -> Any:
    """Where each pixel of the picture lies in the texture.

    Args:
        vertices: float32 [vertices, 3], pixels of the picture, z in pixels and smaller towards the viewer.
        texture: float32 [vertices, 2], pixels of the texture.
        triangles: integer [triangles, 3], either winding.
        height: of the picture.
        width: of the picture.

    Returns:
        float32 [height, width, 3]: x and y in the texture (``OUTSIDE`` where nothing is drawn) and depth (infinite there).
        A pixel belongs to a triangle when its centre (.5, .5) lies in it or on its border; the nearest triangle wins, the
        first one at equal depth.
    """
    drawn = np.empty((height, width, 3), np.float32)
    drawn[:, :, 0] = OUTSIDE
    drawn[:, :, 1] = OUTSIDE
    drawn[:, :, 2] = np.inf
    for index in range(triangles.shape[0]):
        a, b, c = triangles[index, 0], triangles[index, 1], triangles[index, 2]
        ax, ay, az = vertices[a, 0], vertices[a, 1], vertices[a, 2]
        bx, by, bz = vertices[b, 0], vertices[b, 1], vertices[b, 2]
        cx, cy, cz = vertices[c, 0], vertices[c, 1], vertices[c, 2]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if not abs(area) > 1e-6:  # degenerate, or a corner is not a number
            continue
        left = max(0, int(np.ceil(min(ax, bx, cx) - 0.5)))
        right = min(width - 1, int(np.floor(max(ax, bx, cx) - 0.5)))
        top = max(0, int(np.ceil(min(ay, by, cy) - 0.5)))
        bottom = min(height - 1, int(np.floor(max(ay, by, cy) - 0.5)))
        for y in range(top, bottom + 1):
            py = y + 0.5
            for x in range(left, right + 1):
                px = x + 0.5
                u = ((cx - bx) * (py - by) - (cy - by) * (px - bx)) / area
                v = ((ax - cx) * (py - cy) - (ay - cy) * (px - cx)) / area
                w = 1.0 - u - v
                if u < -1e-5 or v < -1e-5 or w < -1e-5:
                    continue
                depth = u * az + v * bz + w * cz
                if depth < drawn[y, x, 2]:
                    drawn[y, x, 0] = u * texture[a, 0] + v * texture[b, 0] + w * texture[c, 0]
                    drawn[y, x, 1] = u * texture[a, 1] + v * texture[b, 1] + w * texture[c, 1]
                    drawn[y, x, 2] = depth
    return drawn


def reduction(ratio: float, side: int) -> float:
    """How much smaller to make a texture of ``side`` pixels that is shown at ``ratio`` of its size, so that it does not alias."""
    return 1.0 if ratio >= LEAST_RATIO else max(16, round(side * ratio)) / side


def reduced(texture: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """A square texture made smaller by ``reduction``."""
    if share >= 1:
        return texture
    size = round(texture.shape[0] * share)
    return np.asarray(cv2.resize(texture, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def maps_of(drawn: NDArray[np.float32], share: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What ``rasterise`` has drawn as maps for ``sampled``, of a texture reduced by ``share``: float32 [height, width] each."""
    map_x, map_y = drawn[..., 0] * np.float32(share) - np.float32(0.5), drawn[..., 1] * np.float32(share) - np.float32(0.5)
    map_x[drawn[..., 0] <= OUTSIDE] = OUTSIDE
    return map_x, map_y


def sampled(texture: NDArray[np.uint8], map_x: NDArray[np.float32], map_y: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A texture's values at places in it, transparent outside of it."""
    return np.asarray(cv2.remap(texture, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT), np.uint8)


def triangle_rows(array: NDArray[Any]) -> NDArray[np.int32]:
    """Triangles in the layout the rasteriser is compiled for."""
    return np.ascontiguousarray(array, np.int32)
