"""A GPU that is not there: what runs on it has shapes, precisions, a device and memory, but no numbers.

Networks can so be rehearsed on a machine without one, training included. What mixes the GPU with the CPU, or precisions where a
GPU computes with one, fails; waits for the GPU are counted, with their places; and memory is the sum of what tensors take at a
time, without what PyTorch's allocator rounds up, the working space of libraries, and the driver's own part.

Attention needs the memory of fused kernels, as on a GPU. Speed cannot be rehearsed.

PyTorch registers such a device for the whole process: use one of its own.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.nn import functional as F
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_NAME, _AUTOCAST = "pretended", "AutocastPrivateUse1"
_ROOT = Path(__file__).resolve().parents[1]

_LOW = ("linear", "conv2d", "matmul", "bmm", "baddbmm", "addmm", "mm")
_HIGH = ("layer_norm", "group_norm", "softmax.int", "mse_loss", "cosine_similarity")
"""What autocast computes in the lower precision, and what in float32, as on GPUs; of those that the networks use."""

_written_out = F.scaled_dot_product_attention
_ARITHMETIC = ("aten.convolution.", "aten.mm.", "aten.addmm.", "aten.bmm.", "aten.baddbmm.")
_ALIKE = (*_ARITHMETIC, "aten.native_layer_norm.", "aten.native_group_norm.", "aten.grid_sampler")
_BETWEEN = ("aten._to_copy.", "aten.copy_.", "aten.index")


class PretendedGpu:
    """Inside the context ``device`` can be used, by one thread. What is on the CPU keeps its numbers.

    A number that is read from the GPU is 1, a tensor that is copied from it holds zeros.

    Args:
        memory: bytes that it has; more than that is out of memory.

    Attributes:
        device: the GPU.
        waits: how often a line of this project waited until the GPU had nothing left to do, by ``file:line``: to read something
            from it, or to copy something to it (from memory that is not pinned, as all of this project's).
        precisions: of products, convolutions and attention, and how often each.
        held: bytes on the GPU now.
        peak: the most since ``begin_peak``.
        peak_at: the line at which that was.
    """

    def __init__(self, memory: int | None = None) -> None:
        self.device, self.memory = _registered(), memory
        self.waits: Counter[str] = Counter()
        self.precisions: Counter[torch.dtype] = Counter()
        self.held, self.peak, self.peak_at = 0, 0, ""
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._stack = ExitStack()

    def __enter__(self) -> PretendedGpu:
        self._stack.enter_context(patch.object(F, "scaled_dot_product_attention", _fused_attention(self)))
        self._stack.enter_context(self._fake)
        # ``torch.tensor(..., device=...)`` else goes past all modes, to a device that is not there.
        self._stack.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)
        self._stack.enter_context(_Operations(self))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def place(self, module: nn.Module, dtype: torch.dtype | None = None, *, channels_last: bool = False) -> None:
        """Move a module to the GPU in place; it may have been made on the ``meta`` device, without memory of its own."""
        for part in module.modules():
            for name, value in part._parameters.items():
                if value is not None:
                    moved = self._moved(value, dtype, channels_last)
                    part._parameters[name] = nn.Parameter(moved, requires_grad=value.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = self._moved(buffer, dtype, channels_last)

    def begin_peak(self) -> None:
        """Forget the peak of memory so far."""
        self.peak = self.held

    def hold(self, tensor: Tensor) -> None:
        """Count a tensor's memory until nothing holds it any more."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        known = self._storages.get(key)
        if known is None or known() is None:
            self._storages[key] = weakref.ref(storage, lambda _: self._let_go(key, size))
            self.held += size
            if self.memory is not None and self.held > self.memory:
                raise torch.OutOfMemoryError(f"CUDA out of memory: {self.held} of {self.memory} bytes.")
            if self.held > self.peak:
                self.peak, self.peak_at = self.held, _place()

    def _let_go(self, key: int, size: int) -> None:
        self.held -= size
        del self._storages[key]

    def _moved(self, value: Tensor, dtype: torch.dtype | None, channels_last: bool) -> Tensor:
        layout = torch.channels_last if channels_last and value.dim() == 4 else torch.contiguous_format
        wanted = dtype if dtype is not None and value.is_floating_point() else value.dtype
        with self._fake:
            moved = torch.empty(tuple(value.shape), dtype=wanted, device=self.device, memory_format=layout)
        self.hold(moved)
        return moved


def _fused_attention(gpu: PretendedGpu) -> Callable[..., Tensor]:
    """Attention without a matrix of weights. PyTorch writes out what it does not know a fused kernel for."""

    def attend(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **named: Any) -> Tensor:
        if not isinstance(query, FakeTensor):
            return _written_out(query, key, value, attn_mask, **named)
        if torch.is_autocast_enabled(_NAME):
            query, key, value = (tensor.to(torch.get_autocast_dtype(_NAME)) for tensor in (query, key, value))
        _require_alike("scaled_dot_product_attention", (query, key, value))
        if (
            attn_mask is not None
            or key.shape != value.shape
            or query.shape[:-2] + query.shape[-1:] != key.shape[:-2] + key.shape[-1:]
        ):
            raise NotImplementedError("attention is pretended without masks, for values as wide as queries")
        gpu.precisions[query.dtype] += 1
        attended: Tensor = _Attention.apply(query, key, value)
        return attended

    return attend


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        attended, sums = torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=torch.float32)
        context.save_for_backward(query, keys, values, attended, sums)
        return attended

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        query, keys, values = context.saved_tensors[:3]
        return torch.empty_like(query), torch.empty_like(keys), torch.empty_like(values)


