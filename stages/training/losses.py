"""The losses of the paper (Loss & Training): L = L_LDM + L_id, and those of the autoencoder. Functions of tensors.

Notation: ``x_t = sqrt(a) x_0 + sqrt(1 - a) eps`` with ``a`` the cumulative product of the noise schedule's alphas
(``alphas_cumprod``), ``eps`` standard normal noise and ``SNR = a / (1 - a)``.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Prediction = Literal["epsilon", "v_prediction"]


def offset_noise(noise: Tensor, offset: Tensor, strength: float) -> Tensor:
    """Noise whose mean varies from picture to picture, so that the overall brightness is learned too (noise offset).

    Args:
        noise: standard normal, [rows, channels, frames, height, width].
        offset: standard normal, [rows, channels, 1, 1, 1]: the same in all frames of a window.
        strength: of the offset; the relatives of the paper take 0.05.
    """
    return noise + strength * offset


def add_noise(latents: Tensor, noise: Tensor, alphas: Tensor) -> Tensor:
    """``x_t`` of latents ``x_0`` [rows, ...]; ``alphas``: a of each row, [rows]."""
    signal = _per_row(alphas, latents)
    return signal.sqrt() * latents + (1 - signal).sqrt() * noise


def training_target(latents: Tensor, noise: Tensor, alphas: Tensor, prediction: Prediction) -> Tensor:
    """What the DenoisingNet should predict: ``eps``, or the velocity ``sqrt(a) eps - sqrt(1 - a) x_0`` (Salimans & Ho 2022)."""
    if prediction == "epsilon":
        return noise
    signal = _per_row(alphas, latents)
    return signal.sqrt() * noise - (1 - signal).sqrt() * latents


def one_step_reconstruction(noisy: Tensor, predicted: Tensor, alphas: Tensor, prediction: Prediction) -> Tensor:
    """``x_0`` as far as one prediction tells it (paper: "recovers the denoised image from predicted noise").

    From a velocity: ``sqrt(a) x_t - sqrt(1 - a) v``; from noise: ``(x_t - sqrt(1 - a) eps) / sqrt(a)``, which does not exist at
    ``a = 0`` and is zero there.
    """
    signal = _per_row(alphas, noisy)
    if prediction == "v_prediction":
        return signal.sqrt() * noisy - (1 - signal).sqrt() * predicted
    reconstructed = (noisy - (1 - signal).sqrt() * predicted) / signal.clamp_min(1e-6).sqrt()
    return torch.where(signal > 0, reconstructed, torch.zeros_like(reconstructed))


def min_snr_weights(alphas: Tensor, gamma: float | None, prediction: Prediction) -> Tensor:
    """Weights of time steps that keep easy ones from ruling (Hang et al. 2023, "Efficient diffusion training via min-SNR").

    ``min(SNR, gamma) / SNR`` for noise. For velocities ``min(SNR + 1, gamma) / (SNR + 1)``, as the relatives of the paper have
    it: with SNR in place of SNR + 1 in the numerator the step of pure noise, whose SNR is zero under zero terminal SNR, would
    never be trained.

    Args:
        alphas: a of each row, [rows].
        gamma: 5 in the paper of the method; None: all steps weigh 1.

    Returns:
        [rows], at most 1.
    """
    if gamma is None:
        return torch.ones_like(alphas)
    noise = (1 - alphas).clamp_min(1e-8)
    bound = (1 if prediction == "v_prediction" else alphas) / noise  # SNR + 1, or SNR
    return gamma / bound.clamp_min(gamma)


def diffusion_loss(predicted: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """L_LDM: the squared error of each row, weighted, averaged. ``predicted``, ``target``: [rows, ...]; ``weights``: [rows]."""
    error = (predicted.float() - target.float()).square().flatten(1).mean(1)
    return (weights * error).mean()


def head_loss(pictures: Tensor, truth: Tensor, head: Tensor, weights: Tensor) -> Tensor:
    """First half of L_id: L2 over the head.

    Args:
        pictures, truth: [n, 3, height, width] in -1..1.
        head: [n, height, width], 1 inside the head. Pictures without a head count nothing.
        weights: [n], of the noise level: what one step recovers from much noise is a blur that must not be judged.
    """
    inside = head.to(pictures.dtype)[:, None]
    error = ((pictures - truth).square() * inside).flatten(1).sum(1) / (3 * inside.flatten(1).sum(1)).clamp_min(1)
    return (weights * error).mean()


def identity_loss(embeddings: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Second half of L_id: one minus the cosine of identity embeddings [n, channels], weighted by ``weights`` [n]."""
    return (weights * (1 - F.cosine_similarity(embeddings.float(), truth.float(), dim=1))).mean()


TINTS = (
    tuple(4 / math.sqrt(2) * weight for weight in (1, 0, -1)),
    tuple(8 / math.sqrt(6) * weight for weight in (-1, 2, -1)),
)
"""Orange to blue and green to purple, as weights of red, green and blue: orthogonal axes of length 4 and 8, without brightness.
Along such axes of length 1 pictures of rendered performers have deviations of 0.18 and 0.09, along brightness 1.05."""


def reconstruction_loss(pictures: Tensor, truth: Tensor, scales: int = 3) -> tuple[Tensor, Tensor]:
    """What an autoencoder gets wrong: colours, and edges at several scales.

    Edges stand in for the perceptual loss of published autoencoders, which needs a network trained on photographs.

    Args:
        pictures, truth: [n, 3, height, width] in -1..1.
        scales: each after the first has half the resolution of the one before.

    Returns:
        The mean absolute difference of colours (full resolution, and half as much of each lower one); and that of differences
        between neighbouring pixels, horizontal and vertical, summed over the scales.
    """
    colours = (pictures - truth).abs().mean()
    edges = torch.zeros_like(colours)
    for scale in range(scales):
        if scale:
            pictures, truth = F.avg_pool2d(pictures, 2), F.avg_pool2d(truth, 2)
            colours = colours + 0.5 * (pictures - truth).abs().mean()
        difference = pictures - truth
        edges = edges + difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    return colours, edges


def tint_loss(pictures: Tensor, truth: Tensor, cell: int) -> Tensor:
    """What an autoencoder gets wrong of the tints of whole cells: a mean squared difference along ``TINTS``.

    Brightness varies six and twelve times as much as the tints do, and without this the demo preset was seen to learn one after
    the other: after thousands of steps it had no place for what lies between green and purple. It costs detail.

    Args:
        pictures, truth: [n, 3, height, width] in -1..1. cell: side in pixels of what one place of the latents stands for.
    """
    difference = F.avg_pool2d(pictures, cell) - F.avg_pool2d(truth, cell)
    axes = difference.new_tensor(TINTS)
    return torch.einsum("ij,njhw->nihw", axes, difference).square().mean()


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the autoencoder's posterior from a standard normal, mean over the latents' entries."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def psnr(pictures: Tensor, truth: Tensor, region: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in decibels. Pictures [n, 3, height, width] in 0..1; ``region``: bool [n, height, width]."""
    error = (pictures.double() - truth.double()).square().mean(1)
    mean = float(error.mean() if region is None else error[region].mean())
    return -10 * math.log10(max(mean, 1e-12))


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1)).to(like.dtype)
