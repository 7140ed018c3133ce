"""A part of a frame's view has the bytes of that part of the whole picture, whatever the format and whatever is left out."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from av.video.frame import VideoFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.video.crops import extract_crop
from stages.video.decode import open_clip
from stages.video.native import native_frames, planes
from stages.video.view import ArrayView, CodedView, as_view, crop_part
from tests.media import moving_pictures, write_video

FORMATS = ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "gray", "yuv420p10le", "yuv440p", "yuva420p", "gray10le"]


def _frame(pixel_format: str, width: int, height: int, matrix: int, limits: int) -> VideoFrame:
    frame = VideoFrame(width, height, pixel_format)
    random = np.random.default_rng(width + height)
    for plane in planes(frame):
        top = 256 if plane.dtype == np.uint8 else 1024
        plane[...] = random.integers(0, top, plane.shape)
    frame.colorspace, frame.color_range = matrix, limits
    frame.time_base = Fraction(1, 25)
    return frame


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_a_part_has_the_bytes_of_the_whole(data: st.DataObject) -> None:
    width, height = data.draw(st.sampled_from([(128, 96), (130, 98), (97, 131), (64, 33)]))
    matrix, limits = data.draw(st.sampled_from([(2, 0), (1, 1), (5, 2), (9, 1)]))
    rotation = data.draw(st.sampled_from([0, 0, 90, 180, 270]))
    frame = _frame(data.draw(st.sampled_from(FORMATS)), width, height, matrix, limits)
    whole = CodedView(frame, rotation).rgb()
    assert whole.shape == ((width, height, 3) if rotation in (90, 270) else (height, width, 3))
    view = CodedView(frame, rotation)
    assert (view.height, view.width) == whole.shape[:2]
    left, top = data.draw(st.integers(0, view.width - 1)), data.draw(st.integers(0, view.height - 1))
    right, bottom = data.draw(st.integers(left + 1, view.width)), data.draw(st.integers(top + 1, view.height))
    np.testing.assert_array_equal(view.part(left, top, right, bottom), whole[top:bottom, left:right])
    assert view.brightness().shape == whole.shape[:2]


@settings(max_examples=60, deadline=None)
@given(
    x=st.floats(-40, 180),
    y=st.floats(-40, 140),
    side=st.floats(8, 200),
)
def test_a_crop_of_its_part_is_the_crop_of_the_frame(x: float, y: float, side: float) -> None:
    rgb = np.random.default_rng(3).integers(0, 256, (96, 128, 3), np.uint8)
    crop = np.array([x, y, side])
    part, there = crop_part(ArrayView(rgb), crop)
    difference = np.abs(extract_crop(part, there, 32).astype(int) - extract_crop(rgb, crop, 32))
    # OpenCV rounds places to 1/32 of a pixel, here from another origin.
    assert difference.mean() < 2


@pytest.mark.parametrize("rotation", [0, 90])
def test_brightness_follows_the_picture(rotation: int) -> None:
    frame = _frame("yuv420p", 64, 32, 1, 1)
    for plane, value in zip(planes(frame), (0, 128, 128), strict=True):
        plane[...] = value
    planes(frame)[0][:] = np.linspace(16, 235, 64)[None].round()
    brightness = CodedView(frame, rotation).brightness().astype(float)
    grey = ArrayView(CodedView(frame, rotation).rgb()).brightness().astype(float)
    assert np.corrcoef(brightness.ravel(), grey.ravel())[0, 1] > 0.999


def test_a_picture_is_a_view_of_itself() -> None:
    rgb = np.zeros((4, 6, 3), np.uint8)
    assert as_view(rgb).rgb() is rgb
    assert as_view(as_view(rgb)).width == 6


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"g": "250", "bf": "3", "x264-params": "b-pyramid=normal"}),
        ("libx264", {"g": "12", "bf": "2", "x264-params": "open-gop=1"}),
        ("libx265", {"x265-params": "bframes=3:log-level=none:pools=none"}),
        ("mpeg4", {"g": "30", "bf": "2"}),
    ],
)
def test_frames_left_out_do_not_change_those_that_are_read(tmp_path: Path, codec: str, options: dict[str, str]) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_pictures(90), codec=codec, options=options)
    with open_clip(path, decoder="pyav") as clip:
        whole = [picture for _, picture in clip.iterate()]
        for wanted in ([0, 1, 40, 44, 89], [70, 71], [5, 88], [50, 20, 21]):
            for number, view in clip.iterate_views(wanted):
                np.testing.assert_array_equal(view.rgb(), whole[number])
        np.testing.assert_array_equal(clip.read(22), whole[22])  # was left out just now
    for start in (1, 37, 88):
        for number, frame in native_frames(path, range(start, 90)):
            np.testing.assert_array_equal(CodedView(frame, 0).rgb(), whole[number])
    with open_clip(path) as clip, pytest.raises(IndexError):
        next(clip.iterate_views([89, 90]))
