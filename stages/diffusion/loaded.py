"""A pipeline that stays loaded in a process: the weights once for all jobs, a source's features once for all its chunks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from schemas.parameters import Precision
from schemas.problems import HeadswapError, ModelError
from stages.networks.conditions import SourceFeatures
from stages.networks.loading import load_pipeline
from stages.networks.runtime import choose_precision, find_device, first_line, is_out_of_memory, place

SOURCES_KEPT = 2

DEVICE_ERRORS = (
    *("CUDA error", "CUDA driver", "CUDA unknown error", "NVIDIA driver", "No CUDA GPUs", "cudaGetDeviceCount"),
    *("cuDNN error", "cuDNN Frontend", "CUBLAS_STATUS", "cusolver error", "Triton Error [CUDA]", "NVML_SUCCESS"),
    "unable to find an engine to execute this computation",
)
"""Parts of what a GPU's libraries say that is not PyTorch's own; also in a new process, to which a lost GPU is not shown. The
last one is cuDNN's, for want of kernels or of memory: another device may have both."""

LOST = ("device_missing", "precision_unsupported")
"""What is said of a GPU that was there, with what is asked of it, when the work was planned, and no longer is."""


class LoadedPipeline:
    """For ``stages.warm.borrowed``: ``LoadedPipeline(folder, digest, picture_size, device, precision, compiled)``.

    Args:
        folder: of the registered pipeline.
        digest: of its files; loaded weights of another digest are others.
        picture_size: pixels of a side that it generates.
        device: name of torch.
        precision: of the networks.
        compiled: whether they are compiled at their first use.

    Attributes:
        pipeline: placed where it runs.
        picture_size: the same.
        sees_background: whether it draws on the background, or a head on white.
        thread: the one that the networks run in.
        schedule: the scheduler's configuration as it was saved: the scheduler in use is that of whoever used the pipeline last.

    Raises:
        ModelError: what is wrong with the weights, the device or the precision.
    """

    def __init__(
        self, folder: str, digest: str, picture_size: int, device: str, precision: Precision, compiled: bool = False
    ) -> None:
        del digest
        on = find_device(device)
        dtype = choose_precision(on, precision)
        self.pipeline = place(load_pipeline(Path(folder), dtype, on), device, precision, compile_networks=compiled)
        self.pipeline.set_progress_bar_config(disable=True)
        self.picture_size = picture_size
        self.schedule: Mapping[str, Any] = dict(self.pipeline.scheduler.config)
        self.sees_background = self.pipeline.denoising_net.sees_background
        self._sources: dict[Hashable, SourceFeatures] = {}
        # One for all sections: cuDNN plans its convolutions anew in every thread, and what it planned stays when the thread ends.
        self.thread = ThreadPoolExecutor(1, "networks")

    def source(self, key: Hashable, picture: Callable[[], NDArray[np.uint8]]) -> SourceFeatures:
        """What the networks know of a source, computed where ``key`` was not asked for lately.

        Args:
            key: what the picture depends on.
            picture: makes the reference, uint8 RGB [picture_size, picture_size, 3], the head alone on white.
        """
        if key not in self._sources:
            found = self.thread.submit(self.pipeline.prepare_source, picture()).result()
            while len(self._sources) >= SOURCES_KEPT:
                del self._sources[next(iter(self._sources))]
            self._sources[key] = found
        return self._sources[key]

    def close(self) -> None:
        """Give the memory back."""
        self.thread.shutdown()
        self._sources.clear()
        del self.pipeline
        with contextlib.suppress(RuntimeError):  # of a GPU that failed, whose first error is the one to tell
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def compiling_failure(error: Exception) -> ModelError | None:
    """What PyTorch's compiler says where it cannot compile a network; None for any other error."""
    if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return None
    return ModelError(
        "compiling_failed",
        f"The networks could not be compiled: {first_line(error)}.",
        "Install a C++ compiler, or leave stages.render.diffusion.compile off; the pictures are the same but for rounding.",
    )


def device_failure(error: Exception, device: str) -> ModelError | None:
    """What a GPU that failed, is gone or is too small says, as an error that lets the work be tried again; None for any other.

    After a failure (``device_failed``) the process can no longer use the device: it has to end.

    Args:
        error: of the networks, or of loading them.
        device: that the work was given to, which was there when the work was planned.
    """
    if is_out_of_memory(error):
        return ModelError(
            "out_of_memory",
            f"The device {device} has too little memory for the pipeline.",
            "Free memory on it, take a smaller pipeline (--profile demo), or another device.",
            retryable=True,
        )
    if isinstance(error, HeadswapError):
        failed = device != "cpu" and error.code in LOST
        reason = error.message.rstrip(".")
    else:
        failed = isinstance(error, (torch.AcceleratorError, torch.cuda.DeferredCudaCallError)) or (
            isinstance(error, RuntimeError) and any(mark in str(error) for mark in DEVICE_ERRORS)
        )
        reason = first_line(error)
    if not failed:
        return None
    return ModelError(
        "device_failed",
        f"The device {device} failed: {reason}.",
        "The work is tried again in another process, on another device where there is one; look at the device if it goes on.",
        retryable=True,
    )
