"""Filling in what no frame shows: LaMa where its weights are registered, else a smooth membrane with the picture's own grain.

Pictures are uint8 [height, width, 3] RGB, ``known`` boolean [height, width]: pixels that stay as they are.
"""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from schemas.problems import ModelError


def membrane(rgb: np.ndarray, known: np.ndarray, relax: int = 8) -> np.ndarray:
    """Fill smoothly from the border of the known pixels, without streaks: float32 [height, width, 3].

    Pull: averages of known pixels at ever lower resolution. Push: what is unknown at a level comes from the level below,
    then some relaxation of Laplace's equation at each level.
    """
    picture = rgb.astype(np.float32)
    if known.all() or not known.any():
        return picture
    weight = known.astype(np.float32)
    levels: list[tuple[np.ndarray, np.ndarray]] = [(picture * weight[..., None], weight)]
    while min(levels[-1][1].shape) > 2 and not (levels[-1][1] > 0).all():
        values, weight = levels[-1]
        half = (max(1, (weight.shape[1] + 1) // 2), max(1, (weight.shape[0] + 1) // 2))
        smaller = cv2.resize(weight, half, interpolation=cv2.INTER_AREA)
        colours = cv2.resize(values, half, interpolation=cv2.INTER_AREA)
        full = np.minimum(1, smaller * 4) / np.maximum(smaller, 1e-6)
        levels.append((colours * full[..., None], smaller * full))
    values, weight = levels[-1]
    filled = values / np.maximum(weight, 1e-6)[..., None]
    if not (weight > 0).all():
        mean = values.sum((0, 1)) / max(float(weight.sum()), 1e-6)
        filled[weight <= 0] = mean
    for values, weight in reversed(levels[:-1]):
        below = cv2.resize(filled, (weight.shape[1], weight.shape[0]), interpolation=cv2.INTER_LINEAR)
        mix = weight[..., None]
        filled = values + below * (1 - mix)
        for _ in range(relax):
            filled = values + cv2.blur(filled, (3, 3), borderType=cv2.BORDER_REFLECT) * (1 - mix)
    return np.asarray(filled, np.float32)


def grain_level(rgb: np.ndarray, known: np.ndarray) -> float:
    """Standard deviation of the picture's noise, 0..255, from the flattest known pixels."""
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    inside = cv2.erode(known.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    if inside.sum() < 64:
        return 0.0
    # Immerkaer's kernel has no response to planes; its spread is 6 times the noise's.
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = np.abs(cv2.filter2D(gray, -1, kernel)[inside])
    return float(np.median(response) / 0.6745 / 6)


def add_grain(filled: np.ndarray, known: np.ndarray, level: float, seed: int) -> np.ndarray:
    """Noise of standard deviation ``level`` where a picture (float32) was filled in, so that it does not look plastic: uint8."""
    noise = np.random.default_rng(seed).normal(0, 1, filled.shape[:2]).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), 0.7)
    noise *= level / max(float(noise.std()), 1e-6)
    soft = cv2.GaussianBlur(1 - known.astype(np.float32), (0, 0), 1.0)
    result = filled + (noise * soft)[..., None]
    return np.asarray(np.clip(np.rint(result), 0, 255), np.uint8)


def fill_smooth(rgb: np.ndarray, known: np.ndarray, seed: int = 0) -> np.ndarray:
    """``rgb`` with its unknown pixels filled by a membrane and grain; known pixels are not touched."""
    if known.all():
        return rgb.copy()
    result = add_grain(membrane(rgb, known), known, grain_level(rgb, known), seed)
    result[known] = rgb[known]
    return result


class Lama:
    """LaMa, the paper's inpainter, from a TorchScript file (``big-lama.pt``), run by simple-lama-inpainting on the CPU.

    Raises:
        ModelError: ``model_damaged`` where the file cannot be loaded.
    """

    LONGEST_SIDE = 1024
    """Larger pictures are filled at this size: LaMa was trained on small ones, and its memory grows with the area."""

    def __init__(self, path: Path) -> None:
        import torch
        from simple_lama_inpainting import SimpleLama

        try:
            os.environ["LAMA_MODEL"] = str(path)  # the package's only way to name a file
            self._network = SimpleLama(torch.device("cpu"))
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                "model_damaged", f"{path} is not a TorchScript file that can be loaded: {error}", "Register the file again."
            ) from error

    def __call__(self, rgb: np.ndarray, known: np.ndarray) -> np.ndarray:
        """``rgb`` with its unknown pixels filled; known pixels are not touched."""
        height, width = rgb.shape[:2]
        scale = min(1.0, self.LONGEST_SIDE / max(height, width))
        size = (round(width * scale), round(height * scale))
        small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        hole = cv2.resize((~known).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        # The package pads to a multiple of 8, because the network halves three times, and leaves the padding on.
        filled = np.asarray(self._network(small, hole))[: size[1], : size[0]]
        result = cv2.resize(filled, (width, height), interpolation=cv2.INTER_CUBIC)
        result[known] = rgb[known]
        return np.asarray(result, np.uint8)
