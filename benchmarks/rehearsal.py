"""The diffusion renderer and its training, rehearsed on a GPU that is pretended: memory, waits, precisions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast
from unittest.mock import patch

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from benchmarks.diffusion import SETTINGS, conditions, pictures
from benchmarks.document import table
from benchmarks.pretended_gpu import PretendedGpu
from schemas.problems import ModelError
from stages.networks import presets
from stages.networks.pipeline import HeadSwapPipeline
from stages.networks.presets import PRESETS
from stages.networks.sampling import SamplingOptions
from stages.training import loop
from stages.training.autoencoder import AutoencoderTask
from stages.training.diffusion import DiffusionTask
from stages.training.identity_network import OnnxNetwork
from stages.training.recipe import AutoencoderPhase, Phase, Recipe
from stages.training.recipe_files import builtin_recipe
from tests.stages.training.made_up_samples import Discs

GIB = 2**30
LENGTHS = (100, 160, 1000)
"""Frames of videos that are sampled as one chunk; with 160 as many windows as a chunk of the usual 120 frames has."""
FEW_FRAMES, FEW_STEPS = 28, 2
LIMITS = (8.0, 7.0, 6.0, 5.6, 5.3)
"""GiB, of which each asks for less than the one before."""


@dataclass(frozen=True)
class Rehearsed:
    """What a rehearsal found.

    Attributes:
        weights: bytes of the networks.
        peak: bytes held at the most.
        peak_at: the line of the project at which that was.
        waits: by line of the project, how often the GPU was waited for.
        precisions: of products, convolutions and attention, and how often each.
        notes: what was done otherwise than asked for.
    """

    weights: int
    peak: int
    peak_at: str
    waits: dict[str, int]
    precisions: dict[str, int]
    notes: list[str]


def sampling(preset: str, frames: int, options: SamplingOptions, *, memory: int | None = None, once: bool = False) -> Rehearsed:
    """A video from reading the source to the last picture, in bfloat16, channels last.

    Args:
        preset: sizes of the networks. frames: of the video. options: of the sampler. memory: of the GPU, bytes.
        once: go through a network once for all that has the same shapes; the next time it takes as much again, but waits and
            precisions are not counted anew. A long video takes minutes so, not hours.

    Raises:
        torch.OutOfMemoryError: the weights alone are too much, or reading the source. ModelError: the smallest windows are.
    """
    pipeline, size = _untrained(preset), PRESETS[preset].picture_size
    gpu = PretendedGpu(memory)
    notes: list[str] = []
    _place(pipeline, gpu, torch.bfloat16, channels_last=True)
    weights = gpu.held
    if once:
        for network in (pipeline.denoising_net, pipeline.pose_guider, pipeline.vae.encoder, pipeline.vae.decoder):
            _go_through_once(network, gpu)
    with gpu:
        source = pipeline.prepare_source(pictures(1, size)[0])
        gpu.waits.clear()
        shot = range(frames)
        for _ in pipeline.stream(source, conditions(frames, size), shot, options=options, note=notes.append):
            pass
    return _found(gpu, weights, notes)


def _go_through_once(network: nn.Module, gpu: PretendedGpu) -> None:
    """Have later calls take the memory that the first one with the same shapes took, and return the like of what it did."""
    forward = network.forward
    known: dict[tuple[Any, ...], tuple[int, str, Any]] = {}

    def remembered(*given: Any, **named: Any) -> Any:
        leaves = tree_leaves((given, named))
        shapes = tuple((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else type(leaf) for leaf in leaves)
        if shapes not in known:
            before, peak, peak_at = gpu.held, gpu.peak, gpu.peak_at
            gpu.begin_peak()
            made = forward(*given, **named)
            known[shapes] = (gpu.peak - before, gpu.peak_at, tree_map(_like, made))
            if gpu.peak < peak:
                gpu.peak, gpu.peak_at = peak, peak_at
            return made
        more, peak_at, likes = known[shapes]
        if gpu.memory is not None and gpu.held + more > gpu.memory:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {gpu.held + more} of {gpu.memory} bytes.")
        if gpu.held + more > gpu.peak:
            gpu.peak, gpu.peak_at = gpu.held + more, peak_at
        return tree_map(lambda like: like(), likes)

    cast(Any, network).forward = remembered


def _like(tensor: Tensor) -> Callable[[], Tensor]:
    """Makes tensors of the same kind, without holding this one."""
    return partial(torch.empty_strided, tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)


def training(recipe: Recipe, phase: Phase, identity: OnnxNetwork | None = None) -> Rehearsed:
    """The second step of a phase in bfloat16 (the first one makes what the optimiser keeps), with a running mean.

    Args:
        recipe: for the preset. phase: of it, or one like it. identity: network of the identity term; changed in place.
    """
    phase = phase.model_copy(update={"optimisation": phase.optimisation.model_copy(update={"precision": "bfloat16"})})
    pipeline, gpu = _untrained(recipe.preset), PretendedGpu()
    _place(pipeline, gpu, None, channels_last=False)
    if identity is not None:
        gpu.place(identity)
    weights = gpu.held
    accelerator = cast(Accelerator, _Accelerator(gpu.device))
    there = (patch.object(kind, "to", lambda self, *given, **named: self) for kind in (nn.Module, HeadSwapPipeline))
    with gpu, next(there), next(there):
        task: AutoencoderTask | DiffusionTask
        samples, seed = Discs(phase.size), recipe.seed
        if isinstance(phase, AutoencoderPhase):
            task = AutoencoderTask(pipeline.vae, phase, samples, seed, accelerator, lambda step: {})
        else:
            task = DiffusionTask(pipeline, phase, samples, seed, accelerator, identity, lambda step: {})
        optimiser = loop._optimiser(task.trained, phase.optimisation)
        averages = loop._running_mean(task.trained, phase.optimisation)
        task.module.train()
        module = _Autocast(task.module, accelerator)
        for step in range(2):
            gpu.begin_peak()
            for counter in (gpu.waits, gpu.precisions):
                counter.clear()
            checkpoints = cast(Any, None)  # which a loss that is not finite would ask for
            loop._step(task, module, optimiser, phase.optimisation, accelerator, phase.name, seed, step, 9, checkpoints)
            if averages is not None:
                averages.step(task.trained.values())
    return _found(gpu, weights, [])


class _Accelerator:
    """What training asks of ``accelerate.Accelerator``, for a device that it does not know."""

    process_index, num_processes, sync_gradients, scaler, is_main_process = 0, 1, True, None, True

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16)

    def accumulate(self, module: nn.Module) -> AbstractContextManager[object]:
        del module
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip_grad_norm_(self, parameters: Sequence[Tensor], most: float) -> Tensor:
        return nn.utils.clip_grad_norm_(list(parameters), most)


class _Autocast(nn.Module):
    """A module as ``accelerate`` prepares it for mixed precision."""

    def __init__(self, module: nn.Module, accelerator: Accelerator) -> None:
        super().__init__()
        self.module, self._accelerator = module, accelerator

    def forward(self, *given: Any) -> Any:
        with self._accelerator.autocast():
            return self.module(*given)


def _untrained(preset: str) -> HeadSwapPipeline:
    with torch.device("meta"):
        pipeline = presets.build(PRESETS[preset])
    pipeline.scheduler = presets.make_scheduler("ddim")  # whose numbers are real
    return pipeline


def _place(pipeline: HeadSwapPipeline, gpu: PretendedGpu, dtype: torch.dtype | None, *, channels_last: bool) -> None:
    """As ``stages.networks.runtime.place``."""
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            gpu.place(part, dtype, channels_last=channels_last and part is not pipeline.image_encoder)


def _found(gpu: PretendedGpu, weights: int, notes: list[str]) -> Rehearsed:
    precisions = {str(dtype).removeprefix("torch."): count for dtype, count in gpu.precisions.items()}
    return Rehearsed(weights, gpu.peak, gpu.peak_at, dict(gpu.waits), precisions, notes)


def rehearsed() -> str:
    """The section of ``docs/benchmarks.md``; in a process of its own, for which the device is made known."""
    command = [sys.executable, "-m", "benchmarks.rehearsal"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _section() -> str:
    head = (
        "## Diffusion on a GPU: memory, rehearsed\n\n"
        "No GPU was at hand: networks without numbers, on a device that is pretended (`benchmarks/pretended_gpu.py`). Counted is "
        "what tensors take at a time, with attention by fused kernels. What PyTorch's allocator rounds up, and what the driver "
        "and libraries take for themselves (of the order of 1 GiB), come on top."
    )
    return "\n\n".join((head, _told_of_sampling(), _told_of_training()))


def _told_of_sampling() -> str:
    rows: list[list[str]] = []
    for preset in ("demo", "full"):
        peaks = [sampling(preset, frames, SETTINGS, once=True).peak for frames in LENGTHS]
        for frames, peak in zip(LENGTHS, peaks, strict=True):
            rows.append([preset, f"{frames:,}", f"{peak / GIB:.3f}", f"{peak / peaks[0]:.3f}"])
            print(rows[-1], file=sys.stderr, flush=True)
    limited: list[list[str]] = []
    for memory in LIMITS:
        few = replace(SETTINGS, steps=FEW_STEPS)
        try:
            told = " ".join(sampling("full", FEW_FRAMES, few, memory=int(memory * GIB)).notes)
        except (ModelError, torch.OutOfMemoryError) as error:
            told = error.message if isinstance(error, ModelError) else "The source cannot be read."
        limited.append([f"{memory:.1f}", told])
        print(limited[-1], file=sys.stderr, flush=True)
    return (
        f"Sampling in bfloat16 with guidance, a video as one chunk in {SETTINGS.steps} steps (goal: within 1.02):\n\n"
        + table(["preset", "frames", "peak, GiB", f"of that of {LENGTHS[0]} frames"], rows)
        + f"\n\n`full` on a GPU with less memory for tensors, {FEW_FRAMES} frames in {FEW_STEPS} steps:\n\n"
        + table(["there is, GiB", "what is done otherwise, and told"], limited)
    )


def _told_of_training() -> str:
    cases: tuple[tuple[str, str, dict[str, Any], bool | None], ...] = (
        *(("full", "single-frames", {"batch": batch, "judged": min(batch, 2)}, None) for batch in (1, 4, 8)),
        ("full", "single-frames", {}, False),
        ("full", "motion", {}, None),
        ("full", "motion", {}, False),
        ("demo-many", "single-frames", {}, None),
        ("demo-many", "motion", {}, None),
    )
    rows: list[list[str]] = []
    for name, phase_name, changes, checkpointing in cases:
        recipe = builtin_recipe(name)
        (phase,) = [one for one in recipe.phases if one.name == phase_name]
        optimisation = phase.optimisation
        if checkpointing is not None:
            optimisation = optimisation.model_copy(update={"gradient_checkpointing": checkpointing})
        phase = phase.model_copy(update={**changes, "optimisation": optimisation})
        found = training(recipe, phase)
        again = "yes" if optimisation.gradient_checkpointing else "no"
        rows.append([f"`{name}`", phase.name, f"{phase.batch}", again, f"{found.weights / GIB:.1f}", f"{found.peak / GIB:.1f}"])
        print(rows[-1], file=sys.stderr, flush=True)
    return "A step of training in bfloat16, with AdamW and a running mean, without an identity network:\n\n" + table(
        ["recipe", "phase", "batch", "gradient checkpointing", "networks, GiB", "peak, GiB"], rows
    )


if __name__ == "__main__":
    print(_section())
