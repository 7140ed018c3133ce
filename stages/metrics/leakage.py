"""How much of a head's outline can be read from something else: predicted in closed form for people never seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.tables import LABELS

Floats = NDArray[np.float64]

OUTLINE = ("width", "hair length", "height", "area")
"""What :func:`outline_parameters` gives, in this order."""

WIDTHS = (0.5, 1.0, 2.0)
"""Widths of Gaussian kernels that are tried, in median distances between people."""

SHRINKAGES = tuple(10.0**power for power in range(-4, 2))
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


def predict_held_out(
    views: Sequence[NDArray[np.floating]], wanted: NDArray[np.floating], folds: int = 5, components: int = 24
) -> tuple[Floats, Floats]:
    """Predict ``wanted`` for people left out of the fit, fold by fold, by kernel ridge regression from what is seen of them.

    What is seen (which of ``views``), kernel (linear or Gaussian) and penalty are chosen inside each fold by the leave-one-out
    error on its own people, which has a closed form (Allen's PRESS): the residual of person i over 1 - h_i, with h_i the
    diagonal of K (K + p I)^-1 plus 1 / n for the mean. So a view with more in it hardly predicts worse only because it is larger.

    Args:
        views: what is seen, each [people, features]: for instance the hole, and the hole together with the cloth.
        wanted: [people, outputs]; more than ``components`` outputs are predicted by their principal components.
        folds: person i is left out in fold i modulo ``folds``.

    Returns:
        The predictions float64 [people, outputs], and for each person the mean of the others in the fit: what is known
        without looking, same shape.
    """
    seen, wanted = [np.asarray(view, np.float64) for view in views], np.asarray(wanted, np.float64)
    found, blind = np.empty_like(wanted), np.empty_like(wanted)
    for fold in range(folds):
        out = np.arange(len(wanted)) % folds == fold
        mean = wanted[~out].mean(0)
        blind[out] = mean
        centred, axes = wanted[~out] - mean, None
        if wanted.shape[1] > components:
            axes = np.linalg.svd(centred, full_matrices=False)[2][:components]
            centred = centred @ axes.T
        fits = [_fit_and_predict(view[~out] - view[~out].mean(0), centred, view[out] - view[~out].mean(0)) for view in seen]
        predicted = min(fits, key=lambda fit: fit[0])[1]
        found[out] = mean + (predicted if axes is None else predicted @ axes)
    return found, blind


def _fit_and_predict(seen: Floats, wanted: Floats, unseen: Floats) -> tuple[float, Floats]:
    """The best leave-one-out error (mean square), and what that fit predicts for the others."""
    best = float((wanted**2).mean()), np.zeros((len(unseen), wanted.shape[1]))  # of predicting the mean
    gram = seen @ seen.T
    lengths = np.diag(gram)
    if lengths.mean() < 1e-12:
        return best
    apart = float(np.median((lengths[:, None] + lengths - 2 * gram)[np.triu_indices(len(seen), 1)]))
    for width in (None, *(WIDTHS if apart > 1e-12 else ())):
        kernel, unit = _Kernel(width), float(lengths.mean()) if width is None else apart
        own, similar = kernel(seen, seen, unit), kernel(unseen, seen, unit)
        # Centred in the kernel's space, because the mean is fitted too.
        similar = similar - similar.mean(1, keepdims=True) - own.mean(0) + own.mean()
        own = own - own.mean(0) - own.mean(1, keepdims=True) + own.mean()
        values, vectors = np.linalg.eigh(own)
        values, rotated = np.maximum(values, 0), vectors.T @ wanted
        for shrinkage in SHRINKAGES:
            kept = values / (values + shrinkage)
            leverage = 1 / len(seen) + (vectors**2) @ kept
            residual = (wanted - vectors @ (kept[:, None] * rotated)) / np.maximum(1 - leverage, 1e-12)[:, None]
            error = float((residual**2).mean())
            if error < best[0]:
                best = error, similar @ (vectors @ (rotated / (values + shrinkage)[:, None]))
    return best


def explained(wanted: Floats, found: Floats, blind: Floats) -> float:
    """R^2 on people held out: 1 - squared error of the prediction over that of the mean; at most 1, below 0 when it misleads."""
    return 1 - float(((wanted - found) ** 2).sum()) / max(float(((wanted - blind) ** 2).sum()), 1e-12)


def bits(share: float) -> float:
    """Mutual information in bits that an R^2 means for jointly Gaussian quantities: -log2(1 - R^2) / 2, 0 below 0."""
    return 0.5 * float(np.log2(1 / max(1 - max(share, 0.0), 1e-9)))


def overlaps(found: Floats, truth: NDArray[np.bool_]) -> Floats:
    """IoU for each person of a predicted mask (at least one half counts) [people, pixels] with the true one: float64 [people]."""
    guess = found >= 0.5
    return np.asarray((guess & truth).sum(1) / np.maximum((guess | truth).sum(1), 1))
