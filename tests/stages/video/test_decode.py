"""Reading: every reader gives the same frame under the same number, and what cannot be read is refused with a reason."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from flows.execution import media_limits
from schemas.configuration import load_settings
from schemas.problems import MediaError, UsageError
from stages.video.decode import Limits, StreamFacts, open_clip, probe, timestamps
from stages.video.native import native_frames
from tests.media import cut_off, moving_picture, moving_pictures, write_video
from tests.stages.video.retiming import retimed


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b).mean())


def test_every_frame_read_is_the_frame_written(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_pictures(30), options={"crf": "10", "g": "8"})
    with open_clip(path) as clip:
        assert (clip.frames, clip.width, clip.height, clip.decoder) == (30, 160, 120, "decord")
        for number, picture in clip.iterate():
            distances = [difference(picture, moving_picture(other)) for other in (number - 1, number, number + 1)]
            assert np.argmin(distances) == 1, number


@pytest.mark.parametrize(
    ("suffix", "settings"),
    [
        (".mp4", {"options": {"x264-params": "keyint=8:bframes=3"}}),
        (".mp4", {"options": {"x264-params": "open-gop=1:keyint=8:bframes=3"}}),
        (
            ".mp4",
            {"pts": [0, 40, 90, 91, 200, 210, 230, 500, 501, 502, 504, 600, 1000, 1001, 1100, 1200, 1203, 1300, 1400, 1500]},
        ),
        (".mkv", {"pts": [70 + 40 * k for k in range(20)]}),
        (".mp4", {"rotation": 90}),
        (".mov", {"rotation": 180}),
        (".mp4", {"pixel_format": "yuv420p10le"}),
        (".mp4", {"pixel_format": "yuv444p"}),
        (".mp4", {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=8"}}),
        (".mkv", {"codec": "mpeg4", "options": {"g": "8"}}),
        (".avi", {"codec": "mpeg4", "options": {"bf": "2", "g": "8"}}),
        (".ts", {"options": {"g": "8"}}),
        (".webm", {"codec": "libvpx-vp9"}),
        (".mkv", {"codec": "ffv1", "pixel_format": "bgr0"}),
    ],
)
def test_any_order_of_reading_gives_what_reading_from_the_start_gives(tmp_path: Path, suffix: str, settings: dict) -> None:
    path = write_video(tmp_path / f"clip{suffix}", moving_pictures(20), **settings)
    with open_clip(path, decoder="pyav") as clip:
        expected = [picture for _, picture in clip.iterate()]
    assert len(expected) == 20
    with open_clip(path) as clip:
        for number in (13, 4, 19, 0, 12, 11, 7, 8, 18, 2):
            assert np.array_equal(clip.read(number), expected[number]), (number, clip.decoder)
        assert np.array_equal(clip.read_many([9, 3, 3, 15]), np.stack([expected[k] for k in (9, 3, 3, 15)]))
    for start in (0, 5, 8, 19):
        assert [number for number, _ in native_frames(path, range(start, 20))] == list(range(start, 20))


@pytest.mark.parametrize("size", [(479, 361), (161, 120), (160, 121)])
@pytest.mark.parametrize(("codec", "pixel_format"), [("mpeg4", "yuv420p"), ("libx264", "yuv444p")])
def test_odd_sizes_keep_their_size_and_content(tmp_path: Path, size: tuple[int, int], codec: str, pixel_format: str) -> None:
    width, height = size
    path = write_video(tmp_path / "odd.mp4", moving_pictures(3, width, height), codec=codec, pixel_format=pixel_format)
    with open_clip(path) as clip:
        picture = clip.read(1)
    assert picture.shape == (height, width, 3)
    assert difference(picture, moving_picture(1, width, height)) < 4


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_applied_clockwise(tmp_path: Path, rotation: int) -> None:
    path = write_video(tmp_path / "turned.mp4", moving_pictures(4), rotation=rotation, audio=True)
    facts = probe(path)
    assert facts.rotation == rotation
    assert (facts.width, facts.height) == ((120, 160) if rotation != 180 else (160, 120))
    assert (facts.coded_width, facts.coded_height) == (160, 120)
    with open_clip(path) as clip:
        assert difference(clip.read(2), np.rot90(moving_picture(2), -rotation // 90)) < 4


def test_timestamps_are_those_of_the_file(tmp_path: Path) -> None:
    times = [120, 160, 210, 211, 300, 1000]
    path = write_video(tmp_path / "variable.mp4", moving_pictures(6), pts=times)
    pts, duration, time_base = timestamps(path)
    assert [value * time_base for value in pts.tolist()] == [Fraction(value, 1000) for value in times]
    assert [value * time_base * 1000 for value in duration.tolist()][:-1] == np.diff(times).tolist()
    facts = probe(path)
    assert facts.variable_frame_rate
    assert not probe(write_video(tmp_path / "even.mp4", moving_pictures(6))).variable_frame_rate


@pytest.mark.parametrize(("suffix", "frames"), [(".mp4", 50), (".mkv", 100)])
def test_a_video_that_is_cut_off_gives_the_frames_before_the_cut(tmp_path: Path, suffix: str, frames: int) -> None:
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    pictures = moving_pictures(frames, 320, 240)
    whole = write_video(tmp_path / f"whole{suffix}", pictures, options={"crf": "5", "g": "10"}, container_options=options)
    facts = probe(part := cut_off(whole, tmp_path / f"part{suffix}"))
    assert facts.truncated
    assert "cut off" in " ".join(facts.notes)
    assert frames * 0.4 < facts.frames < frames
    assert facts.decoder == "pyav"
    with open_clip(whole, decoder="pyav") as expected, open_clip(part) as found:
        for number, picture in found.iterate():
            assert np.array_equal(picture, expected.read(number)), number


@pytest.mark.parametrize(
    ("suffix", "settings"),
    [
        (".mkv", {}),
        (".mkv", {"audio": True}),
        (".mkv", {"audio": 0.5}),
        (".mkv", {"pts": [5000 + 40 * k for k in range(24)]}),
        (".webm", {"codec": "libvpx-vp9", "options": {"g": "8"}}),
        (".mxf", {"codec": "mpeg2video", "options": {"b": "2000000"}}),
        (".avi", {"codec": "mpeg4", "options": {"b": "2000000"}}),
    ],
)
def test_a_short_video_that_ends_before_its_header_says_is_cut_off(tmp_path: Path, suffix: str, settings: dict) -> None:
    whole = write_video(tmp_path / f"whole{suffix}", moving_pictures(24, 320, 240), **{"options": {"crf": "5"}, **settings})
    assert (probe(whole).truncated, probe(whole).notes) == (False, ())
    facts = probe(cut_off(whole, tmp_path / f"part{suffix}", 0.66))
    assert facts.truncated
    assert facts.frames < 22
    assert facts.notes == (f"The file is cut off: its first {facts.frames} frames are used.",)


@pytest.mark.parametrize(
    ("suffix", "settings"),
    [
        (".mkv", {"audio": 4.0}),
        (".mkv", {"pts": [40 * k for k in range(23)] + [9000]}),
        (".mkv", {"pts": [40 * k + 3000 * (k > 11) for k in range(24)]}),
        (".mkv", {"pts": [7000 + 33 * k + k % 3 for k in range(24)]}),
        (".mkv", {"container_options": {"live": "1"}}),
        (".mp4", {"audio": 4.0}),
        (".mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
        (".mp4", {"pts": [5000 + 40 * k for k in range(24)]}),
        (".avi", {"codec": "mpeg4", "pts": [k + 9 * (k > 11) for k in range(24)], "time_base": Fraction(1, 25)}),
        (".ts", {"audio": 4.0}),
        (".mpg", {"codec": "mpeg2video"}),
        (".flv", {}),
    ],
    ids=["sound", "last", "pause", "jitter", "live", "sound", "pieces", "late", "repeats", "sound", "bit rate", "start"],
)
def test_a_whole_video_is_not_taken_for_one_that_is_cut_off(tmp_path: Path, suffix: str, settings: dict) -> None:
    facts = probe(write_video(tmp_path / f"clip{suffix}", moving_pictures(24), **settings))
    assert (facts.truncated, facts.notes) == (False, ())


@pytest.mark.parametrize(("first", "share"), [(0, 0.4), (15, 0.6), (25, 0.85)])
def test_what_an_edit_list_leaves_out_is_not_missed(tmp_path: Path, first: int, share: float) -> None:
    path = write_video(
        tmp_path / "whole.mp4", moving_pictures(50), options={"g": "10"}, container_options={"movflags": "faststart"}
    )
    shortened = edited(path, tmp_path / "part.mp4", first, 1.0)
    facts = probe(shortened)
    assert (facts.frames, facts.truncated, facts.notes) == (25, False, ())
    with open_clip(path, decoder="pyav") as expected, open_clip(shortened) as found:
        assert np.array_equal(found.read(0), expected.read(first))
    assert probe(cut_off(shortened, tmp_path / "cut.mp4", share)).truncated


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("groups", [{"g": "10", "bf": "2"}, {"g": "1"}, {"g": "50", "bf": "0"}])
@pytest.mark.parametrize(
    ("edits", "shown"),
    [
        ([(2.0, None), (1.0, 0.48)], 25),
        ([(0.2, None), (5.0, 1.0)], 25),
        ([(5.0, 1.0)], 25),
    ],
    ids=["late", "late and longer", "longer"],
)
def test_what_an_edit_list_leaves_out_is_not_missed_however_it_shifts_the_rest(
    tmp_path: Path, edits: list[tuple[float, float | None]], shown: int, groups: dict[str, str], suffix: str
) -> None:
    path = write_video(tmp_path / f"whole{suffix}", moving_pictures(50), options=groups)
    facts = probe(with_edits(path, tmp_path / f"part{suffix}", edits))
    assert (facts.frames, facts.truncated, facts.notes) == (shown, False, ())


def with_edits(path: Path, output: Path, edits: Sequence[tuple[float, float | None]]) -> Path:
    """A copy of an MP4 without sound, its index at the end, that shows so many seconds from such a time on, or nothing (None)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst")
    _, start = struct.unpack(">Ii", data[at + 12 : at + 20])
    added = b"".join(
        struct.pack(">Iii", round(1000 * seconds), -1 if first is None else start + round(25 * first), 1 << 16)
        for seconds, first in edits
    )
    (size,) = struct.unpack(">I", data[at - 4 : at])
    data[at + 4 : at - 4 + size] = struct.pack(">II", 0, len(edits)) + added
    for kind in (b"moov", b"trak", b"edts", b"elst"):
        box = data.rindex(kind, 0, at + 4) - 4
        (length,) = struct.unpack(">I", data[box : box + 4])
        data[box : box + 4] = struct.pack(">I", length + 16 + len(added) - size)
    output.write_bytes(data)
    return output


