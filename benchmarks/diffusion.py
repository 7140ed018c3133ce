"""Speed and memory of the diffusion renderer: on the CPU, in the length of the video, and on a GPU against the published plan.

All weights are random: but for zeros, what is measured does not depend on them.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from benchmarks import operations
from benchmarks.document import table
from benchmarks.operations import Counts
from benchmarks.published_plan import PublishedPredictor, published_attention
from stages.networks import presets
from stages.networks import vae as autoencoder
from stages.networks.conditions import FrameConditions, FrameInputs
from stages.networks.image_encoder import reference_tokens, to_unit_range
from stages.networks.pipeline import HeadSwapPipeline
from stages.networks.presets import Preset
from stages.networks.runtime import first_line, place
from stages.networks.sampling import SamplingOptions, denoise
from stages.networks.windows import frame_noise

SETTINGS = SamplingOptions(steps=operations.STEPS, guidance_scale=3.5)
INTERVAL = (0.25, 0.75)
"""Guidance in the middle half of the noise schedule, as Kynkäänniemi et al. (2024) find best for large models."""

COMPUTED = 40
"""Where memory is measured, one in so many predictions is computed: what a network takes is the same every time."""

PEAK_TERAFLOPS = 700.0
"""Rate of dense half precision that the arithmetic floor assumes, as shared by the published comparisons."""


def pictures(count: int, size: int) -> np.ndarray:
    """Noise: uint8 [count, size, size, 3]."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def conditions(frames: int, size: int) -> Iterator[FrameConditions]:
    """Pictures that are alike, but each frame's own: those that are held take memory."""
    (background,) = pictures(1, size)
    # As sparse as lines between landmarks are.
    drawing = np.where(np.random.default_rng(1).random((size, size, 1)) < 0.01, background, np.uint8(0))
    for frame in range(frames):
        yield FrameConditions(frame, drawing.copy(), background.copy())


def generate(pipeline: HeadSwapPipeline, frames: int, size: int, options: SamplingOptions) -> None:
    """A whole video, thrown away."""
    source = pipeline.prepare_source(pictures(1, size)[0])
    for _ in pipeline.stream(source, conditions(frames, size), range(frames), options=options):
        pass


# ------------------------------------------------------------------------------------------------------------------- CPU


def cpu() -> str:
    """Seconds of processor a frame of the demo preset, on one core."""
    preset, frames, steps = presets.DEMO, 28, 4
    torch.set_num_threads(1)
    pipeline = presets.build(preset)
    other = _other_work(pipeline, preset)
    guided, alone = replace(SETTINGS, steps=steps), replace(SETTINGS, steps=steps, guidance_scale=1.0)
    rows = []
    for name, run, options in (
        ("published plan, with guidance", published, guided),
        ("this project's, with guidance", generate, guided),
        ("this project's, without guidance", generate, alone),
    ):
        began = time.process_time()
        run(pipeline, frames, preset.picture_size, options)
        per_step = (time.process_time() - began - other[0] - frames * other[1]) / frames / steps
        rows.append([name, f"{per_step:.3f}", *(f"{count * per_step + other[1]:.1f}" for count in (8, 25))])
    return (
        f"## Diffusion on a CPU: `demo` preset, {preset.picture_size} pixels, one core\n\n"
        f"Processor seconds a frame, from {frames} frames with {steps} steps in windows of 16 with overlap 4:\n\n"
        + table(["plan", "a step", "8 steps", "25 steps"], rows)
        + f"\n\nReading a source takes {other[0]:.2f} s once, coding background and result {other[1]:.2f} s a frame (included)."
    )


def _other_work(pipeline: HeadSwapPipeline, preset: Preset) -> tuple[float, float]:
    """Processor seconds of what is done once a source, and once a frame besides the steps (VAE both ways)."""
    size = preset.picture_size
    began = time.process_time()
    pipeline.prepare_source(pictures(1, size)[0])
    read = time.process_time()
    with torch.no_grad():
        latents = autoencoder.encode(pipeline.vae, to_unit_range(pictures(1, size), torch.device("cpu")))
        autoencoder.decode(pipeline.vae, latents)
    return read - began, time.process_time() - read


# ---------------------------------------------------------------------------------------------------------------- memory


