"""Segments and their join: the target's frames, times, sound, rotation and tags, the same bits every time."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av import VideoFrame

from schemas.problems import MediaError
from stages.video.decode import StreamFacts, open_clip, probe, timestamps
from stages.video.encode import SegmentWriter, encoded_format, to_format
from stages.video.join import Joined, container_for, join_segments
from stages.video.native import native_frames, planes
from tests.media import cut_off, moving_picture, moving_pictures, write_video


def encode(path: Path, folder: Path, cuts: list[int], **settings: str) -> list[Path]:
    facts, (pts, _, _) = probe(path), timestamps(path)
    segments = []
    for start, stop in itertools.pairwise(cuts):
        segments.append(folder / f"segment{start}.mp4")
        with SegmentWriter.for_clip(segments[-1], facts, **{"preset": "ultrafast", **settings}) as writer:
            for number, frame in native_frames(path, range(start, stop)):
                writer.write(frame, int(pts[number]))
    return segments


def encode_and_join(path: Path, output: Path, cuts: list[int], **settings: str) -> Joined:
    pts, duration, time_base = timestamps(path)
    segments = encode(path, output.parent, cuts, **settings)
    return join_segments(segments, path, output, pts=pts, duration=duration, time_base=time_base, comment='{"a": 1}')


def sound(path: Path) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return []
        return [(p.pts * p.time_base, bytes(p)) for p in container.demux(container.streams.audio[0]) if p.size]


def assert_same_frames_and_sound(original: Path, result: Path) -> None:
    before, after = timestamps(original), timestamps(result)
    assert [value * before[2] for value in before[0].tolist()] == [value * after[2] for value in after[0].tolist()]
    assert sound(original) == sound(result)
    wanted, found = probe(original), probe(result)
    for name in ("width", "height", "coded_width", "rotation", "color_space", "color_primaries", "sample_aspect_ratio", "frames"):
        assert getattr(wanted, name) == getattr(found, name), name
    with open_clip(original) as first, open_clip(result) as second:
        for number in range(first.frames):
            assert np.abs(first.read(number).astype(int) - second.read(number)).mean() < 3, number


VARIABLE = [0, 40, 90, 91, 200, 210, 230, 500, 501, 502, 504, 600, 1000, 1001, 1100, 1200, 1203, 1300, 1400, 1500]
INPUTS: dict[str, tuple[str, dict]] = {
    "plain with sound": (".mp4", {"audio": True}),
    "sound longer than the picture": (".mp4", {"audio": 2.0}),
    "variable frame rate": (".mp4", {"pts": VARIABLE, "audio": True}),
    "picture starts late": (".mp4", {"pts": [350 + 40 * k for k in range(20)], "audio": True}),
    "Matroska": (".mkv", {"pts": [70 + 40 * k for k in range(20)]}),
    "NTSC": (".mp4", {"fps": Fraction(30000, 1001), "audio": True}),
    "turned by 90": (".mp4", {"rotation": 90, "audio": True}),
    "turned by 180": (".mp4", {"rotation": 180}),
    "turned by 270": (".mp4", {"rotation": 270}),
    "BT.709 with aspect": (".mp4", {"color_space": 1, "color_range": 2, "sample_aspect_ratio": Fraction(15, 16)}),
    "10 bits": (".mp4", {"pixel_format": "yuv420p10le"}),
    "4:2:2": (".mp4", {"pixel_format": "yuv422p"}),
    "AVI": (".avi", {"codec": "mpeg4"}),
    "VP9": (".webm", {"codec": "libvpx-vp9"}),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_the_joined_video_has_the_targets_times_sound_and_tags(tmp_path: Path, kind: str) -> None:
    suffix, settings = INPUTS[kind]
    path = write_video(tmp_path / f"clip{suffix}", moving_pictures(20), **settings)
    joined = encode_and_join(path, tmp_path / "joined.mp4", [0, 7, 8, 20])
    assert joined.frames == 20
    assert not joined.notes
    assert_same_frames_and_sound(path, tmp_path / "joined.mp4")


@pytest.mark.parametrize("size", [(479, 361), (161, 120), (160, 121)])
def test_odd_sizes_are_kept(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_video(tmp_path / "odd.mp4", moving_pictures(6, *size), codec="mpeg4", options={"b": "4M"})
    encode_and_join(path, tmp_path / "joined.mp4", [0, 3, 6])
    assert_same_frames_and_sound(path, tmp_path / "joined.mp4")


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le"])
def test_hevc_is_joined_too(tmp_path: Path, pixel_format: str) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_pictures(12), pixel_format=pixel_format)
    encode_and_join(path, tmp_path / "joined.mp4", [0, 5, 12], codec="hevc")
    assert_same_frames_and_sound(path, tmp_path / "joined.mp4")
    assert probe(tmp_path / "joined.mp4").codec == "hevc"


@pytest.mark.parametrize("preset", ["ultrafast", "veryfast", "medium"])
def test_b_frames_keep_their_order_and_the_bits_are_the_same_every_time(tmp_path: Path, preset: str) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_pictures(20), audio=True)
    encode_and_join(path, tmp_path / "first.mp4", [0, 9, 20], preset=preset)
    encode_and_join(path, tmp_path / "second.mp4", [0, 9, 20], preset=preset)
    assert_same_frames_and_sound(path, tmp_path / "first.mp4")
    data = (tmp_path / "first.mp4").read_bytes()
    assert data == (tmp_path / "second.mp4").read_bytes()
    assert b"x264" not in data
    with av.open(str(tmp_path / "first.mp4")) as container:
        decoding = [packet.dts for packet in container.demux(container.streams.video[0]) if packet.size]
    assert decoding == sorted(set(decoding))


DIGEST = """
import hashlib, pathlib, sys
from fractions import Fraction
import cv2
from av import VideoFrame
from stages.video.decode import open_clip
from stages.video.encode import SegmentWriter

