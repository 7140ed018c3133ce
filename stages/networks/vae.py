"""Between pictures and latents, a few at a time. Any of diffusers' autoencoders of pictures will do."""

from __future__ import annotations

from typing import TypeAlias

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from stages.networks.runtime import compiled_where

VAE: TypeAlias = AutoencoderKL | AutoencoderTiny


def scale_factor(vae: VAE) -> int:
    """Pixels per latent pixel along one side."""
    channels = vae.config.get("block_out_channels") or vae.config["encoder_block_out_channels"]
    return int(2 ** (len(channels) - 1))


def encode(vae: VAE, pictures: Tensor, at_once: int = 4) -> Tensor:
    """Latents of pictures, of unit variance or so.

    Args:
        vae: the autoencoder.
        pictures: [n, 3, height, width] in 0..1.
        at_once: pictures that it takes together; bounds the memory.

    Returns:
        [n, 4, height / 8, width / 8], the means of the posterior: nothing is drawn.
    """
    latents = []
    for part in (pictures * 2 - 1).to(vae.dtype).split(at_once):
        encoded = vae.encode(part)
        means = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        latents.append(means * vae.config.scaling_factor)
    return torch.cat(latents)


def decode(vae: VAE, latents: Tensor, at_once: int = 4, *, compiled: bool = True) -> Tensor:
    """Pictures [n, 3, height, width] in 0..1 (clipped, infinity as NaN) of latents [n, 4, height / 8, width / 8].

    Args:
        vae: the autoencoder.
        latents: as above.
        at_once: latents that it takes together.
        compiled: whether a compiled decoder is used as such, for whole batches.
    """
    scaled = (latents / vae.config.scaling_factor).to(vae.dtype)
    pictures = []
    for part in scaled.split(at_once):
        with compiled_where(compiled and len(part) == at_once, vae.decoder):
            pictures.append(vae.decode(part).sample)
    decoded = torch.cat(pictures).float() / 2 + 0.5
    # Clipped, infinity would pass for white or black.
    return decoded.masked_fill_(decoded.isinf(), torch.nan).clamp(0, 1)