def memory() -> str:
    """Peak memory of 100 and of 1,000 frames, each in a process of its own."""
    preset = presets.DEMO
    peaks = {frames: _peak_of(frames) for frames in (100, 1000)}
    rows = [[f"{frames:,}", f"{peak:.1f}"] for frames, peak in peaks.items()]
    return (
        "## Diffusion: memory and length\n\n"
        f"Peak resident memory of a process that generates a video as one chunk with the `{preset.name}` preset on a CPU, in "
        f"float32, {preset.picture_size} pixels, {SETTINGS.steps} guided steps. One in {COMPUTED} predictions of the "
        "DenoisingNet is computed, everything else always.\n\n"
        + table(["frames", "MiB"], rows)
        + f"\n\nTen times the length takes {peaks[1000] / peaks[100]:.3f} times the memory (goal: within 1.02)."
    )


def _peak_of(frames: int) -> float:
    command = [sys.executable, "-m", "benchmarks.diffusion", str(frames)]
    # glibc raises the size from which memory that is freed goes back at once, and what it keeps hides what is held.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(json.loads(done.stdout.splitlines()[-1]))


def _tell_peak(frames: int) -> None:
    """Peak of the generation alone, MiB: loading libraries takes more for a moment, and would hide it."""
    torch.set_num_threads(1)
    pipeline = presets.build(presets.DEMO)
    size = presets.DEMO.picture_size
    _compute_seldom(pipeline)
    generate(pipeline, 16, size, SETTINGS)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
    generate(pipeline, frames, size, SETTINGS)
    (peak,) = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    print(int(peak) / 1024)


