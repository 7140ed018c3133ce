"""The diffusion renderer and its training, rehearsed on a GPU that is pretended: memory, waits, precisions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast
from unittest.mock import patch

import torch
from accelerate import Accelerator
from torch import Tensor, nn

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
FRAMES = 304
"""As many windows as steps, so that all that is ever under way at a time is."""
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


def sampling(preset: str, frames: int, options: SamplingOptions, *, memory: int | None = None) -> Rehearsed:
    """A video from reading the source to the last picture, in bfloat16, channels last.

    Args:
        preset: sizes of the networks. frames: of the video. options: of the sampler. memory: of the GPU, bytes.

    Raises:
        torch.OutOfMemoryError: the weights alone are too much, or reading the source. ModelError: the smallest windows are.
    """
    pipeline, size = _untrained(preset), PRESETS[preset].picture_size
    gpu = PretendedGpu(memory)
    notes: list[str] = []
    _place(pipeline, gpu, torch.bfloat16, channels_last=True)
    weights = gpu.held
    with gpu:
        source = pipeline.prepare_source(pictures(1, size)[0])
        gpu.waits.clear()
        shot = range(frames)
        for _ in pipeline.stream(source, conditions(frames, size), shot, options=options, note=notes.append):
            pass
    return _found(gpu, weights, notes)


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
    for preset, memory in (("demo", None), ("full", None), *(("full", gibibytes) for gibibytes in LIMITS)):
        there = "any" if memory is None else f"{memory:.1f}"
        frames, steps = (FRAMES, SETTINGS.steps) if memory is None else (FEW_FRAMES, FEW_STEPS)
        limit = None if memory is None else int(memory * GIB)
        try:
            found = sampling(preset, frames, replace(SETTINGS, steps=steps), memory=limit)
            peak = f"{found.peak / GIB:.2f}" if memory is None else ""
            rows.append([preset, there, peak, " ".join(found.notes)])
        except (ModelError, torch.OutOfMemoryError) as error:
            rows.append([preset, there, "", error.message if isinstance(error, ModelError) else "The source cannot be read."])
        print(rows[-1], file=sys.stderr, flush=True)
    return (
        f"Sampling in bfloat16 with guidance: {FRAMES} frames in {SETTINGS.steps} steps, where as many windows are under way as "
        f"ever are; on a GPU with less memory for tensors {FEW_FRAMES} frames in {FEW_STEPS} steps.\n\n"
        + table(["preset", "there is, GiB", "peak, GiB", "what is done otherwise, and told"], rows)
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