class _Operations(TorchDispatchMode):
    """Pretends what touches the GPU, computes everything else, and keeps count."""

    def __init__(self, gpu: PretendedGpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs, gpu, name = kwargs or {}, self._gpu, str(operation)
        given = tree_leaves((args, kwargs))
        tensors = [value for value in given if isinstance(value, Tensor)]
        pretended = any(isinstance(value, FakeTensor) for value in tensors)
        devices = {value.type for value in given if isinstance(value, torch.device)}
        if not pretended and _NAME not in devices:
            with unset_fake_temporarily():
                return operation(*args, **kwargs)
        if name.startswith(_BETWEEN) and any(not isinstance(value, FakeTensor) and value.dim() for value in tensors):
            gpu.waits[_place()] += 1
        if name == "aten._local_scalar_dense.default":
            gpu.waits[_place()] += 1
            return True if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 1
        if name == "aten._to_copy.default" and pretended and "cpu" in devices:
            gpu.waits[_place()] += 1
            with unset_fake_temporarily():
                return torch.zeros(tuple(args[0].shape), dtype=kwargs.get("dtype") or args[0].dtype)
        if name.startswith(_BETWEEN) and not isinstance(args[0], FakeTensor) and pretended:
            if name.startswith("aten.copy_."):
                return args[0]  # a tensor of the CPU, whose numbers stay
            raise RuntimeError(f"{name}: what is on the CPU has no places that are numbered on the GPU")
        if name.startswith(_ALIKE):
            _require_alike(name, tensors)
        if name.startswith(_ARITHMETIC):
            gpu.precisions[tensors[0].dtype] += 1
        if name.startswith("aten.native_group_norm."):  # a GPU's kernel wants channels first, and gives them so
            args = (args[0].contiguous(), *args[1:])
            gpu.hold(args[0])
        if name == "aten._to_copy.default" and not pretended:
            dtype, layout = kwargs.get("dtype") or args[0].dtype, kwargs.get("memory_format") or torch.preserve_format
            result = torch.empty_like(args[0], dtype=dtype, device=gpu.device, memory_format=layout)
        else:
            result = operation(*args, **kwargs)
        for value in tree_leaves(result):
            if isinstance(value, FakeTensor) and value.device == gpu.device:
                gpu.hold(value)
        return result


def _require_alike(name: str, tensors: Sequence[Tensor]) -> None:
    """A GPU's kernels compute with one precision at a time, which PyTorch does not look at where there are no numbers."""
    if len({tensor.device for tensor in tensors}) > 1:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device")
    if len({tensor.dtype for tensor in tensors}) > 1:
        raise RuntimeError(f"{name}: expected all tensors to have the same dtype")


class _Backend:
    """What PyTorch asks of a kind of device."""

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        del seed

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_autocast: list[torch.library.Library] = []
"""What is registered lasts as long as these."""


def _registered() -> torch.device:
    """The device, which PyTorch knows from the first call on."""
    if not _autocast:
        backend_registration._setup_privateuseone_for_python_backend(_NAME, _Backend())
        others = torch.library.Library("_", "IMPL", _AUTOCAST)
        others.fallback(torch.library.fallthrough_kernel)
        library = torch.library.Library("aten", "IMPL", _AUTOCAST)
        for names, low in ((_LOW, True), (_HIGH, False)):
            for name in names:
                library.impl(name, _cast_first(name, low))
        _autocast.extend((others, library))
    return torch.device(_NAME, 0)


def _cast_first(name: str, low: bool) -> Callable[..., Any]:
    """What autocast does to an operation."""
    packet, _, overload = name.partition(".")
    operation = getattr(getattr(torch.ops.aten, packet), overload or "default")

    def call(*args: Any, **kwargs: Any) -> Any:
        dtype = torch.get_autocast_dtype(_NAME) if low else torch.float32

        def cast(value: Any) -> Any:
            return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, _AUTOCAST))):
            return operation(*tree_map(cast, args), **tree_map(cast, kwargs))

    return call


def _place() -> str:
    """The innermost line of this project that is being run, but for this file."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if frame.f_code.co_filename != __file__ and path.is_relative_to(_ROOT) and ".venv" not in path.parts:
            return f"{path.relative_to(_ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"
