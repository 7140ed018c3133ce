"""Ingest: frame times, shots and chunks of videos and pictures."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.parameters import IngestParameters
from schemas.problems import MediaError
from stages.contract import Work
from stages.ingest import Ingest, stream_facts
from storage.artifacts import Artifact, ArtifactWriter
from storage.tables import array
from tests.media import cut_off, moving_picture, moving_pictures, write_video
from tests.stages.video.retiming import retimed


def ingest(path: Path, folder: Path, **parameters: int | float) -> Artifact:
    writer = ArtifactWriter(folder)
    Ingest().run(Work(IngestParameters(**parameters), writer, media={"clip": path}))
    return writer.local()


def other_scene(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(5)
    base = np.kron(generator.integers(0, 255, (6, 8, 3)), np.ones((20, 20, 1))).astype(np.uint8)
    return [np.roll(base, frame, axis=1) for frame in range(count)]


def test_frames_shots_and_chunks_of_a_video_with_a_cut(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", [*moving_pictures(23), *other_scene(17)], audio=True)
    artifact = ingest(path, tmp_path / "out", chunk_frames=10)
    frames, chunks = artifact.table("frames"), artifact.table("chunks")
    assert array(frames, "frame").tolist() == list(range(40))
    assert array(frames, "shot").tolist() == [0] * 23 + [1] * 17
    assert np.allclose(array(frames, "seconds"), np.arange(40) / 25)
    found = [tuple(row.values()) for row in chunks.to_pylist()]
    assert found == [(0, 0, 0, 7), (1, 0, 7, 15), (2, 0, 15, 23), (3, 1, 23, 31), (4, 1, 31, 40)]
    facts = stream_facts(artifact.facts["stream"])
    assert (facts.frames, facts.width, facts.height, facts.kind) == (40, 160, 120, "video")
    assert artifact.facts["damaged_frames"] == []


def test_variable_times_are_kept_in_the_files_own_time_base(tmp_path: Path) -> None:
    times = [70, 110, 130, 131, 300, 400]
    artifact = ingest(write_video(tmp_path / "clip.mkv", moving_pictures(6), pts=times), tmp_path / "out")
    facts = stream_facts(artifact.facts["stream"])
    assert Fraction(facts.time_base) == Fraction(1, 1000)
    assert array(artifact.table("frames"), "pts").tolist() == times
    assert array(artifact.table("frames"), "seconds")[0] == 0
    assert facts.variable_frame_rate


def test_a_picture_is_one_frame_one_shot_one_chunk(tmp_path: Path) -> None:
    Image.fromarray(moving_picture(0)).save(tmp_path / "portrait.png")
    artifact = ingest(tmp_path / "portrait.png", tmp_path / "out")
    assert artifact.table("frames").num_rows == 1
    assert artifact.table("chunks").to_pylist() == [{"chunk": 0, "shot": 0, "start": 0, "stop": 1}]
    assert stream_facts(artifact.facts["stream"]).kind == "picture"


def test_the_frames_before_the_cut_off_end_are_kept_and_noted(tmp_path: Path) -> None:
    whole = write_video(
        tmp_path / "whole.mp4", moving_pictures(50, 320, 240), options={"crf": "5"}, container_options={"movflags": "faststart"}
    )
    artifact = ingest(cut_off(whole, tmp_path / "part.mp4"), tmp_path / "out")
    facts = stream_facts(artifact.facts["stream"])
    assert facts.truncated
    assert facts.frames == artifact.table("frames").num_rows
    assert 20 < facts.frames < 50


def test_a_frame_whose_time_stamp_repeats_is_left_out_and_noted(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", moving_pictures(40))
    path = retimed(whole, tmp_path / "clip.mp4", [k - (k == 20) for k in range(40)])
    artifact = ingest(path, tmp_path / "out")
    seconds = array(artifact.table("frames"), "seconds")
    assert np.allclose(seconds, np.delete(np.arange(40) / 25, 20))
    assert artifact.facts["damaged_frames"] == []
    (note,) = stream_facts(artifact.facts["stream"]).notes
    assert "time stamps repeat" in note


def test_progress_counts_every_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_pictures(57))
    counted: list[int] = []
    writer = ArtifactWriter(tmp_path / "out")
    Ingest().run(Work(IngestParameters(), writer, media={"clip": path}, progress=counted.append))
    assert sum(counted) == 57


def test_a_bad_file_names_itself(tmp_path: Path) -> None:
    (tmp_path / "letter.mp4").write_text("Dear editor")
    with pytest.raises(MediaError, match=r"letter\.mp4"):
        ingest(tmp_path / "letter.mp4", tmp_path / "out")
