"""How a long video is cut into windows of frames, and what is drawn for each frame. Pure functions, without networks.

Windows lie on a grid that begins with the shot, never wrap around its end, and overlap. Noise is a function of the seed and
the frame's own number. A chunk of a shot therefore sees the very windows and noise that the whole shot would.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Window = tuple[int, ...]
"""Frames that the MotionModule sees together, by number, in order."""


@dataclass(frozen=True)
class ChunkPlan:
    """What is to be computed for a chunk.

    Attributes:
        windows: those that hold frames of the chunk, and neighbours as context, in order.
        frames: that the windows need, ascending; conditions must be given for each.
        chunk: the frames wanted.
    """

    windows: tuple[Window, ...]
    frames: range
    chunk: range


def windows_of(shot: range, size: int = 16, overlap: int = 4) -> tuple[Window, ...]:
    """Windows that cover a shot.

    Each begins ``size - overlap`` frames after the one before it. The last ends with the shot and is as long as the others, so
    that its frames see as many neighbours; it then overlaps more.

    Args:
        shot: numbers of its frames.
        size: frames in a window; a shorter shot is one shorter window.
        overlap: frames that neighbouring windows share; less than ``size``.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"an overlap of {overlap} does not fit windows of {size}")
    if len(shot) <= size:
        return (tuple(shot),) if len(shot) else ()
    stride = size - overlap
    starts = [*range(shot.start, shot.stop - size, stride), shot.stop - size]
    return tuple(tuple(range(start, start + size)) for start in starts)


def plan_chunk(shot: range, chunk: range, size: int = 16, overlap: int = 4, context: int = 1) -> ChunkPlan:
    """The windows of a shot that matter to a chunk of it.

    Args:
        shot, size, overlap: see ``windows_of``.
        chunk: part of the shot.
        context: windows to compute on either side beside those that hold frames of the chunk. Where windows are blended at
            every step, a frame depends on all windows of the shot, the less the farther they are; context bounds the
            difference to the whole shot.
    """
    if not len(chunk) or chunk.start < shot.start or chunk.stop > shot.stop:
        raise ValueError(f"the frames {chunk.start} to {chunk.stop} are no part of the shot {shot.start} to {shot.stop}")
    grid = windows_of(shot, size, overlap)
    touching = [number for number, window in enumerate(grid) if window[0] < chunk.stop and window[-1] >= chunk.start]
    chosen = grid[max(touching[0] - context, 0) : touching[-1] + context + 1]
    return ChunkPlan(chosen, range(chosen[0][0], chosen[-1][-1] + 1), chunk)


def blending_weights(window: Window, overlap: int, *, ramp: bool = True) -> list[float]:
    """How much each frame of a window counts beside other windows that hold it.

    Args:
        window: its frames.
        overlap: of neighbouring windows.
        ramp: fade linearly over the overlap at both ends; otherwise all frames count alike.
    """
    last = len(window) - 1
    return [float(min(place + 1, last - place + 1, max(overlap, 1))) if ramp else 1.0 for place in range(len(window))]


def frame_noise(seed: int, frame: int, shape: Sequence[int], shared: float = 0.0) -> Tensor:
    """Standard normal noise of a frame, float32 of ``shape``: the same on every device and in every chunk.

    Args:
        shared: share of the variance, 0 to 1, that all frames of the seed have in common (mixed noise, Ge et al. 2023): what is
            left to the noise then does not change from frame to frame.
    """
    own = _drawn(f"{seed}:{frame}", shape)
    return own if shared == 0 else mixed_noise(own, _drawn(f"{seed}:shared", shape), shared)


def mixed_noise(own: Tensor, common: Tensor, shared: float) -> Tensor:
    """Standard normal noise: ``common`` noise has the share ``shared`` of its variance, the frames' ``own`` the rest."""
    return (1 - shared) ** 0.5 * own + shared**0.5 * common


def _drawn(name: str, shape: Sequence[int]) -> Tensor:
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
    return torch.randn(tuple(shape), generator=generator)
