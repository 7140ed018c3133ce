"""The composite touches the region and nothing else, and matches exposure."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from schemas.tables import FOREGROUND_BLOCKS
from stages.blocks import expand_grid
from stages.composite import (
    Window,
    changed_share,
    compose_window,
    exposure_curves,
    feathered_region,
    match_exposure,
    region_window,
)
from stages.video.crops import extract_crop

SIZE = 128
regions = arrays(bool, (FOREGROUND_BLOCKS, FOREGROUND_BLOCKS), elements=st.booleans())
sides = st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans())


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 40, (height, width, 3)).astype(np.float32)
    return np.clip(128 + 3 * cv2.GaussianBlur(noise, (0, 0), 2), 0, 255).astype(np.uint8)


def middle_region() -> np.ndarray:
    region = np.zeros((FOREGROUND_BLOCKS, FOREGROUND_BLOCKS), bool)
    region[4:12, 5:11] = True
    return region


def whole(width: int, height: int) -> Window:
    return Window(0, 0, width, height)


@settings(max_examples=60, deadline=None)
@given(regions, st.floats(0, 0.2), sides)
def test_the_weight_is_zero_outside_the_region_and_never_above_one(
    region: np.ndarray, feather: float, open_sides: tuple[bool, bool, bool, bool]
) -> None:
    weight = feathered_region(region, SIZE, feather, open_sides)
    inside = expand_grid(region, SIZE)
    assert (weight[~inside] == 0).all()
    assert weight.min() >= 0
    assert weight.max() <= 1


@settings(max_examples=40, deadline=None)
@given(regions, st.floats(0.01, 0.1))
def test_the_weight_rises_inwards_without_steps(region: np.ndarray, feather: float) -> None:
    weight = feathered_region(region, SIZE, feather)
    step = max(np.abs(np.diff(weight, axis=axis)).max() for axis in (0, 1))
    assert step <= 2.2 / max(feather * SIZE, 1)  # the ramp's steepest slope, and the distance's own unevenness


def test_a_region_that_reaches_an_open_side_is_full_there() -> None:
    region = np.zeros((FOREGROUND_BLOCKS, FOREGROUND_BLOCKS), bool)
    region[:6, 4:12] = True
    shut = feathered_region(region, SIZE, 0.1)
    opened = feathered_region(region, SIZE, 0.1, (False, True, False, False))
    assert shut[0, SIZE // 2] < 0.05
    assert opened[0, SIZE // 2] > 0.95
    assert opened[5 * 8 + 7, SIZE // 2] < 0.05


@settings(max_examples=40, deadline=None)
@given(regions, st.floats(20, 300), st.floats(-40, 200), st.floats(-40, 160))
def test_outside_the_region_the_frame_is_bit_for_bit_the_targets(region: np.ndarray, side: float, x: float, y: float) -> None:
    width, height = 160, 120
    frame, crop = texture(height, width).astype(np.float32), np.array([x, y, side])
    weight = feathered_region(region, SIZE, 0.03)
    window = region_window(crop, weight, width, height)
    if window.empty:
        return
    target = frame[window.top : window.bottom, window.left : window.right]
    result, touched = compose_window(target, window, texture(SIZE, SIZE, 1), crop, weight)
    np.testing.assert_array_equal(result[~touched], target[~touched])
    # Every touched pixel lies in a block of the region, give or take the resampling of one pixel.
    grown = cv2.dilate(expand_grid(region, SIZE).astype(np.uint8), np.ones((3, 3), np.uint8))
    scale = SIZE / side
    rows, columns = np.nonzero(touched)
    u = (columns + window.left + 0.5 - x + side / 2) * scale
    v = (rows + window.top + 0.5 - y + side / 2) * scale
    reach = int(np.ceil(scale)) + 1
    grown = cv2.dilate(grown, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    inside = grown[np.clip(v.astype(int), 0, SIZE - 1), np.clip(u.astype(int), 0, SIZE - 1)]
    assert inside.all()


@settings(max_examples=40, deadline=None)
@given(regions, st.floats(20, 300), st.floats(-40, 200), st.floats(-40, 160))
def test_the_window_holds_everything_of_weight(region: np.ndarray, side: float, x: float, y: float) -> None:
    weight = feathered_region(region, SIZE, 0.03)
    crop = np.array([x, y, side])
    window = region_window(crop, weight, 160, 120)
    full = region_window(crop, np.ones_like(weight), 160, 120)
    if full.empty:
        return
    frame = texture(120, 160).astype(np.float32)
    generated = texture(SIZE, SIZE, 1)
    large = frame[full.top : full.bottom, full.left : full.right]
    _, touched = compose_window(large, full, generated, crop, weight, keep_unchanged=False)
    seen = np.zeros((120, 160), bool)
    seen[full.top : full.bottom, full.left : full.right] = touched
    if not window.empty:
        seen[window.top : window.bottom, window.left : window.right] = False
    assert not seen.any()


def test_a_crop_lands_where_it_was_cut() -> None:
    frame = texture(240, 320)
    crop = np.array([150.3, 110.7, 100.0])
    generated = np.clip(extract_crop(frame, crop, SIZE).astype(int) + 40, 0, 255).astype(np.uint8)
    weight = np.ones((SIZE, SIZE), np.float32)
    window = region_window(crop, weight, 320, 240)
    target = frame[window.top : window.bottom, window.left : window.right].astype(np.float32)
    result, touched = compose_window(target, window, generated, crop, weight)
    inner = np.s_[4:-4, 4:-4]
    assert touched[inner].all()
    np.testing.assert_allclose((result - target)[inner].mean(), 40, atol=1.5)
    assert np.abs((result - target)[inner] - 40).mean() < 4


def test_where_the_crop_shows_the_target_the_targets_own_pixels_stay() -> None:
    frame = texture(240, 320)
    crop = np.array([160.0, 120.0, 90.0])
    generated = extract_crop(frame, crop, SIZE)
    generated[30:60, 40:80] = (250, 20, 20)
    weight = feathered_region(np.ones((16, 16), bool), SIZE, 0.03)
    window = region_window(crop, weight, 320, 240)
    target = frame[window.top : window.bottom, window.left : window.right].astype(np.float32)
    result, touched = compose_window(target, window, generated, crop, weight)
    assert touched.mean() < 0.5
    np.testing.assert_array_equal(result[~touched], target[~touched])
    red = (result[..., 0] > 200) & (result[..., 1] < 60)
    assert red.sum() > 300


def test_changed_share_is_nought_between_equals_and_one_between_strangers() -> None:
    one = texture(60, 80).astype(np.float32)
    assert changed_share(one, one.copy()).max() == 0
    assert changed_share(one, np.clip(one + 60, 0, 400)).min() == 1


def test_shrinking_a_crop_does_not_alias() -> None:
    """A fine checkerboard becomes grey when the crop is eight times larger than its place."""
    board = (255 * ((np.indices((SIZE, SIZE)).sum(0)) % 2)).astype(np.uint8)
    generated = np.repeat(board[..., None], 3, axis=2)
    crop = np.array([20.0, 20.0, 16.0])
    weight = np.ones((SIZE, SIZE), np.float32)
    window = region_window(crop, weight, 40, 40)
    target = np.zeros((window.bottom - window.top, window.right - window.left, 3), np.float32)
    result, _ = compose_window(target, window, generated, crop, weight)
    np.testing.assert_allclose(result[3:-3, 3:-3], 127.5, atol=8)


def statistics(lightness: float, spread: float = 20.0) -> list[float]:
    return [lightness, 128, 128, spread, 5, 5]


def test_equal_exposure_changes_nothing() -> None:
    rows = np.array([statistics(120)] * 5)
    curves = exposure_curves(rows, rows, np.zeros(5), 2.0)
    crop = texture(32, 32)
    assert match_exposure(crop, curves[2]) is crop


@pytest.mark.parametrize("offset", [-20.0, 15.0])
def test_a_darker_ring_darkens_the_crop_by_as_much(offset: float) -> None:
    crop = np.full((32, 32, 3), 128, np.uint8)
    lab = cv2.cvtColor(crop, cv2.COLOR_RGB2LAB)[0, 0].astype(float)
    generated = np.array([[*lab, 20, 5, 5]])
    target = np.array([[lab[0] + offset, *lab[1:], 20, 5, 5]])
    curve = exposure_curves(target, generated, np.zeros(1), 0)[0]
    after = cv2.cvtColor(match_exposure(crop, curve), cv2.COLOR_RGB2LAB)[0, 0].astype(float)
    assert after[0] - lab[0] == pytest.approx(offset, abs=1.5)


def test_exposure_is_smooth_inside_a_shot_and_does_not_leak_over_a_cut() -> None:
    count = 40
    generated = np.array([statistics(120)] * count)
    target = np.array([statistics(120 + 8 * (frame % 2)) for frame in range(20)] + [statistics(100)] * 20)
    shots = np.repeat([0, 1], 20)
    curves = exposure_curves(target, generated, shots, 5.0)
    shift = curves[:, 0] * 120 + curves[:, 3] - 120
    assert np.ptp(shift[3:17]) < 1.0
    assert shift[:20].min() > 2
    np.testing.assert_allclose(shift[20:], -20, atol=1e-6)


def test_frames_without_statistics_take_their_neighbours() -> None:
    generated = np.array([statistics(120)] * 9)
    target = np.array([statistics(130)] * 9)
    target[4] = np.nan
    curves = exposure_curves(target, generated, np.zeros(9), 1.5)
    np.testing.assert_allclose(curves[4], curves[3], atol=1e-9)
    nothing = exposure_curves(np.full((3, 6), np.nan), np.full((3, 6), np.nan), np.zeros(3), 1.5)
    np.testing.assert_array_equal(nothing, [[1, 1, 1, 0, 0, 0]] * 3)


def test_exposure_of_a_frame_does_not_depend_on_frames_far_away() -> None:
    """So that a chunk's neighbours are all that matters."""
    generated = np.array([statistics(120)] * 60)
    target = np.array([statistics(120 + frame / 4) for frame in range(60)])
    long = exposure_curves(target, generated, np.zeros(60), 2.0)
    short = exposure_curves(target[:40], generated[:40], np.zeros(40), 2.0)
    np.testing.assert_allclose(long[:30], short[:30], atol=1e-9)