source, out, codec = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
rate = dict(time_base=Fraction(1, 25), frame_rate=Fraction(25))
writer = SegmentWriter(out, width=544, height=544, pixel_format="yuv420p", codec=codec, **rate)
with open_clip(source) as clip, writer:
    for number, picture in clip.iterate(range(20, 44)):
        shown = cv2.resize(picture, (544, 544), interpolation=cv2.INTER_CUBIC)
        writer.write(VideoFrame.from_ndarray(shown, format="rgb24").reformat(format="yuv420p"), number)
print(hashlib.sha256(out.read_bytes()).hexdigest())
"""
"""Encodes frames of a size, 34 blocks wide, at which it mattered."""


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_the_bits_do_not_depend_on_what_memory_held_before(tmp_path: Path, examples: Path, codec: str) -> None:
    found = set()
    for pattern in ("0", "85", "170"):  # glibc fills memory with it that it gives out and takes back
        arguments = [sys.executable, "-c", DIGEST, examples / "clip_smile.mp4", tmp_path / f"{pattern}.mp4", codec]
        done = subprocess.run(arguments, env={**os.environ, "MALLOC_PERTURB_": pattern}, capture_output=True, check=True)
        found.add(done.stdout)
    assert len(found) == 1


def test_a_video_that_stores_rgb_keeps_its_colours(tmp_path: Path) -> None:
    path = write_video(tmp_path / "rgb.mkv", moving_pictures(3), codec="ffv1", pixel_format="bgr0")
    encode_and_join(path, tmp_path / "joined.mp4", [0, 3])
    assert probe(tmp_path / "joined.mp4").color_space == 5
    with open_clip(tmp_path / "joined.mp4") as clip:
        for number, picture in clip.iterate():
            assert np.abs(picture.astype(int) - moving_picture(number)).mean() < 3


def test_every_segment_starts_a_group_of_its_own(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_pictures(20))
    encode_and_join(path, tmp_path / "joined.mp4", [0, 7, 13, 20], preset="veryfast")
    with av.open(str(tmp_path / "joined.mp4")) as container:
        packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
    assert [position for position, packet in enumerate(packets) if packet.is_keyframe] == [0, 7, 13]
    assert probe(tmp_path / "joined.mp4").decoder == "decord"  # which reads closed groups only


def test_the_sound_of_a_video_that_was_cut_off_is_kept_as_far_as_it_goes(tmp_path: Path) -> None:
    options = {"movflags": "faststart"}
    whole = write_video(
        tmp_path / "whole.mp4", moving_pictures(40, 320, 240), audio=True, options={"crf": "5"}, container_options=options
    )
    part = cut_off(whole, tmp_path / "part.mp4")
    frames = probe(part).frames
    encode_and_join(part, tmp_path / "joined.mp4", [0, frames])
    assert_same_frames_and_sound(part, tmp_path / "joined.mp4")


def test_broadcast_time_starts_from_zero_and_the_report_says_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.ts", moving_pictures(20), audio=True)
    joined = encode_and_join(path, tmp_path / "joined.mp4", [0, 20])
    (note,) = joined.notes
    assert "taken off" in note
    before, after = timestamps(path), timestamps(tmp_path / "joined.mp4")
    assert np.array_equal(np.diff(before[0]) * before[2], np.diff(after[0]) * after[2])
    assert len(sound(path)) == len(sound(tmp_path / "joined.mp4"))


def test_sound_that_mp4_cannot_hold_changes_the_container(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        audio = container.add_stream("pcm_mulaw", rate=8000, layout="mono")
        for picture in moving_pictures(10):
            container.mux(video.encode(VideoFrame.from_ndarray(picture, format="rgb24")))
        block = av.AudioFrame.from_ndarray(np.arange(3200, dtype=np.int16)[None], format="s16", layout="mono")
        block.sample_rate = 8000
        container.mux(audio.encode(block))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    kind, notes = container_for(path, "mp4")
    assert kind == "mov"
    assert "pcm_mulaw" in notes[0]
    encode_and_join(path, tmp_path / "joined.mov", [0, 10])
    assert b"".join(data for _, data in sound(path)) == b"".join(data for _, data in sound(tmp_path / "joined.mov"))


def test_segments_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_pictures(12))
    pts, duration, time_base = timestamps(path)
    good = encode(path, tmp_path, [0, 6, 12])
    other = tmp_path / "other"
    other.mkdir()
    strange = encode(path, other, [6, 12], preset="medium")
    for segments in ([good[0]], [*good, good[0]], [good[0], *strange]):
        with pytest.raises(MediaError) as caught:
            join_segments(segments, path, tmp_path / "x.mp4", pts=pts, duration=duration, time_base=time_base)
        assert caught.value.code == "segments_differ"


def test_an_unfinished_segment_leaves_no_file(tmp_path: Path) -> None:
    facts = probe(write_video(tmp_path / "clip.mp4", moving_pictures(3)))
    with pytest.raises(RuntimeError), SegmentWriter.for_clip(tmp_path / "segment.mp4", facts):
        raise RuntimeError
    assert not (tmp_path / "segment.mp4").exists()


@pytest.mark.parametrize(
    ("pixel_format", "size", "expected"),
    [
        ("yuv420p", (1280, 720), "yuv420p"),
        ("yuvj420p", (640, 480), "yuv420p"),
        ("yuv420p", (479, 361), "yuv444p"),
        ("yuv422p", (480, 361), "yuv422p"),
        ("yuv420p10le", (1280, 720), "yuv420p10le"),
        ("yuv444p12le", (1280, 720), "yuv444p10le"),
        ("gray", (64, 64), "yuv420p"),
        ("bgr0", (64, 64), "yuv444p"),
    ],
)
def test_the_encoded_format_keeps_depth_and_sampling(pixel_format: str, size: tuple[int, int], expected: str) -> None:
    assert encoded_format(pixel_format, *size) == expected


def test_changing_the_format_moves_no_code() -> None:
    frame = VideoFrame(5, 3, "yuvj420p")
    for view in planes(frame):
        view[...] = np.arange(view.size).reshape(view.shape)
    wide = planes(to_format(frame, "yuv444p"))
    assert np.array_equal(wide[0], planes(frame)[0])
    assert np.array_equal(wide[1], planes(frame)[1][[0, 0, 1]][:, [0, 0, 1, 1, 2]])
    deep = planes(to_format(frame, "yuv420p10le"))
    assert np.array_equal(deep[2], planes(frame)[2].astype(int) * 4)


def test_real_clips_keep_their_frames_times_and_sound(shared: Path, tmp_path: Path) -> None:
    for path in sorted((shared / "media" / "clips").iterdir()):
        facts: StreamFacts = probe(path)
        pts, duration, time_base = timestamps(path)
        # Two small segments stand for the whole: times of all frames, pixels of a few.
        cuts = [0, facts.frames // 2, facts.frames]
        small = VideoFrame(facts.coded_width, facts.coded_height, "yuv420p")
        for view, value in zip(planes(small), (90, 128, 128), strict=True):
            view[...] = value
        segments = []
        for start, stop in itertools.pairwise(cuts):
            segments.append(tmp_path / f"{path.stem}{start}.mp4")
            with SegmentWriter.for_clip(segments[-1], facts, preset="ultrafast") as writer:
                for number in range(start, stop):
                    writer.write(small, int(pts[number]))
        output = tmp_path / f"{path.stem}.mp4"
        join_segments(segments, path, output, pts=pts, duration=duration, time_base=time_base)
        found = timestamps(output)
        assert found[2] == time_base
        assert np.array_equal(found[0], pts)
        assert np.array_equal(found[1], duration)
        assert sound(path) == sound(output)