@pytest.mark.parametrize("settings", ["bframes=0", "bframes=2"])
@pytest.mark.parametrize("movflags", ["faststart", "frag_keyframe+empty_moov"])
@pytest.mark.parametrize("lost", [1, 2, 3])
def test_an_mp4_that_lost_only_its_last_frames_is_cut_off(tmp_path: Path, lost: int, movflags: str, settings: str) -> None:
    whole = write_video(
        tmp_path / "whole.mp4",
        moving_pictures(50),
        options={"x264-params": settings},
        container_options={"movflags": movflags},
    )
    assert not probe(whole).truncated
    with av.open(str(whole)) as container:
        starts = sorted(packet.pos for packet in container.demux(video=0) if packet.size and packet.pos is not None)
    (tmp_path / "part.mp4").write_bytes(whole.read_bytes()[: starts[-lost]])
    facts = probe(tmp_path / "part.mp4")
    assert (facts.frames, facts.truncated) == (50 - lost, True)
    assert facts.notes == (f"The file is cut off: its first {50 - lost} frames are used.",)


@pytest.mark.parametrize("lost", [1, 5])
def test_an_mp4_whose_index_is_cut_off_is_cut_off(tmp_path: Path, lost: int) -> None:
    whole = write_video(tmp_path / "whole.mp4", moving_pictures(50), audio=True)
    data = whole.read_bytes()
    at = data.index(b"stco")  # says where the pictures are; what says so of the sound comes after it
    (pieces,) = struct.unpack(">I", data[at + 8 : at + 12])
    (tmp_path / "part.mp4").write_bytes(data[: at + 12 + 4 * (pieces - lost)])
    facts = probe(tmp_path / "part.mp4")
    assert facts.frames < 50
    assert facts.notes == (f"The file is cut off: its first {facts.frames} frames are used.",)


