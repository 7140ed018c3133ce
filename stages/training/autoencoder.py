"""Training of the autoencoder: pieces of pictures, colours and edges, a small divergence; then frozen and measured."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderTiny
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.networks import vae as autoencoder
from stages.training import losses
from stages.training.ahead import SamplesAhead
from stages.training.batches import chance, coming_numbers, planes, resized, sample_numbers
from stages.training.recipe import AutoencoderPhase
from stages.training.samples import SampleSource, TrainingSample


class _RoundTrip(nn.Module):
    """Encoder, noise, decoder."""

    def __init__(self, vae: autoencoder.VAE, noise: float) -> None:
        super().__init__()
        self.vae, self._noise = vae, noise

    def forward(self, pictures: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures [n, 3, height, width] in -1..1 and standard normal noise of the latents' shape -> pictures, divergence."""
        if isinstance(self.vae, AutoencoderTiny):
            # It has no posterior: one of fixed deviation, whose divergence is half the mean square (but for a constant).
            latents = self.vae.encode(pictures).latents
            divergence = 0.5 * latents.float().square().mean()
            return self.vae.decode(latents + self._noise * noise.to(latents.dtype)).sample, divergence
        posterior = self.vae.encode(pictures).latent_dist
        latents = posterior.mean + posterior.std * noise.to(posterior.mean.dtype)
        return self.vae.decode(latents).sample, losses.divergence(posterior.mean.float(), posterior.logvar.float())


class AutoencoderTask:
    """A phase of kind ``autoencoder``: a ``stages.training.loop.Task``.

    All kinds of pictures that it will meet are shown: targets half of the time, references (heads on white) and condition
    images a quarter each; cut at any place, mirrored half of the time.

    Args:
        vae: trained in place. phase: of the recipe. source: of the samples. seed: of all chance.
        accelerator: device, precision, processes.
        validate: called with the step; returns metrics.
    """

    def __init__(
        self,
        vae: autoencoder.VAE,
        phase: AutoencoderPhase,
        source: SampleSource,
        seed: int,
        accelerator: Accelerator,
        validate: Callable[[int], dict[str, float]],
    ) -> None:
        self._phase, self._source, self._seed, self._accelerator = phase, source, seed, accelerator
        self._known: dict[int, NDArray[np.uint8]] = {}
        self._factor = autoencoder.scale_factor(vae)
        self._channels = int(vae.config.latent_channels)
        self.module = _RoundTrip(vae.to(accelerator.device).requires_grad_(True), phase.noise)
        self.trained = dict(self.module.named_parameters())
        self.validate = validate

    def losses(self, module: nn.Module, batch: int) -> dict[str, Tensor]:
        """Colours, edges, divergence, tint if it has a weight, and their weighted sum ``loss`` for the batch with this number."""
        phase, accelerator = self._phase, self._accelerator
        process, processes = accelerator.process_index, accelerator.num_processes
        random = chance(self._seed, phase.name, "pieces", batch, process)
        if isinstance(self._source, SamplesAhead):
            coming = coming_numbers(batch, phase.batches, phase.batch, process, processes, self._source.workers)
            self._source.announce((number for number in map(self._place, coming) if number not in self._known), 1)
        pieces = np.stack([self._piece(number, random) for number in sample_numbers(batch, phase.batch, process, processes)])
        truth = planes(pieces).to(accelerator.device).float() / 127.5 - 1
        side = phase.crop // self._factor
        noise = torch.randn(phase.batch, self._channels, side, side, generator=random).to(accelerator.device)
        pictures, divergence = module(truth, noise)
        colours, edges = losses.reconstruction_loss(pictures.float(), truth)
        found = {"colours": colours, "edges": edges, "divergence": divergence}
        loss = colours + phase.edges * edges + phase.divergence * divergence
        if phase.tint:
            found["tint"] = losses.tint_loss(pictures.float(), truth, self._factor)
            loss = loss + phase.tint * found["tint"]
        return {"loss": loss, **found}

    def _piece(self, number: int, random: torch.Generator) -> NDArray[np.uint8]:
        kind, mirrored = torch.rand(2, generator=random).tolist()
        top, left = torch.randint(self._phase.size - self._phase.crop + 1, (2,), generator=random).tolist()
        target, condition, reference = self._pictures(number)
        picture = target if kind < 0.5 else condition if kind < 0.75 else reference
        piece = picture[top : top + self._phase.crop, left : left + self._phase.crop]
        if self._phase.recoloured and float(torch.rand((), generator=random)) < self._phase.recoloured:
            piece = piece[..., torch.randperm(3, generator=random).numpy()]
        return piece[:, ::-1] if mirrored < 0.5 else piece

    def _pictures(self, number: int) -> NDArray[np.uint8]:
        """uint8 [3, size, size, 3]: target, condition image and reference of a sample."""
        number = self._place(number)
        if number in self._known:
            return self._known[number]
        pictures = _pictures_of(resized(self._source.sample(number, 1), self._phase.size))
        if self._phase.cached_samples is not None:
            self._known[number] = pictures
        return pictures

    def _place(self, number: int) -> int:
        return number if self._phase.cached_samples is None else number % self._phase.cached_samples


def _pictures_of(sample: TrainingSample) -> NDArray[np.uint8]:
    return np.stack([sample.target[0], sample.background[0], sample.reference])


def measured_scaling(vae: autoencoder.VAE, samples: list[TrainingSample]) -> float:
    """The factor that gives the latents of targets unit variance (the ``scaling_factor`` of latent diffusion).

    Of targets alone, because they alone get noise: references are mostly white and would make the factor that of other pictures.
    """
    pictures = planes(np.stack([sample.target[0] for sample in samples]))
    with torch.no_grad():
        latents = autoencoder.encode(vae, pictures.to(vae.device).float() / 255)
    return float(vae.config.scaling_factor / latents.float().std())
