"""Where a pipeline runs and in which precision; what devices say when they cannot."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import torch

from schemas.parameters import Precision
from schemas.problems import ModelError

if TYPE_CHECKING:  # the pipeline itself asks what an error of a device means
    from stages.networks.pipeline import HeadSwapPipeline

OUT_OF_MEMORY = (
    *("CUDA error: out of memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
    *("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory"),
)
"""What those say that take a GPU's memory past PyTorch's allocator (the driver, and libraries for their own work space), what
PyTorch's compiler repeats of the allocator in an error of its own, and the allocator of a CPU, which has no error of its own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device has too little memory for what was asked of it; it is not broken then."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in OUT_OF_MEMORY)


def gpu_count() -> int:
    """How many GPUs CUDA can use.

    ``torch.cuda.device_count`` asks the driver's management library, which also counts those that CUDA cannot use.
    """
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def unusable_gpus() -> str | None:
    """Why CUDA cannot use the GPUs that are there, such as a driver that is too old; None where it can, or there are none."""
    if torch.cuda.is_available() or not torch.cuda.device_count():
        return None
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        return first_line(error)
    return "CUDA does not start"


def first_line(error: BaseException) -> str:
    """What an error says, without the advice for developers that CUDA's go on with, and without the full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__


def find_device(name: str = "auto") -> torch.device:
    """A device that is there.

    Args:
        name: ``auto`` (the first CUDA device that this PyTorch has code for, else the CPU), or a name of torch such as
            ``cuda:1``, ``mps`` or ``cpu``.

    Raises:
        ModelError: ``device_missing``: it is not there, or this PyTorch is not built for it.
    """
    if name == "auto":
        return torch.device(next(iter(served_gpus()), "cpu"))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError("device_missing", f"There is no device {name!r}.", "Choose auto, cpu or cuda.") from error
    missing = (device.type == "cuda" and (device.index or 0) >= gpu_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing or device.type not in ("cpu", "cuda", "mps"):
        why = unusable_gpus() if device.type == "cuda" else None
        if why is not None:
            raise ModelError(
                "device_missing", f"There is no device {name!r} that CUDA can use: {why}.", "Choose cpu, or mend the driver."
            )
        there = [f"cuda:{number}" for number in range(gpu_count())] or ["no GPU"]
        raise ModelError("device_missing", f"There is no device {name!r} here, but {', '.join(there)}.", "Choose auto or cpu.")
    if why := without_kernels(device):
        remedy = "Choose cpu or another device, or install a PyTorch that is built for it."
        raise ModelError("device_missing", f"{why}.", remedy)
    return device


def without_kernels(device: torch.device) -> str | None:
    """Why this PyTorch has no code for a GPU that CUDA can use, such as an old one; None where it has, or for other devices.

    Only its convolutions would say so, in words about something else.

    Raises:
        ModelError: ``device_missing`` for a GPU that cannot be asked.
    """
    built_for = torch.cuda.get_arch_list() if device.type == "cuda" and torch.version.hip is None else []
    if not built_for:
        return None
    properties = _properties(device)
    major, minor = properties.major, properties.minor
    if any(_runs(name, (major, minor)) for name in built_for):
        return None
    return f"PyTorch {torch.__version__} is built for {', '.join(built_for)}, but {device} is an sm_{major}{minor}"


def served_gpus() -> list[str]:
    """Names of the GPUs that work may be given to: those that CUDA can use, but for what this PyTorch has no code for.

    One that does not answer is among them: whoever works on it is told.
    """
    unserved = unserved_gpus()
    return [name for name in (f"cuda:{number}" for number in range(gpu_count())) if name not in unserved]


def unserved_gpus() -> dict[str, str]:
    """The GPUs that this PyTorch has no code for, by name, and why."""
    found = {}
    for number in range(gpu_count()):
        with suppress(ModelError):
            if why := without_kernels(torch.device("cuda", number)):
                found[f"cuda:{number}"] = why
    return found


def _runs(name: str, capability: tuple[int, int]) -> bool:
    """Whether code by the name of ``torch.cuda.get_arch_list`` runs on a GPU.

    Machine code (``sm_86``) runs on GPUs of its generation that are not older, with an ``a`` at its end on no other at all; what
    the driver translates (``compute_86``) on all that are not older.
    """
    kind, _, number = name.partition("_")
    digits = number.rstrip("af")
    if not digits.isdigit():
        return False
    built = (int(digits[:-1]), int(digits[-1]))
    if number.endswith("a"):
        return built == capability
    return built <= capability and (kind == "compute" or built[0] == capability[0])


def _properties(device: torch.device) -> Any:
    try:
        return torch.cuda.get_device_properties(device)
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        raise ModelError(
            "device_missing",
            f"The device {device} does not answer: {first_line(error)}.",
            "Look at the device (`nvidia-smi`), or choose another.",
        ) from error


def choose_precision(device: torch.device, precision: Precision = "auto") -> torch.dtype:
    """The precision to compute in: ``auto`` is bfloat16 where a GPU has it, else float32.

    Raises:
        ModelError: ``precision_unsupported``; ``device_missing`` for a GPU that cannot be asked.
    """
    has_bfloat16 = device.type == "cpu" or (device.type == "cuda" and computes_bfloat16(device))
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" and has_bfloat16 else torch.float32
    if (precision == "float16" and device.type == "cpu") or (precision == "bfloat16" and not has_bfloat16):
        other = "float16 or float32" if device.type == "cuda" else "float32"
        raise ModelError("precision_unsupported", f"{device} does not compute in {precision}.", f"Choose auto or {other}.")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16: NVIDIA's since Ampere, processors with AMX or AVX512-BF16.

    All others imitate it, which PyTorch takes for having it.

    Raises:
        ModelError: ``device_missing`` for a GPU that cannot be asked.
    """
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    if device.type != "cuda":
        return False
    if torch.version.hip is not None:
        return True
    return bool(_properties(device).major >= 8)


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
        compile_networks: compile the DenoisingNet and the decoder: minutes at their first use, faster afterwards. Only for
            whole windows and batches (``compiled_where``).

    Returns:
        The same pipeline.
    """
    target = find_device(device)
    pipeline.to(target)
    dtype = choose_precision(target, precision)
    if any(part.dtype != dtype for part in pipeline.components.values() if isinstance(part, torch.nn.Module)):
        pipeline.to(dtype)
    exact_float32()
    layout = (
        torch.channels_last if (target.type == "cuda" if channels_last is None else channels_last) else torch.contiguous_format
    )
    for network in (pipeline.vae, pipeline.appearance_net, pipeline.denoising_net, pipeline.pose_guider):
        network.to(memory_format=layout)
    if compile_networks:
        pipeline.denoising_net.compile(dynamic=False)
        pipeline.vae.decoder.compile(dynamic=False)
    return pipeline


def exact_float32() -> None:
    """Have float32 be what keys and recipes call it, on every device.

    Else newer GPUs round what they are given to ten bits: in convolutions as PyTorch has it, in products of matrices where the
    environment says so, as vendors' images of PyTorch do.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")


def compiled_where(usual: bool, network: torch.nn.Module) -> AbstractContextManager[object]:
    """Inside, a compiled network computes as it is written unless what it is given has the ``usual`` size.

    Every other size, such as the rest of a short shot, would be compiled for minutes to save seconds; and after eight of them
    PyTorch gives up on the network altogether.
    """
    if usual or network._compiled_call_impl is None:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")
