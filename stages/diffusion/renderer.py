"""The diffusion renderer behind the common interface."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterator
from contextlib import closing, contextmanager

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.cuda import DeferredCudaCallError

from schemas.parameters import DiffusionParameters
from schemas.problems import ModelError
from stages.contract import Work
from stages.diffusion.compose import head_zone, on_background, on_white
from stages.diffusion.conditions import frame_conditions, reference_of, resized
from stages.diffusion.loaded import LoadedPipeline, compiling_failure, device_failure
from stages.networks.registered import registration_of
from stages.networks.sampling import SamplingOptions, computed_ahead
from stages.networks.schedulers import make_scheduler
from stages.renderer import Generated, Portrait, Scene, Section
from stages.segmentation import PersonNetwork
from stages.warm import borrowed


def sampling_options(parameters: DiffusionParameters, seed: int) -> SamplingOptions:
    """The sampler's words for a stage's parameters."""
    return SamplingOptions(
        steps=parameters.steps,
        guidance_scale=parameters.guidance_scale,
        guidance_interval=(parameters.guidance_from, parameters.guidance_until),
        window=parameters.window,
        overlap=parameters.overlap,
        blend=parameters.blend,
        context=parameters.context,
        seed=seed,
        shared_noise=parameters.shared_noise,
    )


@contextmanager
def diffusion_renderer(
    work: Work, parameters: DiffusionParameters, portrait: Portrait, source: Hashable
) -> Iterator[DiffusionRenderer]:
    """A renderer on the pipeline that ``parameters`` name, which stays loaded for the next work.

    What was done otherwise than asked for is written into the work's facts.

    Args:
        work: gives the pipeline's folder, the device, the seed, and is told the progress.
        parameters: of the sampler.
        portrait: of the source.
        source: what the portrait was made from.

    Raises:
        ModelError: ``model_missing``; what is wrong with the weights; ``compiling_failed``; ``device_failed``,
            ``out_of_memory`` (retryable).
    """
    name = parameters.model or "headswap-full"
    folder = work.models.get(name)
    if folder is None:
        raise ModelError(
            "model_missing",
            f"The pipeline {name} of the diffusion renderer is not registered.",
            f"Register one with `headswap models add {name} FOLDER --licence TEXT`, or use --renderer warp, which needs none.",
        )
    record = registration_of(folder)
    notes: list[str] = []
    try:
        with borrowed(
            LoadedPipeline,
            str(folder),
            record.digest,
            record.picture_size,
            work.device,
            parameters.precision,
            parameters.compile,
        ) as loaded:
            options = sampling_options(parameters, work.seed)
            loaded.pipeline.scheduler = make_scheduler(parameters.solver, loaded.schedule)
            yield DiffusionRenderer(loaded, portrait, source, options, note=notes.append, progress=work.progress)
    except (RuntimeError, DeferredCudaCallError, ModelError) as error:
        failure = device_failure(error, work.device) or compiling_failure(error)
        if failure is None:
            raise
        raise failure from error
    if notes and work.chunk is not None:
        work.output.facts["notes"] = [f"Frames {work.chunk.start} to {work.chunk.stop - 1}: {note}" for note in notes]


class DiffusionRenderer:
    """Generates crops with a ``HeadSwapPipeline``: see ``stages.renderer.Renderer``.

    Args:
        loaded: the pipeline.
        portrait: of the source.
        source: what the portrait was made from; its features are computed once.
        options: of the sampler.
        note: told what was done otherwise than asked for.
        progress: told how many frames more are done, counted by steps; in all as many as are wanted.
    """

    def __init__(
        self,
        loaded: LoadedPipeline,
        portrait: Portrait,
        source: Hashable,
        options: SamplingOptions,
        *,
        note: Callable[[str], None],
        progress: Callable[[int], None],
    ) -> None:
        self._loaded = loaded
        self._options = options
        self._note = note
        self._progress = progress
        self._portrait = portrait
        self._source = loaded.source(source, lambda: reference_of(portrait, loaded.picture_size))

    def render(self, section: Section) -> Generator[tuple[Scene, Generated], None, None]:
        """See ``Renderer``. Scenes are read twice, for the conditions and for the composite, rather than held in between."""
        size = self._loaded.picture_size
        plan = self._options.plan(section.shot, section.frames)
        steps = _Steps(len(section.frames), len(plan.frames) * self._options.steps, self._progress)
        # In a thread of their own: the one that hands work to the GPU would leave it idle meanwhile.
        conditions = computed_ahead(frame_conditions(scene, self._portrait, size) for scene in section.scenes(plan.frames))
        generated = computed_ahead(
            self._loaded.pipeline.stream(
                self._source,
                conditions,
                section.shot,
                section.frames,
                self._options,
                note=self._note,
                on_step=steps,
            ),
            thread=self._loaded.thread,
        )
        with closing(conditions), closing(generated), steps:  # the reader ends before what it reads
            for scene, frame in zip(section.scenes(section.frames), generated, strict=True):
                if scene.frame != frame.frame:
                    raise ValueError(f"frame {frame.frame} was generated where {scene.frame} was expected")
                picture, head = self._composed(scene, resized(frame.picture, scene.picture.shape[0]))
                yield scene, Generated(scene.frame, picture, head)
        steps.finish()

    def _composed(self, scene: Scene, picture: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        if self._loaded.sees_background:
            return on_background(scene, picture, head_zone(self._portrait, scene))
        with borrowed(PersonNetwork) as network:
            person = network(picture)
        return on_white(scene, picture, person)


class _UnwantedError(Exception):
    """Ends the networks' work at the next step: a frame may be many steps away, and nobody takes it any more."""


class _Steps:
    """Steps of all frames under way, told as frames: only whole ones, and never more than are wanted.

    As a context manager around the taking of the frames: at its end, also by an error, no more steps are taken.
    """

    def __init__(self, frames: int, steps: int, progress: Callable[[int], None]) -> None:
        self._frames, self._steps, self._progress = frames, steps, progress
        self._taken = self._told = 0
        self._unwanted = False

    def __enter__(self) -> None:
        """What is drawn is wanted until the context ends."""

    def __exit__(self, *exception: object) -> None:
        self._unwanted = True

    def __call__(self, frames: tuple[int, ...], step: int, latents: Tensor) -> None:
        if self._unwanted:
            raise _UnwantedError
        self._taken = min(self._taken + len(frames), self._steps)
        self._tell(self._frames * self._taken // self._steps)

    def finish(self) -> None:
        self._tell(self._frames)

    def _tell(self, done: int) -> None:
        if done > self._told:
            self._progress(done - self._told)
            self._told = done
