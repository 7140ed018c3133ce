"""What frames are generated from, read as it is needed; and predictions under these conditions."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from diffusers import SchedulerMixin
from numpy.typing import NDArray
from torch import Tensor

from schemas.problems import UsageError
from stages.networks import vae as autoencoder
from stages.networks.attention import KeysValues
from stages.networks.denoising_net import DenoisingNet
from stages.networks.image_encoder import to_unit_range
from stages.networks.pose_guider import PoseGuider, SingleScalePoseGuider
from stages.networks.runtime import compiled_where
from stages.networks.sampling import SamplingOptions
from stages.networks.windows import Window


@dataclass(frozen=True, eq=False)
class SourceFeatures:
    """What the networks know of a source; the same in all its videos, frames and steps.

    Attributes:
        tokens: of the ImageEncoder, [1, 1, token_channels].
        reference: keys and values for each self-attention of the DenoisingNet.
    """

    tokens: Tensor
    reference: dict[str, KeysValues]


@dataclass(frozen=True, eq=False)
class FrameConditions:
    """What a frame is generated from.

    Attributes:
        frame: its number in the clip.
        drawing: uint8 RGB [size, size, 3], the aligned landmarks, drawn.
        background: uint8 RGB [size, size, 3], what is behind the whole person, with the surviving cloth.
    """

    frame: int
    drawing: NDArray[np.uint8]
    background: NDArray[np.uint8]


def check_picture(picture: NDArray[np.uint8], what: str, factor: int) -> None:
    """``UsageError`` for a picture that the networks cannot take: sides must be multiples of ``factor``."""
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise UsageError([f"{what} must be uint8 [height, width, 3], not {picture.dtype} {list(picture.shape)}."])
    height, width = picture.shape[:2]
    if height % factor or width % factor:
        raise UsageError([f"{what} is {width}x{height} pixels; its sides must be multiples of {factor}."])


class FrameInputs:
    """The conditions of the frames that are under way.

    Args:
        vae: encodes backgrounds, each once.
        denoising_net: says whether it has a background at all, and its precision.
        conditions: frames ascending; read no further than asked for.
        at_once: backgrounds that the VAE takes together.

    Attributes:
        at_once: the same; may be changed while frames are under way.
    """

    def __init__(
        self, vae: autoencoder.VAE, denoising_net: DenoisingNet, conditions: Iterable[FrameConditions], at_once: int
    ) -> None:
        self._vae = vae
        self._conditions = iter(conditions)
        self.at_once = at_once
        self._channels = int(denoising_net.config.out_channels)
        self._has_background = denoising_net.config.in_channels != self._channels
        # A network of diffusers walks all its modules to say these.
        self._device, self._dtype = denoising_net.device, denoising_net.dtype
        # Of each frame its drawing, packed (lines on black: a hundredth of it), and its background until that is encoded.
        # Windows that are under way are many, and their pictures would take more memory than all else that is kept of them.
        self._drawings: dict[int, bytes] = {}
        self._pictures: dict[int, NDArray[np.uint8]] = {}
        self._backgrounds: dict[int, Tensor] = {}
        self._shape: tuple[int, ...] = ()
        self._last = -1

    @property
    def first(self) -> int:
        """The earliest frame that is still there."""
        return min(self._drawings)

    def latent_shape(self, frame: int) -> tuple[int, int, int]:
        """Shape of a frame's latents."""
        self._read(frame)
        height, width = self._shape[:2]
        factor = autoencoder.scale_factor(self._vae)
        return self._channels, height // factor, width // factor

    def drawings(self, window: Window) -> Tensor:
        """float32 [1, 3, frames, size, size] in 0..1."""
        pictures = np.stack([self._drawing(frame) for frame in window])
        return to_unit_range(pictures, self._device).transpose(0, 1)[None]

    def backgrounds(self, window: Window) -> Tensor | None:
        """Latents [channels, frames, height, width], or None for a network without a background."""
        if not self._has_background:
            return None
        missing = [frame for frame in window if frame not in self._backgrounds]
        if missing:
            for frame in missing:
                self._read(frame)
            pixels = to_unit_range(np.stack([self._pictures[frame] for frame in missing]), self._device)
            latents = autoencoder.encode(self._vae, pixels, self.at_once).to(self._dtype)
            self._backgrounds.update(zip(missing, latents, strict=True))
            for frame in missing:
                del self._pictures[frame]
        return torch.stack([self._backgrounds[frame] for frame in window], 1)

    def forget_before(self, frame: int) -> None:
        """Drop what belongs to earlier frames."""
        for old in [number for number in self._drawings if number < frame]:
            del self._drawings[old]
            self._pictures.pop(old, None)
            self._backgrounds.pop(old, None)

    def _drawing(self, frame: int) -> NDArray[np.uint8]:
        self._read(frame)
        return np.frombuffer(zlib.decompress(self._drawings[frame]), np.uint8).reshape(self._shape)

    def _read(self, frame: int) -> None:
        while self._last < frame:
            new = next(self._conditions, None)
            if new is None:
                raise UsageError(
                    [f"The conditions end before frame {frame}."], "Give all frames that the plan of the chunk names."
                )
            if new.frame <= self._last:
                raise UsageError([f"The conditions of frame {new.frame} come after those of frame {self._last}."])
            for picture, what in ((new.drawing, "drawing"), (new.background, "background")):
                check_picture(picture, f"The {what} of frame {new.frame}", autoencoder.scale_factor(self._vae))
                self._shape = self._shape or new.drawing.shape
                if picture.shape != self._shape:
                    raise UsageError([f"The {what} of frame {new.frame} has another size than the frames before it."])
            self._drawings[new.frame] = zlib.compress(new.drawing.tobytes(), 1)
            if self._has_background:
                self._pictures[new.frame] = new.background
            self._last = new.frame
        if frame not in self._drawings:
            raise UsageError(
                [f"The conditions of frame {frame} are missing."], "Give all frames that the plan of the chunk names."
            )


