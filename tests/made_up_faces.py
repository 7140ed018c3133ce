"""Clips that were never filmed: landmarks projected from the face model, written as the stages would write them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from schemas.parameters import StageParameters
from schemas.tables import CHUNKS, FRAMES, LANDMARK_TABLE
from stages.contract import Chunk, Inputs, Stage, Work, split_shots
from stages.face3d.fitting import Poses, rotation_from_euler
from stages.face3d.model import FaceModel
from stages.face3d.retargeting import neutral_landmarks
from stages.landmarks import Observation, landmark_columns
from storage.artifacts import Artifact, ArtifactWriter
from tests.artifacts import subject_table

MODEL = FaceModel.builtin()
WIDTH, HEIGHT, RATE = 640, 480, 25.0


@dataclass
class Performer:
    """Somebody who is seen in some frames."""

    identity: int
    frames: list[int]
    x: float = 320.0
    y: float = 220.0
    size: float = 60.0
    """Distance of the eye centres, pixels."""
    turns: dict[int, tuple[float, float, float]] = field(default_factory=dict)
    expressions: dict[int, dict[str, float]] = field(default_factory=dict)
    noise: float = 0.0

    def landmarks(self, frame: int) -> np.ndarray:
        """``[478, 3]`` frame pixels."""
        rng = np.random.default_rng([self.identity, frame])
        coefficients = np.random.default_rng(self.identity).normal(size=len(MODEL.identity))
        weights = np.zeros(len(MODEL.names))
        for name, value in self.expressions.get(frame, {}).items():
            weights[list(MODEL.indices(name))] = value
        rest = neutral_landmarks(MODEL.shape(coefficients), np.zeros(len(MODEL.names)), MODEL)
        shape = rest + MODEL.displacement(weights)
        shape = shape + rng.normal(size=shape.shape) * self.noise
        turn = rotation_from_euler([self.turns.get(frame, (0.0, 0.0, 0.0))])
        return Poses(turn, np.array([[self.x, self.y, 0.0]]), np.array([self.size])).project(shape[None])[0]


def run(stage: Stage, folder: Path, parameters: StageParameters | None = None, **work: object) -> Artifact:
    """Run a stage into a folder and read back what it wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = ArtifactWriter(folder)
    stage.run(Work(parameters or stage.parameters(), writer, **work))  # type: ignore[arg-type]
    return writer.local()


def ingest(
    folder: Path, shots: list[tuple[int, int]], chunk_frames: int = 40, codec: str = "h264"
) -> tuple[Artifact, list[Chunk]]:
    folder.mkdir(parents=True)
    writer = ArtifactWriter(folder)
    count = shots[-1][1]
    frames = np.arange(count)
    chunks = split_shots(shots, chunk_frames)
    writer.write_table(
        FRAMES,
        {
            "frame": frames.astype(np.int32),
            "pts": frames.astype(np.int64),
            "duration": np.ones(count, np.int64),
            "seconds": frames / RATE,
            "shot": np.array([next(k for k, (a, b) in enumerate(shots) if a <= frame < b) for frame in frames], np.int32),
        },
    )
    names = {"chunk": "index", "shot": "shot", "start": "start", "stop": "stop"}
    writer.write_table(CHUNKS, {name: np.array([getattr(chunk, of) for chunk in chunks], np.int32) for name, of in names.items()})
    writer.facts["stream"] = {"kind": "video", "codec": codec, "width": WIDTH, "height": HEIGHT}
    return writer.local(), chunks


def landmarks(folder: Path, chunks: list[Chunk], people: list[Performer]) -> list[Artifact]:
    """Tracks numbered by the order of ``people`` inside each chunk; a pause in somebody's frames begins a new track."""
    artifacts = []
    for chunk in chunks:
        tracks: list[list[Observation]] = []
        for person in people:
            seen = [frame for frame in person.frames if frame in chunk.frames]
            pieces = np.split(np.array(seen, int), np.flatnonzero(np.diff(seen) > 1) + 1) if seen else []
            tracks += [[Observation(int(frame), person.landmarks(int(frame)), 1.0) for frame in piece] for piece in pieces]
        (folder / str(chunk.index)).mkdir(parents=True)
        writer = ArtifactWriter(folder / str(chunk.index))
        writer.write_table(LANDMARK_TABLE, landmark_columns(tracks, chunk.frames))
        artifacts.append(writer.local())
    return artifacts


def subject(folder: Path, person: Performer, count: int, crop: tuple[float, float, float] | None = None) -> Artifact:
    """The table of the track stage for one person over a clip of one shot."""
    detected = np.isin(np.arange(count), person.frames)
    points = np.full((count, 478 * 3), np.nan)
    for frame in person.frames:
        points[frame] = person.landmarks(frame).ravel()
    crop = crop or (person.x, person.y + 0.6 * person.size, 6.5 * person.size)
    return subject_table(folder, np.tile(crop, (count, 1)), detected=detected, landmarks=points)


def inputs(**artifacts: Artifact | list[Artifact]) -> Inputs:
    """Inputs by ``<owner>_<stage>``: ``inputs(clip_track=...)``."""
    named = {}
    for name, given in artifacts.items():
        owner, _, stage = name.partition("_")
        named[stage, owner] = given if isinstance(given, list) else [given]
    return Inputs(named)
