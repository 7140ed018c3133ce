"""Windows of the coded planes: what is not pasted keeps its bits, what is pasted has the right colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from av import VideoFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.problems import MediaError
from stages.video.native import NativeWindow, native_frames, own_copy, plane_format, planes
from tests.media import moving_picture, moving_pictures, write_video

FORMATS = ["yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "gray"]


def noise_frame(
    width: int, height: int, pixel_format: str, seed: int = 0, *, matrix: int = 2, color_range: int = 1
) -> VideoFrame:
    frame = VideoFrame(width, height, pixel_format)
    layout = plane_format(pixel_format)
    assert layout is not None
    generator = np.random.default_rng(seed)
    for view in planes(frame):
        view[...] = generator.integers(0, 1 << layout.bits, view.shape)
    frame.colorspace, frame.color_range = matrix, color_range
    return frame


def values(frame: VideoFrame) -> list[np.ndarray]:
    return [view.copy() for view in planes(frame)]


windows = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 25), st.integers(1, 25))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.sampled_from([0, 90, 180, 270]),
    st.tuples(st.integers(46, 49), st.integers(46, 49)),
    windows,
    st.integers(0, 2**31),
    st.sampled_from([1, 2, 5, 9]),
)
def test_only_samples_under_the_region_change(
    pixel_format: str, rotation: int, size: tuple[int, int], window: tuple[int, int, int, int], seed: int, matrix: int
) -> None:
    frame = noise_frame(*size, pixel_format, seed % 1000, matrix=matrix)
    before = values(frame)
    x0, y0, width, height = window
    generator = np.random.default_rng(seed)
    region = generator.random((height, width)) < 0.3
    rgb = generator.uniform(0, 255, (height, width, 3)).astype(np.float32)
    NativeWindow(frame, rotation).paste(frame, rgb, region, x0, y0)
    display = np.zeros((size[0], size[1]) if rotation in (90, 270) else (size[1], size[0]), bool)
    display[y0 : y0 + height, x0 : x0 + width] = region
    coded = np.rot90(display, rotation // 90)
    layout = plane_format(pixel_format)
    assert layout is not None
    for channel, (old, new) in enumerate(zip(before, values(frame), strict=True)):
        touched = coded
        if channel:
            rows, columns = np.nonzero(coded)
            touched = np.zeros(new.shape, bool)
            touched[rows >> layout.shift_y, columns >> layout.shift_x] = True
        assert np.array_equal(old[~touched], new[~touched])


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_an_extracted_window_pasted_back_restores_every_bit(pixel_format: str, rotation: int) -> None:
    frame = noise_frame(48, 36, pixel_format, 3, matrix=1)
    before = values(frame)
    window = NativeWindow(frame, rotation)
    rgb = window.extract(frame, 3, 5, 30, 28)
    assert rgb.shape == (23, 27, 3)
    window.paste(frame, rgb, np.ones((23, 27), bool), 3, 5)
    for old, new in zip(before, values(frame), strict=True):
        assert np.array_equal(old, new)


def test_an_empty_region_changes_nothing() -> None:
    frame = noise_frame(32, 32, "yuv420p")
    before = values(frame)
    NativeWindow(frame).paste(frame, np.zeros((9, 9, 3), np.float32), np.zeros((9, 9), bool), 1, 1)
    assert all(np.array_equal(old, new) for old, new in zip(before, values(frame), strict=True))


@pytest.mark.parametrize("matrix", [1, 2, 5, 6, 9])
@pytest.mark.parametrize("color_range", [1, 2])
@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuv444p10le"])
def test_colour_comes_back_as_it_was_pasted(matrix: int, color_range: int, pixel_format: str) -> None:
    frame = noise_frame(40, 40, pixel_format, matrix=matrix, color_range=color_range)
    rgb = np.random.default_rng(1).uniform(0, 255, (40, 40, 3)).astype(np.float32)
    window = NativeWindow(frame)
    window.paste(frame, rgb, np.ones((40, 40), bool), 0, 0)
    error = np.abs(window.extract(frame, 0, 0, 40, 40) - rgb)
    assert error.max() < (2.2 if pixel_format == "yuv444p" else 0.6)


@pytest.mark.parametrize(
    ("matrix", "color_range", "code", "rgb"),
    [
        (1, 1, (235, 128, 128), (255, 255, 255)),
        (1, 1, (16, 128, 128), (0, 0, 0)),
        (1, 1, (63, 102, 240), (255, 0, 0)),  # ITU-R BT.709, saturated red
        (6, 1, (82, 90, 240), (255, 0, 0)),  # ITU-R BT.601, saturated red
        (6, 1, (145, 54, 34), (0, 255, 0)),
        (1, 2, (255, 128, 128), (255, 255, 255)),
        (6, 2, (76, 85, 255), (255, 0, 0)),
    ],
)
def test_known_codes_have_their_known_colours(matrix: int, color_range: int, code: tuple, rgb: tuple) -> None:
    frame = noise_frame(8, 8, "yuv444p", matrix=matrix, color_range=color_range)
    for view, value in zip(planes(frame), code, strict=True):
        view[...] = value
    found = NativeWindow(frame).extract(frame, 0, 0, 8, 8)[0, 0]
    assert np.abs(found - rgb).max() < 2.5


def test_a_window_shows_what_the_reader_shows(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_pictures(3), color_space=1, color_range=1, options={"crf": "5"}, rotation=90)
    _, frame = next(native_frames(path, range(2, 3)))
    found = NativeWindow(frame, 90).extract(frame, 0, 0, 120, 160)
    assert np.abs(found - np.rot90(moving_picture(2), -1)).mean() < 2.5


def test_a_window_outside_the_picture_is_an_error() -> None:
    frame = noise_frame(32, 24, "yuv420p")
    with pytest.raises(ValueError, match="does not lie inside"):
        NativeWindow(frame, 90).extract(frame, 0, 0, 32, 24)
    NativeWindow(frame, 90).extract(frame, 0, 0, 24, 32)


def test_a_copy_shares_nothing_with_the_decoder() -> None:
    frame = noise_frame(32, 24, "yuv420p10le", matrix=9)
    copy = own_copy(frame)
    planes(copy)[0][...] = 0
    assert planes(frame)[0].any()
    assert int(copy.colorspace) == 9


def test_packed_formats_come_as_planes_from_the_reader_only(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="rgb24"):
        NativeWindow(VideoFrame(8, 8, "rgb24"))
    path = write_video(tmp_path / "rgb.mkv", moving_pictures(2), codec="ffv1", pixel_format="bgr0")
    assert all(frame.format.name == "yuv444p" for _, frame in native_frames(path))