def _compute_seldom(pipeline: HeadSwapPipeline) -> None:
    """Have the DenoisingNet return its latents but for one in ``COMPUTED`` calls: a thousand frames would take hours."""
    network = pipeline.denoising_net
    forward, calls = network.forward, 0

    def seldom(latents: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return forward(latents, *given, **named) if calls % COMPUTED == 0 else latents[:, : network.config.out_channels].clone()

    cast(Any, network).forward = seldom


# ------------------------------------------------------------------------------------------------------------------- GPU


def gpu() -> str:
    """Seconds a frame of the full preset on a GPU, beside the floor and the published plan; skipped, with the reason, without."""
    title = (
        f"## Diffusion on a GPU: `full` preset, 512 pixels, {SETTINGS.steps} steps, guidance {SETTINGS.guidance_scale}, "
        f"{operations.FRAMES} frames\n\n"
    )
    counts = operations.count()
    if not torch.cuda.is_available():
        floor = counts.ours() / operations.FRAMES / PEAK_TERAFLOPS / 1e3
        return (
            f"{title}Not measured: this machine has no GPU. `python -m benchmarks diffusion_gpu` on one measures, and replaces "
            f"this section. The arithmetic floor is {floor:.3f} s a frame at {PEAK_TERAFLOPS:.0f} TFLOP/s."
        )
    return title + _on_gpu(counts)


def _on_gpu(counts: Counts) -> str:
    # First, because it is what all else is compared with. As its scripts run it: float16, the usual memory layout, nothing
    # compiled, no background.
    theirs = place(_filled(presets.build(replace(presets.FULL, background=False))), "cuda", "float16", channels_last=False)
    peers, peers_bytes = _seconds(partial(published, theirs, operations.FRAMES, 512))
    del theirs
    gc.collect()
    torch.cuda.empty_cache()
    share = 1 - _unguided_share()
    rows = [_told(_row("published plan, float16", peers, peers_bytes, counts.theirs(), peers))]
    pipeline = _filled(presets.build(presets.FULL))
    notes = []
    for way, channels_last, compiled in (("", True, False), (", not channels last", False, False), (", compiled", True, True)):
        place(pipeline, "cuda", "bfloat16", channels_last=channels_last, compile_networks=compiled)
        for name, options, giga in (
            ("this project's, bfloat16", SETTINGS, counts.ours()),
            (f"guidance from {INTERVAL[0]} to {INTERVAL[1]}", replace(SETTINGS, guidance_interval=INTERVAL), counts.ours(share)),
        ):
            try:
                seconds, peak = _seconds(partial(generate, pipeline, operations.FRAMES, 512), options)
            except Exception as error:  # what was measured must not be lost to a compiler that is missing
                if not compiled:
                    raise
                notes.append(f"Not compiled ({name}): {type(error).__name__}: {first_line(error)}.")
                continue
            rows.append(_told(_row(f"{name}{way}", seconds, peak, giga, peers)))
    columns = ["plan", "s a frame", "throughput / published", "TFLOP/s", f"of {PEAK_TERAFLOPS:.0f} TFLOP/s", "peak, GiB"]
    told = [
        f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, random weights.",
        table(columns, rows),
        *notes,
        "Pictures are generated and decoded; making the conditions and compositing are not in the figures. Goals: three times "
        "the published plan's throughput at identical settings, five times with a guidance interval, 40 % of the floor. Whether "
        "the interval costs quality can only be said with trained weights.",
    ]
    return "\n\n".join(told)


def _filled(pipeline: HeadSwapPipeline) -> HeadSwapPipeline:
    """Layers that begin as zeros drawn at random: a GPU is faster with zeros, which no trained network has so many of."""
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            for values in part.parameters():
                if not values.any():
                    torch.nn.init.normal_(values, std=0.02)
    return pipeline


def _told(row: list[str]) -> list[str]:
    """At once, so that what was measured is not lost where the rest takes longer than the machine is there."""
    print(json.dumps(row), flush=True)
    return row


def _row(name: str, seconds: float, peak: int, giga: float, peers: float) -> list[str]:
    rate = giga / seconds / 1e3
    return [
        name,
        f"{seconds / operations.FRAMES:.3f}",
        f"{peers / seconds:.2f}",
        f"{rate:.0f}",
        f"{100 * rate / PEAK_TERAFLOPS:.0f} %",
        f"{peak / 2**30:.1f}",
    ]


def _unguided_share() -> float:
    """Share of the steps in which the interval has no guidance."""
    scheduler = presets.make_scheduler("ddim")
    scheduler.set_timesteps(SETTINGS.steps)
    options = replace(SETTINGS, guidance_interval=INTERVAL)
    guided = [options.guided(float(step), scheduler.config.num_train_timesteps) for step in scheduler.timesteps]
    return 1 - sum(guided) / len(guided)


@torch.no_grad()
def published(pipeline: HeadSwapPipeline, count: int, size: int, options: SamplingOptions) -> None:
    """A whole video in the published plan, decoded frame by frame as its scripts do, and thrown away."""
    frames = range(count)
    reference = to_unit_range(pictures(1, size), pipeline.device)
    tokens = reference_tokens(pipeline.image_encoder, reference).to(pipeline.denoising_net.dtype)
    latents = autoencoder.encode(pipeline.vae, reference).to(pipeline.appearance_net.dtype)
    inputs = FrameInputs(pipeline.vae, pipeline.denoising_net, conditions(count, size), 1)
    pipeline.scheduler.set_timesteps(options.steps)
    with published_attention():
        # Its AppearanceNet runs on both rows, the unconditional of which nobody reads.
        features, _ = pipeline.appearance_net(latents.expand(2, *latents.shape[1:]), tokens.expand(2, *tokens.shape[1:]))
        predictor = PublishedPredictor(pipeline, tokens, {key: value[1:] for key, value in features.items()}, inputs, options)
        shape = inputs.latent_shape(0)

        def noise(frame: int) -> torch.Tensor:
            return frame_noise(0, frame, shape).to(pipeline.device)

        plan = options.plan(frames, frames)
        for _, finished in denoise(plan.windows, predictor, pipeline.scheduler, noise, overlap=options.overlap):
            autoencoder.decode(pipeline.vae, finished[None], 1)


def _seconds(call: Callable[[SamplingOptions], object], options: SamplingOptions = SETTINGS) -> tuple[float, int]:
    """Seconds of a call, and the most memory of the GPU that it held, in bytes.

    A call of four steps goes before it, which compiles, chooses kernels and meets windows with and without guidance.
    """
    call(replace(options, steps=4))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    call(options)
    torch.cuda.synchronize()
    return time.perf_counter() - began, torch.cuda.max_memory_allocated()


if __name__ == "__main__":
    _tell_peak(int(sys.argv[1]))
