"""Assemble: segments of a job become one video with the target's times and sound, which says what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from schemas.parameters import AssembleParameters, IngestParameters
from stages.assemble import Assemble
from stages.contract import Inputs, Work
from stages.ingest import Ingest, stream_facts
from stages.video.decode import probe, timestamps
from stages.video.encode import SEGMENT_NAME, SegmentWriter
from stages.video.native import native_frames
from storage.artifacts import Artifact, ArtifactWriter
from tests.media import moving_picture, moving_pictures, write_video

OPTIONS = {
    "rights": "own likeness",
    "source_name": "anna",
    "target_name": "interview",
    "source_digest": "a1",
    "target_digest": "b2",
    "renderer": "warp",
}


def assemble(target: Path, folder: Path, container: str = "mp4", chunks: int = 3, picture: Path | None = None) -> Artifact:
    """``picture``: a video whose planes stand for the composited frames where the target has none of its own."""
    ingested = ArtifactWriter(folder / "ingest")
    Ingest().run(Work(IngestParameters(), ingested, media={"clip": target}))
    ingest = ingested.local()
    facts, (pts, _, _) = stream_facts(ingest.facts["stream"]), timestamps(target)
    segments = []
    for number in range(chunks):
        start, stop = facts.frames * number // chunks, facts.frames * (number + 1) // chunks
        writer = ArtifactWriter(folder / f"encode{number}")
        with SegmentWriter.for_clip(writer.file(SEGMENT_NAME), facts, preset="ultrafast") as segment:
            for frame, native in native_frames(picture or target, range(start, stop)):
                segment.write(native, int(pts[frame]))
        segments.append(writer.local())
    output = ArtifactWriter(folder / "assemble")
    inputs = Inputs({("ingest", "target"): [ingest], ("encode", "job"): segments})
    Assemble().run(Work(AssembleParameters(container=container), output, inputs, {"target": target}, options=OPTIONS))
    return output.local()


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
def test_the_result_has_the_targets_frames_and_sound_and_says_what_it_is(tmp_path: Path, container: str) -> None:
    target = write_video(tmp_path / "target.mp4", moving_pictures(20), audio=True, rotation=90)
    result = assemble(target, tmp_path, container)
    facts = probe(result.file(f"video.{container}"))
    assert (facts.frames, facts.width, facts.height, facts.rotation) == (20, 120, 160, 90)
    assert facts.audio[0].packets == probe(target).audio[0].packets == result.facts["audio_packets"][0]  # type: ignore[index]
    provenance = result.facts["provenance"]
    assert isinstance(provenance, dict)
    assert {name: provenance[name] for name in OPTIONS} == OPTIONS
    assert provenance["digital_source_type"].endswith("compositeWithTrainedAlgorithmicMedia")
    assert provenance["stage_versions"]["assemble"] == Assemble.version
    with av.open(str(result.file(f"video.{container}"))) as opened:
        tags: dict[str, Any] = {key.lower(): value for key, value in opened.metadata.items()}
    assert json.loads(tags["comment"]) == provenance
    assert "interview" in tags["title"]


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_equal_work_gives_equal_bytes(tmp_path: Path, container: str) -> None:
    target = write_video(tmp_path / "target.mp4", moving_pictures(12), audio=True)
    name = f"video.{container}"
    first, second = (assemble(target, tmp_path / run, container).file(name).read_bytes() for run in ("first", "second"))
    assert first == second


def test_a_picture_as_target_becomes_a_video_of_one_frame(tmp_path: Path) -> None:
    Image.fromarray(moving_picture(0)).save(tmp_path / "target.png")
    stand_in = write_video(tmp_path / "planes.mkv", [moving_picture(0)], codec="ffv1", pixel_format="yuv444p")
    result = assemble(tmp_path / "target.png", tmp_path, chunks=1, picture=stand_in)
    facts = probe(result.file("video.mp4"))
    assert (facts.frames, facts.width, facts.height) == (1, 160, 120)
    assert not facts.audio
