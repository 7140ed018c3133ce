"""Artifacts of a small painted job, as the stages before ``render`` would have written them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from schemas.parameters import EncodeParameters, IngestParameters, RenderParameters
from schemas.tables import MASKS, PLATES, aligned_table, neutral_table
from stages.contract import Chunk, Inputs, Work
from stages.encode import Encode
from stages.ingest import Ingest
from stages.masks import mask_row
from stages.render import Render
from stages.renderer import Scene
from storage.artifacts import Artifact, ArtifactWriter
from tests.artifacts import subject_table
from tests.media import write_video
from tests.stages.painted_heads import SIZE, WALL, portrait, pose, scene

EXPRESSIONS = 3
MARGIN = 32
"""The frame is wider than the crop by this much on both sides, and taller."""

CROP = np.array([SIZE / 2 + MARGIN, SIZE / 2 + MARGIN, SIZE], np.float32)


@dataclass
class Job:
    """A painted source on a painted target."""

    folder: Path
    scenes: list[Scene]
    generated: np.ndarray
    source: Path
    target: Path
    artifacts: dict[tuple[str, str], list[Artifact]]

    def render(self, chunk: Chunk, name: str = "render", **parameters: object) -> Artifact:
        """Run the stage ``render`` on a chunk."""
        writer = ArtifactWriter(self.folder / name / str(chunk.index), frames=chunk.frames)
        inputs = Inputs(self.artifacts, {("masks", "target"): self.artifacts["masks", "target"][0]})
        media = {"source": self.source, "target": self.target}
        Render().run(Work(RenderParameters(**parameters), writer, inputs, media, chunk))  # type: ignore[arg-type]
        return writer.local()

    def encode(self, chunk: Chunk, rendered: list[Artifact], same: Artifact, **parameters: object) -> Artifact:
        """Run the stage ``encode`` on a chunk."""
        writer = ArtifactWriter(self.folder / "encode" / f"{chunk.index}-{len(parameters)}")
        artifacts = {**self.artifacts, ("render", "job"): rendered}
        work = Work(
            EncodeParameters(**parameters), writer, Inputs(artifacts, {("render", "job"): same}), {"target": self.target}, chunk
        )  # type: ignore[arg-type]
        Encode().run(work)
        return writer.local()


def frame_of(picture: np.ndarray) -> np.ndarray:
    """A frame with a crop's picture in the middle of a textured wall."""
    y, x = np.mgrid[: SIZE + 2 * MARGIN, : SIZE + 2 * MARGIN]
    frame = np.stack([(x * 3 + y) % 97 + 80, (x + 2 * y) % 89 + 80, (x * 2) % 83 + 90], axis=-1).astype(np.uint8)
    frame[MARGIN:-MARGIN, MARGIN:-MARGIN] = picture
    return frame


def painted_job(folder: Path, count: int = 6, missing: tuple[int, ...] = (), faded: tuple[int, ...] = ()) -> Job:
    """A job of ``count`` frames in one shot; in the frames ``missing`` no face was found, ``faded`` differ from their plate."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = [scene(frame, pose(turn=2 * frame), jawOpen=0.2 * frame) for frame in range(count)]
    target = write_video(
        folder / "target.mp4", [frame_of(one.picture) for one in scenes], options={"crf": "4"}, pixel_format="yuv420p"
    )
    person = portrait()
    source = folder / "source.png"
    Image.fromarray(person.picture).save(source)
    generated = np.array([frame not in missing for frame in range(count)])
    artifacts = {
        ("ingest", "target"): [_ingest(folder, target)],
        ("track", "target"): [_track(folder, scenes, generated)],
        ("masks", "target"): [_labels(folder / "target_masks", {one.frame: one.labels for one in scenes})],
        ("masks", "source"): [_labels(folder / "source_masks", {0: person.labels})],
        ("inpaint", "target"): [_plates(folder, count, faded)],
        ("retarget", "job"): [_retarget(folder, scenes, generated)],
    }
    return Job(folder, scenes, generated, source, target, artifacts)


def _ingest(folder: Path, target: Path) -> Artifact:
    writer = ArtifactWriter(folder / "ingest")
    Ingest().run(Work(IngestParameters(), writer, media={"clip": target}))
    return writer.local()


def _track(folder: Path, scenes: list[Scene], detected: np.ndarray) -> Artifact:
    count = len(scenes)
    landmarks = np.stack([one.landmarks + np.array([MARGIN, MARGIN, 0]) for one in scenes]).reshape(count, -1)
    landmarks[~detected] = np.nan
    return subject_table(folder / "track", np.tile(CROP, (count, 1)), detected=detected, landmarks=landmarks)


def _labels(folder: Path, maps: dict[int, np.ndarray]) -> Artifact:
    writer = ArtifactWriter(folder)
    with writer.pictures("labels") as pictures:
        for frame, labels in maps.items():
            pictures.write(frame, labels)
    rows = [{"frame": frame, "detected": True, **mask_row(labels, 0.02)} for frame, labels in maps.items()]
    writer.write_table(MASKS, {name: np.asarray([row[name] for row in rows]) for name in rows[0]})
    return writer.local()


def _plates(folder: Path, count: int, faded: tuple[int, ...]) -> Artifact:
    writer = ArtifactWriter(folder / "inpaint")
    with writer.pictures("plates") as pictures:
        pictures.write(0, frame_of(np.full((SIZE, SIZE, 3), WALL, np.uint8)))
    writer.write_table(
        PLATES,
        {
            "frame": np.arange(count, dtype=np.int32),
            "plate": np.zeros(count, np.int32),
            "transform": np.tile(np.array([1, 0, 0, 0, 1, 0], np.float32), (count, 1)),
            "seen": np.ones(count, np.float32),
            "difference": np.where(np.isin(np.arange(count), faded), 40, 1).astype(np.float32),
        },
    )
    return writer.local()


def _retarget(folder: Path, scenes: list[Scene], generated: np.ndarray) -> Artifact:
    writer = ArtifactWriter(folder / "retarget")
    count = len(scenes)

    def rows(values: list[np.ndarray]) -> np.ndarray:
        table = np.stack(values).reshape(count, -1).astype(np.float32)
        table[~generated] = np.nan
        return table

    writer.write_table(
        aligned_table(EXPRESSIONS),
        {
            "frame": np.arange(count, dtype=np.int32),
            "generated": generated,
            "landmarks": rows([one.aligned for one in scenes]),
            "expression": rows([np.zeros(EXPRESSIONS)] * count),
            "rotation": rows([one.pose.rotation for one in scenes]),
            "translation": rows([one.pose.translation for one in scenes]),
            "scale": rows([np.array(one.pose.scale) for one in scenes])[:, 0],
        },
    )
    person = portrait()
    writer.write_table(
        neutral_table(EXPRESSIONS),
        {
            "frame": np.zeros(1, np.int32),
            "crop": np.array([[SIZE / 2, SIZE / 2, SIZE]], np.float32),
            "landmarks": person.landmarks.reshape(1, -1).astype(np.float32),
            "neutral": person.landmarks.reshape(1, -1).astype(np.float32),
            "expression": np.zeros((1, EXPRESSIONS), np.float32),
            "rotation": person.pose.rotation.reshape(1, -1).astype(np.float32),
            "translation": person.pose.translation[None].astype(np.float32),
            "scale": np.array([person.pose.scale], np.float32),
        },
    )
    return writer.local()
