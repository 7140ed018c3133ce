"""Where a pipeline runs and in which precision."""

from __future__ import annotations

from typing import Literal

import torch

from schemas.problems import ModelError
from stages.networks.pipeline import HeadSwapPipeline

Precision = Literal["auto", "float32", "bfloat16", "float16"]


def find_device(name: str = "auto") -> torch.device:
    """A device that is there.

    Args:
        name: ``auto`` (the first CUDA device, else the CPU), or a name of torch such as ``cuda:1``, ``mps`` or ``cpu``.

    Raises:
        ModelError: ``device_missing``.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError("device_missing", f"There is no device {name!r}.", "Choose auto, cpu or cuda.") from error
    missing = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing or device.type not in ("cpu", "cuda", "mps"):
        there = [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["no GPU"]
        raise ModelError("device_missing", f"There is no device {name!r} here, but {', '.join(there)}.", "Choose auto or cpu.")
    return device


def choose_precision(device: torch.device, precision: Precision = "auto") -> torch.dtype:
    """The precision to compute in: ``auto`` is bfloat16 where a GPU has it, else float32.

    Raises:
        ModelError: ``precision_unsupported``.
    """
    has_bfloat16 = device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported())
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" and has_bfloat16 else torch.float32
    if (precision == "float16" and device.type == "cpu") or (precision == "bfloat16" and not has_bfloat16):
        other = "float16 or float32" if device.type == "cuda" else "float32"
        raise ModelError("precision_unsupported", f"{device} does not compute in {precision}.", f"Choose auto or {other}.")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def place(
    pipeline: HeadSwapPipeline,
    device: str = "auto",
    precision: Precision = "auto",
    *,
    channels_last: bool | None = None,
    compile_networks: bool = False,
) -> HeadSwapPipeline:
    """Move a pipeline to where it is to run; attention is PyTorch's fused scaled dot product everywhere.

    Args:
        pipeline: changed in place.
        device: see ``find_device``.
        precision: see ``choose_precision``.
        channels_last: memory layout of the convolutional networks; default: on GPUs, where half-precision convolutions are
            faster in it.
        compile_networks: compile the DenoisingNet and the decoder: minutes once per size of window, faster afterwards.

    Returns:
        The same pipeline.
    """
    target = find_device(device)
    pipeline.to(target)
    dtype = choose_precision(target, precision)
    if any(part.dtype != dtype for part in pipeline.components.values() if isinstance(part, torch.nn.Module)):
        pipeline.to(dtype)
    layout = (
        torch.channels_last if (target.type == "cuda" if channels_last is None else channels_last) else torch.contiguous_format
    )
    for network in (pipeline.vae, pipeline.appearance_net, pipeline.denoising_net, pipeline.pose_guider):
        network.to(memory_format=layout)
    if compile_networks:
        pipeline.denoising_net.compile(dynamic=False)
        pipeline.vae.decoder.compile(dynamic=False)
    return pipeline
