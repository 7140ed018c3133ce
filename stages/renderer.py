"""What a renderer is: it turns the target's frames of one chunk into generated crops that show the source's head.

Two kinds stand beside each other: ``stages.warp.renderer.WarpRenderer`` and, where weights are registered,
``stages.diffusion.renderer.DiffusionRenderer``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stages.warp.geometry import Pose


@dataclass(frozen=True)
class Portrait:
    """The source's head as found in one of its frames.

    Attributes:
        picture: uint8 RGB [size, size, 3], crop.
        colours: uint8 RGB [size, size, 3], the head's own colours, without what shines through its border; continued outside.
        matte: float32 [size, size] in 0..1, opacity of the head with hair, ears and a little neck.
        labels: uint8 [size, size], label map (``schemas.tables.LABELS``).
        landmarks: float [478, 3], pixels of the crop.
        pose: in the crop.
    """

    picture: NDArray[np.uint8]
    colours: NDArray[np.uint8]
    matte: NDArray[np.float32]
    labels: NDArray[np.uint8]
    landmarks: NDArray[np.floating]
    pose: Pose


@dataclass(frozen=True)
class Scene:
    """One frame of the target in which a head is to be generated.

    Attributes:
        frame: its number in the clip.
        picture: uint8 RGB [size, size, 3], the target's crop.
        background: uint8 RGB [size, size, 3], what is behind the whole person.
        labels: uint8 [size, size], label map.
        landmarks: float [478, 3], the target's own, pixels of the crop.
        aligned: float [478, 3], the source's face with the target's pose and expression, pixels of the crop.
        pose: that ``aligned`` shows.
        shoulders: float [2, 3], x and y in pixels of the crop and visibility, the person's left one first; NaN where unknown.
    """

    frame: int
    picture: NDArray[np.uint8]
    background: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    landmarks: NDArray[np.floating]
    aligned: NDArray[np.floating]
    pose: Pose
    shoulders: NDArray[np.floating] = field(default_factory=lambda: np.full((2, 3), np.nan))


@dataclass(frozen=True)
class Section:
    """Frames that follow each other in one shot, in each of which a head is to be generated.

    Attributes:
        frames: those wanted, of one chunk.
        shot: all such frames that follow each other before, in and after the chunk; holds ``frames``.
        scenes: scenes of any frames of ``shot`` up to the stage's margin before and after ``frames``, in order. It may be called
            again, also while an earlier result is still read.
    """

    frames: range
    shot: range
    scenes: Callable[[range], Iterator[Scene]]


@dataclass(frozen=True)
class Generated:
    """A generated crop.

    Attributes:
        frame: its number in the clip.
        picture: uint8 RGB [size, size, 3]; where the renderer changed nothing it is the target's crop.
        head: float32 [size, size], opacity of the new head.
    """

    frame: int
    picture: NDArray[np.uint8]
    head: NDArray[np.float32]


class Renderer(Protocol):
    """Generates crops."""

    def render(self, section: Section) -> Generator[tuple[Scene, Generated], None, None]:
        """Every wanted frame's scene with what became of it, in order. What is held at a time does not grow with the length.

        Whoever does not take them all closes the generator, before the renderer is given back.
        """
        ...
