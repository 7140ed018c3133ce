"""The stage ``encode``: what goes into the encoder, and the segment that comes out."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from schemas.tables import FOREGROUND_BLOCKS
from stages.contract import Chunk
from stages.encode import Overlay, composited, target_frames
from stages.ingest import stream_facts
from stages.video.decode import probe
from stages.video.native import native_frames, planes
from storage.artifacts import ArtifactWriter
from tests.media import moving_pictures, write_video
from tests.stages.swap_artifacts import painted_job

RED = np.full((128, 128, 3), (220, 30, 30), np.uint8)


def overlay(count: int, generated: list[bool], crop: tuple[float, float, float] = (80.0, 60.0, 70.0)) -> Overlay:
    region = np.zeros((FOREGROUND_BLOCKS, FOREGROUND_BLOCKS), bool)
    region[3:12, 4:12] = True
    return Overlay(
        np.arange(count),
        np.array(generated),
        np.tile(np.array(crop), (count, 1)),
        np.tile(region.ravel(), (count, 1)),
    )


def red_pictures(folder: Path, count: int):
    writer = ArtifactWriter(folder)
    with writer.pictures("crops") as pictures:
        for frame in range(count):
            pictures.write(frame, RED)
    return writer.local().pictures("crops")


@pytest.mark.parametrize(
    ("pixel_format", "rotation"),
    [("yuv420p", 0), ("yuv420p", 90), ("yuv420p", 180), ("yuv420p", 270), ("yuv444p", 0), ("yuv422p", 0), ("yuv420p10le", 0)],
)
def test_outside_the_region_every_plane_keeps_its_bits(tmp_path: Path, pixel_format: str, rotation: int) -> None:
    path = write_video(tmp_path / "a.mp4", moving_pictures(3), pixel_format=pixel_format, rotation=rotation)
    originals = [frame for _, frame in native_frames(path)]
    frames = composited(native_frames(path), overlay(3, [True] * 3), red_pictures(tmp_path / "r", 3), rotation, 0.03)
    for original, result in zip(originals, frames, strict=True):
        assert result.region is not None
        assert 300 < result.region.sum() < result.region.size / 2
        coded = np.rot90(result.region, rotation // 90)
        for before, after in zip(planes(original), planes(result.picture), strict=True):
            step_y, step_x = -(-coded.shape[0] // before.shape[0]), -(-coded.shape[1] // before.shape[1])
            touched = coded.reshape(before.shape[0], step_y, before.shape[1], step_x).any(axis=(1, 3))
            np.testing.assert_array_equal(before[~touched], after[~touched])
            assert (before[touched] != after[touched]).any()


def test_the_crop_lands_upright_in_a_rotated_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving_pictures(1), rotation=90)
    half = RED.copy()
    half[:64] = (20, 20, 220)
    writer = ArtifactWriter(tmp_path / "r")
    with writer.pictures("crops") as pictures:
        pictures.write(0, half)
    frames = composited(native_frames(path), overlay(1, [True], (60, 80, 70)), writer.local().pictures("crops"), 90, 0.03)
    shown = np.rot90(next(frames).picture.to_ndarray(format="rgb24"), -1).astype(int)
    assert shown[68, 60, 2] > shown[68, 60, 0] + 80  # blue above
    assert shown[92, 60, 0] > shown[92, 60, 2] + 80  # red below


def test_a_frame_that_was_not_generated_passes_through_untouched(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving_pictures(3))
    originals = [frame for _, frame in native_frames(path)]
    results = list(composited(native_frames(path), overlay(3, [True, False, True]), red_pictures(tmp_path / "r", 3), 0, 0.03))
    assert results[1].region is None
    for before, after in zip(planes(originals[1]), planes(results[1].picture), strict=True):
        np.testing.assert_array_equal(before, after)
    assert results[0].region is not None


def test_a_crop_beyond_the_frame_is_cut_at_its_border(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving_pictures(1))
    everything = Overlay(np.array([0]), np.array([True]), np.array([[10.0, 5.0, 90.0]]), np.ones((1, 256), bool))
    result = next(composited(native_frames(path), everything, red_pictures(tmp_path / "r", 1), 0, 0.03))
    assert result.region is not None
    assert result.region[0, 0]  # no soft border where the crop goes on beyond the frame
    shown = result.picture.to_ndarray(format="rgb24").astype(int)
    assert shown[0, 0, 0] > 180
    assert not result.region[:, 60:].any()


def test_a_segment_has_every_frame_and_the_head_in_it(tmp_path: Path) -> None:
    job = painted_job(tmp_path, missing=(1,))
    chunk = Chunk(0, 0, 0, 6)
    rendered = job.render(chunk)
    segment = job.encode(chunk, [rendered], rendered, preset="ultrafast")
    with av.open(str(segment.file("segment.mp4"))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == segment.facts["frames"] == 6
    assert segment.facts["generated"] == 5
    assert frames[0].shape == (320, 320, 3)


def test_chunks_encode_the_same_frames_as_the_whole(tmp_path: Path) -> None:
    job = painted_job(tmp_path)
    chunks = [Chunk(0, 0, 0, 3), Chunk(1, 0, 3, 6)]
    rendered = [job.render(chunk) for chunk in chunks]
    whole = job.render(Chunk(0, 0, 0, 6), "whole")
    facts = stream_facts(job.artifacts["ingest", "target"][0].facts["stream"])
    segments = [job.encode(chunk, rendered, same, crf=0) for chunk, same in zip(chunks, rendered, strict=True)]
    together = job.encode(Chunk(9, 0, 0, 6), [whole], whole, crf=0)
    pictures: list[list[np.ndarray]] = []
    for group in (segments, [together]):
        shown: list[np.ndarray] = []
        for segment in group:
            with av.open(str(segment.file("segment.mp4"))) as container:
                shown += [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        pictures.append(shown)
    assert facts.frames == len(pictures[0]) == len(pictures[1]) == 6
    for first, second in zip(*pictures, strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_still_target_is_one_frame(tmp_path: Path) -> None:
    path = tmp_path / "still.png"
    Image.fromarray(moving_pictures(1)[0]).save(path)
    frames = list(target_frames(path, probe(path), range(1)))
    assert [number for number, _ in frames] == [0]
    assert frames[0][1].format.name == "yuv444p"
