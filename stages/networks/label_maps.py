"""Label maps at the networks' size: the same at work and in training, or the networks would see borders they never learned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def shrunk_labels(labels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A label map at another size: the label at the middle of each pixel.

    Args:
        labels: uint8 [side, side].
        size: of the result.

    Returns:
        uint8 [size, size]; ``labels`` itself where that is its size.
    """
    if labels.shape[0] == size:
        return labels
    middle = ((np.arange(size) + 0.5) * labels.shape[0] / size).astype(int)
    return np.ascontiguousarray(labels[np.ix_(middle, middle)])
