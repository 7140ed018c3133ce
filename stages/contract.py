"""What a stage is: what goes in, what comes out, and the one method that does the work.

A stage is a small class with a name, a version, its parameters and its inputs declared as class attributes. ``run``
reads from a ``Work`` and writes to its ``output``. It must be deterministic in what the key contains (inputs, media,
parameters, models, seed, frames) and safe to repeat: nothing is visible to others before the commit, which is not the
stage's business.
"""

from __future__ import annotations

import enum
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pyarrow as pa

from schemas.parameters import StageParameters
from schemas.tables import TableSchema
from stages.video.facts import Limits
from storage.artifacts import Artifact, ArtifactWriter

Owner = Literal["clip", "source", "target", "job"]
"""Whose artifact or media is meant. A clip stage knows only its own ``clip``; a job stage ``source``, ``target`` and ``job``."""


class Scope(enum.StrEnum):
    CLIP = "clip"
    CLIP_CHUNK = "clip_chunk"
    JOB = "job"
    JOB_CHUNK = "job_chunk"

    @property
    def chunked(self) -> bool:
        return self in (Scope.CLIP_CHUNK, Scope.JOB_CHUNK)

    @property
    def of_clip(self) -> bool:
        return self in (Scope.CLIP, Scope.CLIP_CHUNK)


@dataclass(frozen=True)
class Input:
    """An artifact a stage reads.

    ``chunk = "same"`` is the artifact of the chunk being worked on; ``"near"`` this chunk's and its neighbours' of the same
    shot; ``"around"`` those of the same shot with frames up to ``Stage.margin`` before or after it; ``"all"`` every chunk's (for
    an unchunked input stage all mean its one artifact). Chunks of a job are the chunks of its target.
    """

    stage: str
    of: Owner = "clip"
    chunk: Literal["same", "near", "around", "all"] = "all"


@dataclass(frozen=True)
class Chunk:
    """Frames ``start <= frame < stop`` of one shot: the unit of resuming inside a long video."""

    index: int
    shot: int
    start: int
    stop: int

    @property
    def frames(self) -> range:
        return range(self.start, self.stop)


def split_shots(shots: Sequence[tuple[int, int]], chunk_frames: int) -> list[Chunk]:
    """Cut shots, given as (first frame, end frame), into chunks of nearly equal length of at most ``chunk_frames``."""
    chunks: list[Chunk] = []
    for shot, (start, stop) in enumerate(shots):
        pieces = max(1, -(-(stop - start) // chunk_frames))
        bounds = [start + (stop - start) * k // pieces for k in range(pieces + 1)]
        for first, end in itertools.pairwise(bounds):
            chunks.append(Chunk(len(chunks), shot, first, end))
    return chunks


class Inputs:
    """The artifacts a stage declared, by stage name and owner."""

    def __init__(
        self,
        artifacts: Mapping[tuple[str, str], Sequence[Artifact]],
        same_chunk: Mapping[tuple[str, str], Artifact] | None = None,
    ) -> None:
        """``same_chunk`` holds this chunk's artifact of chunked stages declared with ``chunk="same"``."""
        self._artifacts = {name: tuple(found) for name, found in artifacts.items()}
        self._same_chunk = dict(same_chunk or {})

    def one(self, stage: str, of: Owner = "clip") -> Artifact:
        """The single artifact of an unchunked stage, or a chunked stage's artifact of this very chunk."""
        if (stage, of) in self._same_chunk:
            return self._same_chunk[stage, of]
        (artifact,) = self._artifacts[stage, of]
        return artifact

    def all(self, stage: str, of: Owner = "clip") -> tuple[Artifact, ...]:
        """Every declared chunk's artifact, in order of frames: all, those near, or this chunk's alone."""
        if (stage, of) in self._artifacts:
            return self._artifacts[stage, of]
        return (self._same_chunk[stage, of],)

    def table(
        self, stage: str, name: str, of: Owner = "clip", columns: Sequence[str] | None = None, frames: range | None = None
    ) -> pa.Table:
        """A table over all chunks, in order of frames; only rows with ``frame`` in ``frames`` where that is given."""
        parts = [artifact.table(name, columns=columns, frames=frames) for artifact in self.all(stage, of)]
        return parts[0] if len(parts) == 1 else pa.concat_tables(parts)


def _no_progress(frames: int) -> None:
    del frames


@dataclass
class Work:
    """Everything ``run`` gets."""

    parameters: StageParameters
    output: ArtifactWriter
    inputs: Inputs = field(default_factory=lambda: Inputs({}))
    media: Mapping[str, Path] = field(default_factory=dict)
    """Local file of each medium the stage declared, by owner."""
    chunk: Chunk | None = None
    models: Mapping[str, Path] = field(default_factory=dict)
    """Local file (of a pipeline: folder) of each registered model that the stage may use; absent ones are absent."""
    device: str = "cpu"
    """Where networks run that can choose: a name of torch. No key has it."""
    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    """Media beyond these are refused. They decide whether a stage runs, never what it writes, so no key has them."""
    options: Mapping[str, object] = field(default_factory=dict)
    """What the catalogue's row adds to the key, by the names in ``Stage.options``: ``edits``, ``rights``, ..."""
    progress: Callable[[int], None] = _no_progress
    """To be called with the number of frames finished since the last call."""


class Stage(ABC):
    """A deterministic transformation with a name and a version.

    Increase ``version`` whenever the same inputs would give other outputs: committed artifacts of older versions are then
    left alone and computed anew. ``tests/golden`` fails when an output changed and its version did not.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    scope: ClassVar[Scope]
    parameters: ClassVar[type[StageParameters]]
    inputs: ClassVar[tuple[Input, ...]] = ()
    media: ClassVar[tuple[Owner, ...]] = ()
    """Media files read, whose contents are then part of the key."""
    models: ClassVar[tuple[str, ...]] = ()
    """Registered models used where present; name and digest of those present are part of the key."""
    options: ClassVar[tuple[str, ...]] = ()
    tables: ClassVar[tuple[TableSchema, ...]] = ()
    """Schemas written, whose versions are part of the key."""
    seeded: ClassVar[bool] = False
    data: ClassVar[Mapping[str, str]] = {}
    """Digests of files that ship with the program, and versions of packages, that decide what the stage writes, by name: part of
    the key."""

    def data_for(self, parameters: StageParameters) -> dict[str, str]:
        """``data``, and what else decides what is written with these parameters alone."""
        del parameters
        return dict(self.data)

    def pipelines_for(self, parameters: StageParameters) -> tuple[str, ...]:
        """Registered pipelines without which work with these parameters cannot be done."""
        del parameters
        return ()

    def seeded_for(self, parameters: StageParameters) -> bool:
        """Whether the seed decides what is written with these parameters."""
        del parameters
        return self.seeded

    def margin(self, parameters: StageParameters) -> int:
        """Frames before and after a chunk that inputs declared with ``chunk="around"`` must cover."""
        del parameters
        return 0

    def wants_device(self, parameters: StageParameters) -> bool:
        """Whether work with these parameters runs on a GPU where there is one."""
        del parameters
        return False

    @abstractmethod
    def run(self, work: Work) -> None:
        """Do the work. Raises ``HeadswapError`` with the reason when the input cannot be used."""
