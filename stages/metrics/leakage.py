"""How much of a head's outline can be read from something else: predicted in closed form for people never seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.tables import LABELS

Floats = NDArray[np.float64]

OUTLINE = ("width", "hair length", "height", "area")
"""What :func:`outline_parameters` gives, in this order."""

WIDTHS = (0.5, 1.0, 2.0)
"""Widths of Gaussian kernels that are tried, in median distances between people."""

SHRINKAGES = tuple(10.0**power for power in range(-5, 2))
"""Ridge penalties that are tried, in mean squared lengths of a person's features."""


def outline_parameters(labels: NDArray[np.uint8], middle: float, face: float) -> Floats:
    """A head's outline in a few numbers, all in heights of the face (area: their square): float64 [4], see ``OUTLINE``.

    Width: the widest row of hair and face above the chin. Hair length: how far below the middle of the face the lowest hair
    hangs; a bald head has none, which counts as the top of the head. Height: of the top of the head above the middle of the face.

    Args:
        labels: uint8 [size, size], label map (``schemas.tables.LABELS``).
        middle: row of the middle of the face, pixels. face: height of the face, pixels.
    """
    hair = labels == LABELS.index("hair")
    head = hair | (labels == LABELS.index("face"))
    rows = np.arange(len(labels)) + 0.5
    above_chin = head[rows < middle + 0.5 * face]
    width = float(np.quantile(above_chin.sum(1)[above_chin.any(1)], 0.98)) if above_chin.any() else 0.0
    top = float(rows[head.any(1)].min(initial=middle))
    # The lowest percent is left out: single strands.
    lowest = float(np.quantile(np.repeat(rows, hair.sum(1)), 0.99)) if hair.any() else top
    return np.array([width / face, (lowest - middle) / face, (middle - top) / face, float(head.sum()) / face**2])


@dataclass(frozen=True)
class _Kernel:
    """Similarity of people by what is seen of them: linear, or Gaussian of a width in median distances."""

    width: float | None

    def __call__(self, first: Floats, second: Floats, unit: float) -> Floats:
        if self.width is None:
            return first @ second.T / unit
        square = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2 * first @ second.T
        return np.asarray(np.exp(-np.maximum(square, 0) / (2 * self.width**2 * unit)))


def predict_held_out(seen: NDArray[np.floating], wanted: NDArray[np.floating], folds: int = 5) -> tuple[Floats, Floats]:
    """Predict ``wanted`` from ``seen`` by kernel ridge regression for people left out of the fit, fold by fold.

    Kernel (linear or Gaussian) and penalty are chosen inside each fold by the leave-one-out error on its own people, which has a
    closed form: the residual of person i is a_i / (K + p I)^-1_ii with a the dual coefficients (Saunders et al., 1998; Allen's
    PRESS).

    Args:
        seen: [people, features]. wanted: [people, outputs]. folds: person i is left out in fold i modulo ``folds``.

    Returns:
        The predictions float64 [people, outputs], and for each person the mean of the others in the fit: what is known
        without looking, same shape.
    """
    seen, wanted = np.asarray(seen, np.float64), np.asarray(wanted, np.float64)
    found, blind = np.empty_like(wanted), np.empty_like(wanted)
    for fold in range(folds):
        out = np.arange(len(seen)) % folds == fold
        mean = seen[~out].mean(0)
        blind[out] = wanted[~out].mean(0)
        found[out] = blind[out] + _fit_and_predict(seen[~out] - mean, wanted[~out] - wanted[~out].mean(0), seen[out] - mean)
    return found, blind


def _fit_and_predict(seen: Floats, wanted: Floats, unseen: Floats) -> Floats:
    gram = seen @ seen.T
    lengths = np.diag(gram)
    if lengths.mean() < 1e-12:
        return np.zeros((len(unseen), wanted.shape[1]))
    distances = lengths[:, None] + lengths - 2 * gram
    apart = float(np.median(distances[np.triu_indices(len(seen), 1)]))
    units = {width: apart if width is not None else float(lengths.mean()) for width in (None, *WIDTHS)}
    best: tuple[float, _Kernel, Floats, float] | None = None
    for width in (None, *(WIDTHS if apart > 1e-12 else ())):
        kernel = _Kernel(width)
        values, vectors = np.linalg.eigh(kernel(seen, seen, units[width]))
        rotated = vectors.T @ wanted
        for shrinkage in SHRINKAGES:
            weights = 1 / (np.maximum(values, 0) + shrinkage)
            dual = vectors @ (weights[:, None] * rotated)
            error = float(((dual / ((vectors**2) @ weights)[:, None]) ** 2).mean())
            if best is None or error < best[0]:
                best = (error, kernel, dual, units[width])
    assert best is not None
    _, kernel, dual, unit = best
    return kernel(unseen, seen, unit) @ dual


def explained(wanted: Floats, found: Floats, blind: Floats) -> float:
    """R^2 on people held out: 1 - squared error of the prediction over that of the mean; at most 1, below 0 when it misleads."""
    return 1 - float(((wanted - found) ** 2).sum()) / max(float(((wanted - blind) ** 2).sum()), 1e-12)


def bits(share: float) -> float:
    """Mutual information in bits that an R^2 means for jointly Gaussian quantities: -log2(1 - R^2) / 2, 0 below 0."""
    return -0.5 * float(np.log2(max(1 - max(share, 0.0), 1e-9)))


def overlaps(found: Floats, truth: NDArray[np.bool_]) -> Floats:
    """IoU for each person of a predicted mask (at least one half counts) [people, pixels] with the true one: float64 [people]."""
    guess = found >= 0.5
    return np.asarray((guess & truth).sum(1) / np.maximum((guess | truth).sum(1), 1))
