"""Plates: cameras are followed, backgrounds recovered where any frame shows them, and filled smoothly elsewhere."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from schemas.problems import ModelError
from stages.filling import Lama, add_grain, fill_smooth, grain_level, membrane
from stages.plates import (
    Camera,
    PlateBuilder,
    background_crop,
    chain,
    covered_box,
    crop_to_frame,
    greatest_motion,
    identity,
    invert,
    register,
)
from stages.video.crops import extract_crop, opencv_matrix
from tests.stages.painting import paint_person, textured

numbers = st.floats(-50, 50)


@st.composite
def similarities(draw: st.DrawFn) -> np.ndarray:
    angle, zoom = draw(st.floats(-3, 3)), draw(st.floats(0.3, 3))
    c, s = zoom * np.cos(angle), zoom * np.sin(angle)
    return np.array([[c, -s, draw(numbers)], [s, c, draw(numbers)]])


@given(similarities(), similarities(), numbers, numbers)
def test_chaining_transforms_is_applying_one_after_the_other(second: np.ndarray, first: np.ndarray, x: float, y: float) -> None:
    point = np.array([x, y, 1.0])
    once = chain(second, first) @ point
    assert np.allclose(once, second @ np.append(first @ point, 1), atol=1e-6)
    assert np.allclose(chain(invert(first), first), identity(), atol=1e-8)


def _view(scene: np.ndarray, transform: np.ndarray, width: int, height: int) -> np.ndarray:
    """What a camera sees: ``transform`` maps its pixels to those of the scene."""
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(scene, opencv_matrix(transform), (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)


def test_a_moved_picture_is_registered_to_a_tenth_of_a_pixel_behind_a_person() -> None:
    scene = textured(500, 700)
    base = np.array([[1, 0, 150.0], [0, 1, 100.0]])
    angle, zoom = np.radians(1.5), 1.02
    move = np.array([[zoom * np.cos(angle), -zoom * np.sin(angle), 8.4], [zoom * np.sin(angle), zoom * np.cos(angle), -5.7]])
    first, labels, _ = paint_person(_view(scene, base, 320, 240), (150, 110), 70)
    second, _, _ = paint_person(_view(scene, chain(base, move), 320, 240), (190, 100), 70)
    gray = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (first, second)]
    found = register(gray[0], gray[1], labels == 0)
    assert found is not None
    corners = np.array([[20, 20, 1], [300, 20, 1], [300, 220, 1], [20, 220, 1]], float).T
    assert np.abs(found.transform @ corners - move @ corners).max() < 0.35
    assert found.residual < 0.5


def test_a_background_without_detail_is_reported_rather_than_guessed() -> None:
    flat = np.full((200, 300), 128, np.uint8)
    assert register(flat, flat, np.ones_like(flat, bool)) is None
    camera = Camera()
    rgb = cv2.cvtColor(flat, cv2.COLOR_GRAY2RGB)
    for _ in range(2):
        assert np.array_equal(camera.follow(rgb, lambda: np.ones_like(flat, bool)), identity())
    assert camera.lost == 1


def test_a_long_pan_is_followed_without_drift() -> None:
    scene = textured(300, 1200, seed=3)
    camera = Camera()
    truth, found = [], []
    for step in range(30):
        position = np.array([[1, 0, 23.3 * step], [0, 1, 20 + 3 * np.sin(step)]])
        picture, labels, _ = paint_person(_view(scene, position, 320, 240), (160, 120), 60)
        found.append(camera.follow(picture, lambda labels=labels: labels == 0))
        truth.append(position)
    expected = np.stack([chain(invert(truth[0]), position) for position in truth])
    assert camera.lost == 0
    assert np.abs(np.stack(found)[:, :, 2] - expected[:, :, 2]).max() < 2.0  # of 676 pixels
    assert greatest_motion(expected, 320, 240) == pytest.approx(676, abs=10)


def _gains(kind: str, frames: int) -> np.ndarray:
    """How bright each frame is: float [frames]."""
    if kind == "black first":
        return np.r_[0, np.ones(frames - 1)]
    if kind == "dip":
        return np.r_[np.ones(15), 0.5, 0.1, 0, 0, 0, 0.1, 0.5, np.ones(frames - 22)]
    start = {"fades from 2 %": 0.02, "fades from 5 %": 0.05, "fades from 10 %": 0.1}[kind]
    return np.linspace(start, 1, frames)


@pytest.mark.parametrize("closely", [True, False])
@pytest.mark.parametrize("pan", [0.0, 4.0])
@pytest.mark.parametrize("kind", ["black first", "fades from 2 %", "fades from 5 %", "fades from 10 %", "dip"])
def test_a_camera_is_followed_although_the_shot_begins_in_the_dark(kind: str, pan: float, closely: bool) -> None:
    scene = textured(300, 700, seed=3)
    camera, found, truth = Camera(closely), [], []
    for step in range(0, 40, 1 if closely else 4):
        position = np.array([[1, 0, 10 + pan * step], [0, 1, 10.0]])
        picture, labels, _ = paint_person(_view(scene, position, 320, 240), (120 + 2 * step, 110), 60, seed=step)
        noise = np.random.default_rng(step).normal(0, 1, picture.shape)
        dim = np.clip(np.rint(picture * _gains(kind, 40)[step] + noise), 0, 255).astype(np.uint8)
        found.append(camera.follow(dim, lambda labels=labels: labels == 0))
        truth.append(pan * step)
    assert camera.lost <= (3 if kind == "dip" else 2)
    later = (np.stack(found)[:, 0, 2] - truth)[len(found) // 2 :]
    assert np.ptp(later) < 0.5  # what is seen well lies on what is seen well


def test_a_wall_without_detail_leaves_the_camera_blind_until_there_is_some() -> None:
    flat, scene = np.full((240, 320, 3), 128, np.uint8), textured(240, 320)
    camera, everywhere = Camera(), np.ones((240, 320), bool)
    for picture in (flat, flat):
        camera.follow(picture, lambda: everywhere)
        assert camera.blind
    camera.follow(scene, lambda: everywhere)
    assert not camera.blind
    assert camera.lost == 2
    assert np.allclose(camera.follow(scene, lambda: everywhere), identity(), atol=1e-6)
    assert camera.lost == 2


@pytest.mark.parametrize("panning", [False, True])
def test_a_plate_shows_the_background_that_a_moving_person_hides(panning: bool) -> None:
    scene = textured(260, 520, seed=1)
    random = np.random.default_rng(0)
    width, height, frames = 320, 240, 16
    crop = np.array([160.0, 120.0, 230.0])
    camera, views = Camera(), []
    for step in range(frames):
        position = np.array([[1, 0, 10 + (8.0 * step if panning else 0)], [0, 1, 10.0]])
        picture, labels, _ = paint_person(_view(scene, position, width, height), (85 + 10 * step, 110), 60, seed=step)
        noisy = np.clip(picture + random.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)
        visible = cv2.dilate((labels > 0).astype(np.uint8), np.ones((7, 7), np.uint8)) == 0
        transform = camera.follow(noisy, lambda visible=visible: visible) if panning else identity()
        views.append((noisy, visible, transform, position))
    transforms = np.stack([view[2] for view in views])
    box = covered_box(transforms, np.tile(crop, (frames, 1)), width, height)
    offset = np.array([[1, 0, -box[0]], [0, 1, -box[1]]], float)
    builder = PlateBuilder(int(box[2] - box[0]), int(box[3] - box[1]))
    for noisy, visible, transform, _ in views:
        builder.add(noisy, visible, chain(offset, transform))
    plate, count = builder.finish()
    truth = _view(scene, chain(views[0][3], invert(offset)), plate.shape[1], plate.shape[0])
    known = count >= 2
    middle = views[frames // 2]
    hidden = builder.place(~middle[1], chain(offset, middle[2]))
    assert known[hidden].mean() > 0.5  # the person moved aside
    error = np.abs(plate.astype(float) - truth)[known].mean()
    assert error < (4.0 if panning else 1.5)
    assert max(builder.differences(plate)) < 8


def test_a_ghost_in_a_few_frames_does_not_get_into_the_plate() -> None:
    background = textured(60, 80)
    builder = PlateBuilder(80, 60)
    for frame in range(9):
        picture = background.copy()
        if frame < 4:
            picture[20:40, 20:40] = 255
        builder.add(picture, np.ones((60, 80), bool), identity())
    plate, count = builder.finish()
    assert np.array_equal(plate, background)
    assert (count == 9).all()


def test_the_background_of_a_crop_lies_where_the_crop_of_the_frame_does() -> None:
    frame = textured(240, 320, seed=5)
    crop = np.array([150.3, 111.7, 140.0])
    plate, transform = frame[20:220, 30:300], np.array([1, 0, -30, 0, 1, -20], np.float32)
    found = background_crop(plate, transform, crop, 256)
    expected = extract_crop(frame, crop, 256)
    assert np.abs(found.astype(int) - expected).mean() < 0.5
    shrunk = background_crop(plate, transform, crop, 64)
    assert np.abs(shrunk.astype(int) - extract_crop(frame, crop, 64)).mean() < 0.5


def test_a_mask_of_a_crop_returns_to_its_place_in_the_frame() -> None:
    mask = np.zeros((64, 64), bool)
    mask[32:, :32] = True
    found, inside = crop_to_frame(mask, (50.0, 40.0, 32.0), 100, 80)
    assert inside[24:56, 34:66].all()
    assert inside.sum() == 32 * 32
    assert found[40:56, 34:50].all()
    assert found.sum() == 16 * 16


# --------------------------------------------------------------------------------------------------------------- filling


def _hole(height: int, width: int) -> np.ndarray:
    known = np.ones((height, width), bool)
    known[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = False
    return known


def test_a_hole_in_a_slope_is_filled_by_the_slope() -> None:
    rows, columns = np.mgrid[:128, :160]
    picture = np.stack([40 + columns, 60 + rows, 100 + 0 * rows], -1).astype(np.uint8)
    known = _hole(128, 160)
    filled = membrane(np.where(known[..., None], picture, 0).astype(np.uint8), known)
    assert np.abs(filled - picture)[~known].mean() < 6
    assert np.abs(np.diff(filled, axis=0)).max() < 12  # no steps, no streaks


def test_known_pixels_stay_and_the_same_seed_gives_the_same_filling() -> None:
    picture, known = textured(96, 96), _hole(96, 96)
    first, second = fill_smooth(picture, known, seed=4), fill_smooth(picture, known, seed=4)
    assert np.array_equal(first, second)
    assert np.array_equal(first[known], picture[known])
    assert not np.array_equal(first, fill_smooth(picture, known, seed=5))
    assert np.array_equal(fill_smooth(picture, np.ones_like(known)), picture)


@pytest.mark.parametrize("level", [1.5, 6.0])
def test_the_grain_put_in_is_as_strong_as_the_grain_around(level: float) -> None:
    random = np.random.default_rng(0)
    noisy = np.clip(128 + random.normal(0, level, (200, 200, 1)) * np.ones(3), 0, 255).astype(np.uint8)
    known = _hole(200, 200)
    assert grain_level(noisy, known) == pytest.approx(level, rel=0.3)
    filled = add_grain(np.full((200, 200, 3), 128, np.float32), known, level, 0)
    assert filled[60:140, 60:140, 0].std() == pytest.approx(level, rel=0.2)


class _Echo(torch.nn.Module):
    """Like LaMa: takes the picture and an integer mask; paints what is masked, and shows that sizes are multiples of 8."""

    def forward(self, picture: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        assert picture.shape[2] % 8 == 0
        assert picture.shape[3] % 8 == 0
        assert mask.dtype == torch.int64
        return torch.where(mask > 0, torch.full_like(picture, 0.5), picture * 0)


def test_lama_gets_padded_pictures_and_changes_only_what_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "lama.pt"
    torch.jit.script(_Echo()).save(str(path))
    picture, known = textured(75, 101), _hole(75, 101)
    filled = Lama(path)(picture, known)
    assert filled.shape == picture.shape
    assert np.array_equal(filled[known], picture[known])
    assert (np.abs(filled[~known].astype(int) - 128) <= 1).all()


def test_a_damaged_lama_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lama.pt"
    path.write_bytes(b"no network")
    with pytest.raises(ModelError, match=r"lama\.pt"):
        Lama(path)