class Networks(Protocol):
    """What a ``Predictor`` needs of a pipeline."""

    denoising_net: DenoisingNet
    pose_guider: PoseGuider | SingleScalePoseGuider
    scheduler: SchedulerMixin


class Predictor:
    """Predictions for windows, with guidance.

    Classifier-free guidance computes each window twice, as rows of one batch: without the source (no reference, a token of
    zeros) and with it; landmarks and background are the same.

    Args:
        networks: the pipeline; how many steps its scheduler takes has been set.
        source: whose head.
        inputs: conditions of the frames.
        options: guidance and the memory for pose features.
        whole_batch: both rows together; otherwise one after the other, in less memory.
    """

    def __init__(
        self, networks: Networks, source: SourceFeatures, inputs: FrameInputs, options: SamplingOptions, whole_batch: bool = True
    ) -> None:
        self._net = networks.denoising_net
        self._guider = networks.pose_guider
        self._source = source
        self._inputs = inputs
        self._options = options
        self._whole_batch = whole_batch
        self._poses: dict[Window, tuple[Tensor, ...]] = {}
        self._pose_bytes = 0
        # Once for all windows and steps: a copy to a GPU waits for it, and diffusers' networks walk all their modules to say
        # their precision.
        self._dtype, self._pose_dtype = self._net.dtype, self._guider.dtype
        self._timesteps = networks.scheduler.timesteps.to(self._net.device)
        train_timesteps = networks.scheduler.config.num_train_timesteps
        self._guided = [options.guided(float(timestep), train_timesteps) for timestep in networks.scheduler.timesteps]
        self._nothing = torch.zeros_like(source.tokens)
        self._both = torch.cat([self._nothing, source.tokens])

    def __call__(self, window: Window, latents: Tensor, step: int) -> Tensor:
        """The guided prediction [channels, frames, height, width], float32, for a window's latents of the same shape."""
        timestep = self._timesteps[step]
        background = self._inputs.backgrounds(window)
        row = latents.to(self._dtype)
        row = (row if background is None else torch.cat([row, background]))[None]
        pose = self._pose(window)
        with compiled_where(self._whole_batch and len(window) == self._options.window, self._net):
            return self._predicted(row, timestep, pose, len(window) > 1, step)

    def _predicted(self, row: Tensor, timestep: Tensor, pose: tuple[Tensor, ...], motion: bool, step: int) -> Tensor:
        """With guidance where the step has it. ``motion``: as in training, a single frame has none."""
        tokens, reference = self._source.tokens, self._source.reference
        if not self._guided[step]:
            return self._net(row, timestep, tokens, pose, reference, motion)[0].float()
        if self._whole_batch:
            both = self._net(row.expand(2, *row.shape[1:]), timestep, self._both, pose, reference, motion)
            without, given = both.float()
        else:
            without = self._net(row, timestep, self._nothing, pose, None, motion)[0].float()
            given = self._net(row, timestep, tokens, pose, reference, motion)[0].float()
        return without + self._options.guidance_scale * (given - without)

    def forget(self, window: Window) -> None:
        """Drop what was kept for a window that is done."""
        for feature in self._poses.pop(window, ()):
            self._pose_bytes -= feature.nbytes

    def _pose(self, window: Window) -> tuple[Tensor, ...]:
        if window in self._poses:
            return self._poses[window]
        low, high = self._guider.value_range
        drawings = self._inputs.drawings(window) * (high - low) + low
        features: tuple[Tensor, ...] = self._guider(drawings.to(self._pose_dtype))
        size = sum(feature.nbytes for feature in features)
        if self._pose_bytes + size <= self._options.pose_cache_bytes:
            self._poses[window] = features
            self._pose_bytes += size
        return features
