"""The one place that converts between frame pixels and crop pixels.

A crop is three numbers, ``(centre x, centre y, side)``, in frame pixels: an upright square. In both pictures the top left
corner is (0, 0) and the centre of the first pixel (0.5, 0.5), so ``x_crop = (x - (centre - side / 2)) * crop_size / side``, and
a depth scales by the same factor. OpenCV counts from the centre of the first pixel; ``opencv_matrix`` makes up for it.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

_LARGEST_OVERSAMPLING = 8


def to_crop(points: ArrayLike, crop: ArrayLike, crop_size: int) -> NDArray[np.float64]:
    """Frame pixels -> crop pixels.

    Args:
        points: ``[..., 2]`` or ``[..., 3]`` (a third coordinate is a depth in pixels and is only scaled).
        crop: ``[3]``, or ``[n, 3]`` for points ``[n, ..., 2 or 3]`` with one crop for each of the first axis.
        crop_size: side of the crop's picture in its own pixels.

    Returns:
        float64, the shape of ``points``.
    """
    points = np.asarray(points, np.float64)
    corner, scale = _corner_and_scale(points, crop, crop_size)
    return (points - corner) * scale


def to_frame(points: ArrayLike, crop: ArrayLike, crop_size: int) -> NDArray[np.float64]:
    """Crop pixels -> frame pixels: the inverse of ``to_crop``, with the same shapes."""
    points = np.asarray(points, np.float64)
    corner, scale = _corner_and_scale(points, crop, crop_size)
    return points / scale + corner


def crop_matrix(crop: ArrayLike, size: int) -> NDArray[np.float64]:
    """The affine map frame pixels -> crop pixels, ``[2, 3]``, in this project's convention of pixels (see ``opencv_matrix``)."""
    centre_x, centre_y, side = (float(value) for value in np.asarray(crop, np.float64))
    scale = size / side
    return np.array([[scale, 0.0, (side / 2 - centre_x) * scale], [0.0, scale, (side / 2 - centre_y) * scale]])


def frame_matrix(crop: ArrayLike, size: int) -> NDArray[np.float64]:
    """The affine map crop pixels -> frame pixels, ``[2, 3]``: the inverse of ``crop_matrix``."""
    centre_x, centre_y, side = (float(value) for value in np.asarray(crop, np.float64))
    scale = side / size
    return np.array([[scale, 0.0, centre_x - side / 2], [0.0, scale, centre_y - side / 2]])


def opencv_matrix(matrix: ArrayLike) -> NDArray[np.float64]:
    """The same map for ``cv2.warpAffine``, which puts the centre of the first pixel at (0, 0) in both pictures. ``[2, 3]``."""
    converted = np.array(matrix, np.float64)
    converted[:, 2] += converted[:, :2] @ (0.5, 0.5) - 0.5
    return converted


def extract_crop(rgb: NDArray[np.uint8], crop: ArrayLike, crop_size: int) -> NDArray[np.uint8]:
    """The crop's picture, resampled; what lies outside the frame repeats its border.

    Enlarging interpolates cubically. Shrinking averages over the area of each new pixel (by resampling at a whole multiple of the
    size first), at any sub-pixel position, so that a slowly moving crop neither shimmers nor jumps.

    Args:
        rgb: uint8 ``[height, width, 3]`` (or ``[height, width]``).
        crop: centre x, centre y, side, frame pixels.
        crop_size: side of the result.

    Returns:
        uint8 ``[crop_size, crop_size, 3]`` (or ``[crop_size, crop_size]``).
    """
    side = float(np.asarray(crop)[2])
    if not side > 0:
        raise ValueError(f"a crop needs a positive side, not {side}")
    oversampling = min(max(int(np.ceil(side / crop_size - 1e-6)), 1), _LARGEST_OVERSAMPLING)
    size = crop_size * oversampling
    method = cv2.INTER_CUBIC if side < crop_size * (1 - 1e-6) else cv2.INTER_LINEAR
    picture = cv2.warpAffine(
        rgb, opencv_matrix(crop_matrix(crop, size)), (size, size), flags=method, borderMode=cv2.BORDER_REPLICATE
    )
    if oversampling > 1:
        picture = cv2.resize(picture, (crop_size, crop_size), interpolation=cv2.INTER_AREA)
    return np.asarray(picture, np.uint8)


def _corner_and_scale(
    points: NDArray[np.float64], crop: ArrayLike, crop_size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    crops = np.asarray(crop, np.float64)
    dimensions = points.shape[-1]
    if dimensions not in (2, 3):
        raise ValueError(f"points have 2 or 3 coordinates, not {dimensions}")
    if crops.ndim == 2 and len(crops) != len(points):
        raise ValueError(f"{len(crops)} crops for {len(points)} sets of points")
    corner = np.zeros((*crops.shape[:-1], dimensions))
    corner[..., :2] = crops[..., :2] - crops[..., 2:] / 2
    scale = crop_size / crops[..., 2:]
    if crops.ndim == 2:
        between = (1,) * (points.ndim - 2)
        corner = corner.reshape(len(crops), *between, dimensions)
        scale = scale.reshape(len(crops), *between, 1)
    return corner, scale
