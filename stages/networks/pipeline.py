"""HeadSwapPipeline: all networks of the renderer together, as a diffusers pipeline that generates videos window by window."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from schemas.problems import ModelError
from stages.networks import vae as autoencoder
from stages.networks.appearance_net import AppearanceNet
from stages.networks.conditions import FrameConditions, FrameInputs, Predictor, SourceFeatures, check_picture
from stages.networks.denoising_net import DenoisingNet
from stages.networks.image_encoder import reference_tokens, to_unit_range
from stages.networks.pose_guider import PoseGuider, SingleScalePoseGuider
from stages.networks.runtime import is_out_of_memory
from stages.networks.sampling import WINDOWS_KEPT, OnStep, SamplingOptions, denoise
from stages.networks.schedulers import require_deterministic, set_steps
from stages.networks.windows import frame_noise

Note = Callable[[str], None]

_SMALLEST_WINDOW = 4
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class GeneratedFrame:
    """A generated frame.

    Attributes:
        frame: its number in the clip.
        picture: uint8 RGB [size, size, 3].
    """

    frame: int
    picture: NDArray[np.uint8]


class HeadSwapPipeline(DiffusionPipeline):
    """The diffusion renderer.

    ``save_pretrained`` and ``from_pretrained`` are those of diffusers; weights are safetensors. The scheduler can be exchanged
    (``stages.networks.schedulers.make_scheduler``). ``stages.networks.presets`` builds one with untrained weights,
    ``stages.networks.convert`` one from published weights.

    Args:
        vae: pictures to latents and back.
        image_encoder: the reference's token.
        appearance_net: the reference's features.
        denoising_net: predictions.
        pose_guider: features of drawn landmarks.
        scheduler: noise schedule and solver, deterministic.
    """

    model_cpu_offload_seq = "image_encoder->appearance_net->pose_guider->denoising_net->vae"

    vae: autoencoder.VAE
    image_encoder: CLIPVisionModelWithProjection
    appearance_net: AppearanceNet
    denoising_net: DenoisingNet
    pose_guider: PoseGuider | SingleScalePoseGuider
    scheduler: SchedulerMixin

    def __init__(
        self,
        vae: autoencoder.VAE,
        image_encoder: CLIPVisionModelWithProjection,
        appearance_net: AppearanceNet,
        denoising_net: DenoisingNet,
        pose_guider: PoseGuider | SingleScalePoseGuider,
        scheduler: SchedulerMixin,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            image_encoder=image_encoder,
            appearance_net=appearance_net,
            denoising_net=denoising_net,
            pose_guider=pose_guider,
            scheduler=scheduler,
        )

    @torch.no_grad()
    def prepare_source(self, picture: NDArray[np.uint8]) -> SourceFeatures:
        """Read a source, once for all that is generated from it.

        Args:
            picture: uint8 RGB [size, size, 3], the head alone on white; sides a multiple of 8.
        """
        check_picture(picture, "The reference", autoencoder.scale_factor(self.vae))
        pixels = to_unit_range(picture[None], self.device)
        tokens = reference_tokens(self.image_encoder, pixels).to(self.denoising_net.dtype)
        latents = autoencoder.encode(self.vae, pixels).to(self.appearance_net.dtype)
        features, _ = self.appearance_net(latents, tokens)
        return SourceFeatures(tokens, self.denoising_net.project_reference(features))

    @torch.no_grad()
    def stream(
        self,
        source: SourceFeatures,
        conditions: Iterable[FrameConditions],
        shot: range,
        chunk: range | None = None,
        options: SamplingOptions | None = None,
        *,
        note: Note = _log.warning,
        on_step: OnStep | None = None,
    ) -> Iterator[GeneratedFrame]:
        """Generate the frames of a chunk, each handed on as soon as it is finished.

        Memory does not grow with the length of the chunk: conditions are read as they are needed, and forgotten. Where memory
        runs out all the same, guidance is computed in two halves, and nothing is kept or taken together that need not be (the
        same result; nearly the same where windows are blended at every step and frames have been handed on already, because
        those that follow begin anew). Then windows are made smaller.

        Args:
            source: from ``prepare_source``.
            conditions: of the frames ``plan_chunk(shot, chunk, ...).frames``, in order: those of the chunk and some around it.
            shot: all frames of the shot that the chunk is part of; windows lie on a grid that begins with it.
            chunk: the frames wanted; default: the shot.
            options: default ``SamplingOptions()``.
            note: told what was done otherwise than asked for.
            on_step: told every step, for progress bars.

        Raises:
            UsageError: wrong options, pictures or frames.
            ModelError: ``out_of_memory`` even with the smallest windows; ``pictures_not_finite``.
        """
        options = options or SamplingOptions()
        options.check()
        self.scheduler = require_deterministic(self.scheduler)
        set_steps(self.scheduler, options.steps)
        chunk = shot if chunk is None else chunk
        if not len(chunk):
            return
        first = chunk.start
        inputs = FrameInputs(self.vae, self.denoising_net, conditions, options.vae_slice)
        whole_batch = True
        while True:
            plan = options.plan(shot, chunk)
            predictor = Predictor(self, source, inputs, options, whole_batch)
            noise = partial(_noise, options, inputs.latent_shape(plan.frames.start), self.device)
            finished = denoise(
                plan.windows,
                predictor,
                self.scheduler,
                noise,
                overlap=options.overlap,
                blend=options.blend,
                kept=WINDOWS_KEPT if options.overlap else None,  # windows alone follow each other, two at a time
                on_step=on_step,
                on_window_left=predictor.forget,
            )
            try:
                for generated in self._decoded(finished, chunk, options.vae_slice, whole_batch):
                    yield generated
                    chunk = range(generated.frame + 1, chunk.stop)
                    inputs.forget_before(chunk.start - options.window * (1 + options.context))
                return
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                # Outside of this block the exception no longer holds the tensors that were in the way.
            del finished, predictor
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            # What was handed on stays; what follows is planned anew on the frames whose conditions are still there, from where
            # a window begins, so that those to come are the same. Blended at every step, a window also depends on those before
            # its context; to compute these again all frames of the chunk would have to be kept.
            there = [window[0] for window in plan.windows if window[0] >= inputs.first]
            shot = range(min(there, default=inputs.first), plan.frames.stop)
            if whole_batch:
                whole_batch, options = False, replace(options, vae_slice=1, pose_cache_bytes=0)
                inputs.at_once = options.vae_slice
                same = "the same" if options.blend == "end" or chunk.start == first else "nearly the same"
                note(
                    "Memory ran out: guidance is computed in two halves, features of landmarks at every step and pictures "
                    f"one by one, with {same} result."
                )
            else:
                options = _smaller(options, note)

    @torch.no_grad()
    def __call__(
        self,
        reference: NDArray[np.uint8],
        drawings: NDArray[np.uint8],
        backgrounds: NDArray[np.uint8],
        options: SamplingOptions | None = None,
    ) -> NDArray[np.uint8]:
        """A whole short video at once; ``stream`` is made for long ones.

        Args:
            reference: uint8 RGB [size, size, 3], the head alone on white.
            drawings: uint8 RGB [frames, size, size, 3], aligned landmarks, drawn.
            backgrounds: uint8 RGB [frames, size, size, 3].
            options: default ``SamplingOptions()``.

        Returns:
            uint8 RGB [frames, size, size, 3].
        """
        conditions = (
            FrameConditions(frame, drawing, background)
            for frame, (drawing, background) in enumerate(zip(drawings, backgrounds, strict=True))
        )
        source = self.prepare_source(reference)
        frames = self.stream(source, conditions, range(len(drawings)), options=options)
        return np.stack([generated.picture for generated in frames])

    def _decoded(
        self, finished: Iterator[tuple[int, Tensor]], chunk: range, at_once: int, compiled: bool
    ) -> Iterator[GeneratedFrame]:
        """Pictures of the finished latents that belong to the chunk; stops after its last frame."""
        waiting: list[tuple[int, Tensor]] = []
        for frame, done in finished:
            if frame not in chunk:
                continue
            waiting.append((frame, done))
            last = frame == chunk[-1]
            if len(waiting) == at_once or last:
                numbers = [number for number, _ in waiting]
                pixels, broken = self._pixels(torch.stack([item for _, item in waiting]), at_once, compiled)
                waiting.clear()
                for number, picture, is_broken in zip(numbers, pixels, broken, strict=True):
                    if is_broken:
                        raise _not_finite(number, self.denoising_net.dtype)
                    yield GeneratedFrame(number, picture)
            if last:
                return

    def _pixels(self, latents: Tensor, at_once: int, compiled: bool) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """uint8 [n, height, width, 3] of latents, and which of these pictures are not finite."""
        pictures = autoencoder.decode(self.vae, latents, at_once, compiled=compiled)
        pixels = (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        broken = ~(_finite(latents) & _finite(pictures))
        # Both in one copy: every copy from a GPU waits for it.
        told = torch.cat([pixels.flatten(1), broken[:, None].to(torch.uint8)], 1).cpu().numpy()
        return told[:, :-1].reshape(pixels.shape), told[:, -1] > 0


def _noise(options: SamplingOptions, shape: tuple[int, ...], device: torch.device, frame: int) -> Tensor:
    return frame_noise(options.seed, frame, shape, options.shared_noise).to(device)


def _finite(values: Tensor) -> Tensor:
    """Of each item of a batch, whether all its numbers are."""
    return values.isfinite().flatten(1).all(1)


def _not_finite(frame: int, dtype: torch.dtype) -> ModelError:
    precision = str(dtype).removeprefix("torch.")
    others = {"float16": "float32 or bfloat16", "bfloat16": "float32"}.get(precision)
    check = "check the pipeline's weights (`headswap models verify`), or use others."
    return ModelError(
        "pictures_not_finite",
        f"Frame {frame} came out as NaN or infinity where the pipeline computed in {precision}.",
        f"Compute in {others} (`--set stages.render.diffusion.precision=float32`); or {check}"
        if others
        else f"{check[0].upper()}{check[1:]}",
    )


def _smaller(options: SamplingOptions, note: Note) -> SamplingOptions:
    """Options with windows of half the size."""
    if options.window <= _SMALLEST_WINDOW:
        raise ModelError(
            "out_of_memory",
            f"Memory ran out even with windows of {options.window} frames.",
            "Free memory on the device, use half precision, or smaller pictures.",
            retryable=True,
        )
    window = max(options.window // 2, _SMALLEST_WINDOW)
    overlap = min(options.overlap, window // 2)
    note(f"Memory ran out: windows of {window} instead of {options.window} frames; motion may be less steady.")
    return replace(options, window=window, overlap=overlap)