def test_an_empty_sample_is_not_missed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_pictures(50), options={"bf": "0"})
    data = bytearray(path.read_bytes())
    at = data.index(b"stsz") + 16 + 4 * 20
    data[at : at + 4] = bytes(4)
    path.write_bytes(data)
    assert (probe(path).frames, probe(path).truncated) == (49, False)


def test_a_matroska_file_with_a_longer_second_picture_track_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for stream, count in zip(streams, (24, 72), strict=True):
            for k in range(count):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(moving_picture(k), format="rgb24")))
            container.mux(stream.encode(None))
    assert (probe(path).frames, probe(path).truncated, probe(path).notes) == (24, False, ())
    facts = probe(cut_off(path, tmp_path / "part.mkv", 0.8))
    assert facts.truncated


def test_an_avi_file_that_ends_with_repeats_of_its_last_picture_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "held.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for k in range(50):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moving_picture(k), format="rgb24")))
        container.mux(stream.encode(None))
        for k in range(50, 75):
            packet = av.Packet(0)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, k, k, Fraction(1, 25)
            container.mux(packet)
    assert (probe(path).frames, probe(path).truncated, probe(path).notes) == (50, False, ())
    assert probe(cut_off(path, tmp_path / "part.avi", 0.8)).truncated


def edited(path: Path, output: Path, first: int, seconds: float) -> Path:
    """A copy of an MP4 without sound that shows ``seconds`` from frame ``first`` on, and keeps all of its samples."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12
    _, start = struct.unpack(">Ii", data[at : at + 8])  # times of the movie, in thousandths, and of the medium, in frames
    data[at : at + 8] = struct.pack(">Ii", round(1000 * seconds), start + first)
    output.write_bytes(data)
    return output


def test_a_damaged_frame_repeats_its_neighbour_and_keeps_the_numbers(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_pictures(20), options={"g": "1", "crf": "5", "preset": "ultrafast"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    path.write_bytes(bytes(data))
    found = list(native_frames(path))
    assert [number for number, _ in found] == list(range(20))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize(
    ("times", "repeated"),
    [
        ([0] * 40, 39),
        ([k // 2 * 2 for k in range(40)], 20),
        ([k - (k % 3 == 2) for k in range(40)], 13),
        ([k - (k in (10, 20, 30)) for k in range(40)], 3),
    ],
)
def test_a_video_whose_time_stamps_repeat_is_refused(tmp_path: Path, suffix: str, times: list[int], repeated: int) -> None:
    whole = write_video(tmp_path / "whole.mp4", moving_pictures(40), options={"g": "12", "bf": "0"})
    path = retimed(whole, tmp_path / f"clip{suffix}", times)
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert caught.value.code == "bad_timestamps"
    assert str(path) in caught.value.message
    assert f"{repeated} of its 40 pictures repeat the time stamp of another" in caught.value.message
    assert "ffmpeg -r 25 -i" in caught.value.remedy


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("left_out", [(20,), (12,), (13,), (12, 30)])
@pytest.mark.parametrize("settings", ["keyint=12:bframes=0", "keyint=12:bframes=3"])
def test_a_few_pictures_with_the_time_stamp_of_another_are_left_out_and_noted(
    tmp_path: Path, suffix: str, left_out: tuple[int, ...], settings: str
) -> None:
    whole = write_video(tmp_path / "whole.mp4", moving_pictures(40), options={"x264-params": settings})
    path = retimed(whole, tmp_path / f"clip{suffix}", [k - (k in left_out) for k in range(40)])
    facts = probe(path)
    assert facts.notes == (f"Pictures left out because their time stamps repeat those of others: {len(left_out)}.",)
    with open_clip(whole, decoder="pyav") as clip:
        expected = [picture for number, picture in clip.iterate() if number not in left_out]
    with open_clip(path) as clip:
        assert (clip.frames, clip.decoder) == (len(expected), "pyav")
        for number in (*range(clip.frames), 13, 4, 30, 0, 12, 11, 10, 37, 29):
            assert np.array_equal(clip.read(number), expected[number]), number
    for start in (10, 11, 12, 13, 29):
        assert np.array_equal(next(native_frames(path, range(start, 38)))[1].to_ndarray(format="rgb24"), expected[start]), start


def test_a_video_without_time_stamps_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "bare.h264", moving_pictures(20))
    with pytest.raises(MediaError, match="20 of its 20 pictures have no time stamp") as caught:
        probe(path)
    assert caught.value.code == "bad_timestamps"


def test_facts_survive_the_way_through_json(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_pictures(5), audio=True, color_space=1, color_range=1)
    facts = probe(path)
    assert StreamFacts.from_dict(facts.to_dict()) == facts
    assert (facts.color_space, facts.codec, facts.pixel_format, facts.bit_depth) == (1, "h264", "yuv420p", 8)
    (sound,) = facts.audio
    assert (sound.codec, sound.rate, sound.channels) == ("aac", 44100, 1)
    assert sound.packets > 5


def test_a_video_of_one_frame_is_a_clip(tmp_path: Path) -> None:
    facts = probe(write_video(tmp_path / "one.mp4", moving_pictures(1)))
    assert facts.frames == 1
    assert facts.seconds > 0


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [("empty.mp4", b"", "file_empty"), ("text.mp4", b"not a video " * 50, "not_media"), ("text.png", b"text", "not_media")],
)
def test_what_is_no_medium_is_refused_by_name(tmp_path: Path, name: str, content: bytes, code: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(MediaError, match=name) as caught:
        probe(path)
    assert caught.value.code == code
    assert caught.value.remedy


def test_a_missing_file_a_folder_and_sound_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="does not exist"):
        open_clip(tmp_path / "nothing.mp4")
    with pytest.raises(MediaError, match="not a file"):
        open_clip(tmp_path)
    sound = tmp_path / "sound.m4a"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError) as caught:
        probe(sound)
    assert caught.value.code == "no_frames"


@pytest.mark.parametrize("limits", [Limits(pixels=1000), Limits(frames=5), Limits(seconds=0.1), Limits(file_bytes=100)])
def test_what_is_over_a_limit_is_refused(tmp_path: Path, limits: Limits) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_pictures(10))
    with pytest.raises(MediaError) as caught:
        open_clip(path, limits=limits)
    assert caught.value.code == "too_large"
    (name,) = re.findall(r"limits\.\w+", caught.value.remedy)
    assert load_settings({name: 1}).limits


def test_readers_after_ingest_refuse_nothing_that_settings_can_admit() -> None:
    given = {"max_pixels": 2**32, "max_frames": 2**62, "max_seconds": 1e300, "max_bytes": 2**62}
    largest = media_limits(load_settings({f"limits.{name}": value for name, value in given.items()}))
    for name, value in asdict(largest).items():
        assert getattr(Limits(), name) >= value
    for name in ("max_pixels", "max_frames", "max_bytes"):
        with pytest.raises(UsageError):
            load_settings({f"limits.{name}": given[name] + 1})


def test_a_clip_that_decord_could_not_hold_is_read_by_pyav(tmp_path: Path) -> None:
    picture = np.zeros((1080, 1920, 3), np.uint8)
    for count, decoder in ((10, "decord"), (50, "pyav")):
        path = write_video(tmp_path / f"{count}.mp4", [picture] * count, options={"preset": "ultrafast"})
        assert probe(path).decoder == decoder


def test_decords_codecs_do_not_replace_those_of_pyav(tmp_path: Path) -> None:
    code = "from stages.video.decode import probe; import av, sys; c = av.CodecContext.create('libvpx-vp9', 'w'); "
    code += "c.width, c.height, c.pix_fmt, c.time_base = 64, 64, 'yuv420p', '1/25'; c.open()"
    code = code.replace("'1/25'", "__import__('fractions').Fraction(1, 25)")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3], timeout=120)


def test_a_number_beyond_the_clip_is_an_error(tmp_path: Path) -> None:
    with open_clip(write_video(tmp_path / "clip.mp4", moving_pictures(3))) as clip, pytest.raises(IndexError):
        clip.read(3)


def test_real_clips_are_whole(shared: Path, examples: Path) -> None:
    for path in (*sorted((shared / "media" / "clips").iterdir()), *sorted(examples.glob("*.mp4"))):
        assert (probe(path).truncated, probe(path).notes) == (False, ()), path.name


def test_real_clips_decode_alike_with_both_decoders(shared: Path) -> None:
    for path in sorted((shared / "media" / "clips").iterdir()):
        with open_clip(path, decoder="decord") as first, open_clip(path, decoder="pyav") as second:
            assert first.decoder == "decord"
            for number in (first.frames // 3, 0, 1):
                assert np.array_equal(first.read(number), second.read(number)), (path.name, number)
