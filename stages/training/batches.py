"""From samples to tensors: resized, encoded once by what is frozen, put together to batches that depend on their number only."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.networks import vae as autoencoder
from stages.training.ahead import SamplesAhead
from stages.training.samples import SampleSource, TrainingSample


@dataclass(frozen=True, eq=False)
class Encoded:
    """A sample as the networks see it; pictures stay uint8 to be small.

    Attributes:
        reference_picture: uint8 [3, size, size]. reference: [4, h, w], its scaled latents.
        target: [4, frames, h, w], latents of what is to be generated. background: [4, frames, h, w], of the condition image.
        drawing: uint8 [3, frames, size, size]. picture: uint8 [3, frames, size, size], the target itself.
        head: bool [frames, size, size]. face_points: float32 [frames, 5, 2].
    """

    reference_picture: Tensor
    reference: Tensor
    target: Tensor
    background: Tensor
    drawing: Tensor
    picture: Tensor
    head: Tensor
    face_points: Tensor


@dataclass(frozen=True, eq=False)
class Batch(Encoded):
    """Samples stacked along a first axis (rows), on the device."""


def stack(samples: Sequence[Encoded], device: torch.device) -> Batch:
    """A batch of samples of one size."""
    names = [field.name for field in fields(Encoded)]
    return Batch(**{name: torch.stack([getattr(sample, name) for sample in samples]).to(device) for name in names})


def resized(sample: TrainingSample, size: int) -> TrainingSample:
    """The sample at another size: pixels are averaged on the way down, interpolated on the way up; the same object if it fits."""
    before = sample.target.shape[1]
    if before == size:
        return sample
    way = cv2.INTER_AREA if size < before else cv2.INTER_CUBIC

    def picture(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(cv2.resize(pixels, (size, size), interpolation=way), np.uint8)

    def pictures(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.stack([picture(frame) for frame in pixels])

    shares = [cv2.resize(mask.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA) for mask in sample.head]
    return replace(
        sample,
        reference=picture(sample.reference),
        target=pictures(sample.target),
        drawing=pictures(sample.drawing),
        background=pictures(sample.background),
        head=np.stack(shares) > 0.5,
        face_points=(sample.face_points * (size / before)).astype(np.float32),
    )


class SampleEncoder:
    """Numbered samples, encoded by the frozen autoencoder.

    Args:
        source: of the samples. vae: frozen. size: of the pictures. frames: of a window.
        kept: only so many different samples, whose tensors are kept; None: always new ones.
        device, dtype: where the VAE is, and the precision of its arithmetic.
    """

    def __init__(
        self, source: SampleSource, vae: autoencoder.VAE, size: int, frames: int, kept: int | None, dtype: torch.dtype
    ) -> None:
        self._source, self._vae, self._size, self._frames, self._kept, self._dtype = source, vae, size, frames, kept, dtype
        self._known: dict[int, Encoded] = {}

    def __call__(self, number: int) -> Encoded:
        """The sample with this number, or with its remainder by ``kept``."""
        if self._kept is None:
            return self.encode(self._source.sample(number, self._frames))
        number %= self._kept
        if number not in self._known:
            self._known[number] = self.encode(self._source.sample(number, self._frames))
        return self._known[number]

    @property
    def workers(self) -> int:
        """Processes that make samples ahead."""
        return self._source.workers if isinstance(self._source, SamplesAhead) else 0

    def announce(self, numbers: Iterable[int]) -> None:
        """Have samples made ahead that will be asked for, where the source can do that."""
        if isinstance(self._source, SamplesAhead):
            kept = self._kept
            if kept is not None:
                numbers = dict.fromkeys(number % kept for number in numbers if number % kept not in self._known)
            self._source.announce(numbers, self._frames)

    @torch.no_grad()
    def encode(self, sample: TrainingSample) -> Encoded:
        """Tensors of a sample, on the CPU."""
        sample = resized(sample, self._size)
        frames = len(sample.target)
        pictures = planes(np.concatenate([sample.reference[None], sample.target, sample.background]))
        device = self._vae.device
        with torch.autocast(device.type, self._dtype, enabled=self._dtype != torch.float32):
            latents = autoencoder.encode(self._vae, pictures.to(device).float() / 255).float().cpu()
        target, background = latents[1:].split(frames)
        return Encoded(
            reference_picture=pictures[0],
            reference=latents[0],
            target=target.transpose(0, 1).contiguous(),
            background=background.transpose(0, 1).contiguous(),
            drawing=planes(sample.drawing).transpose(0, 1).contiguous(),
            picture=pictures[1 : 1 + frames].transpose(0, 1).contiguous(),
            head=torch.from_numpy(np.ascontiguousarray(sample.head)),
            face_points=torch.from_numpy(np.ascontiguousarray(sample.face_points)),
        )


def planes(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 [n, height, width, 3] -> uint8 [n, 3, height, width]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).contiguous()


def chance(*of: int | str) -> torch.Generator:
    """A random generator that is a function of its arguments: of seed, phase, batch and process."""
    digest = hashlib.blake2b(":".join(map(str, of)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


AHEAD = 4
"""Batches whose samples are announced before one is asked for, besides its own; more where they are too small to keep all workers
busy."""

EACH = 2
"""Samples that a worker has ahead of it at least: the one that it makes, and one more."""


def coming_numbers(batch: int, batches: int, rows: int, process: int, processes: int, workers: int = 0) -> list[int]:
    """Numbers of the samples in this process' parts of a batch and of the next ones of ``batches``, in this order.

    The batch itself is among them for the first of a phase: one by one, its samples would wait behind all of the others.
    """
    ahead = max(AHEAD, math.ceil(EACH * workers / rows))
    # What a later phase asks for, of another size maybe, it announces itself.
    coming = range(batch, min(batch + 1 + ahead, batches))
    return [number for one in coming for number in sample_numbers(one, rows, process, processes)]


def sample_numbers(batch: int, rows: int, process: int, processes: int) -> range:
    """Numbers of the samples in this process' part of a batch: no two batches or processes share any."""
    first = (batch * processes + process) * rows
    return range(first, first + rows)
