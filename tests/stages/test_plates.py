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
from stages.camera import Camera, chain, identity, invert, register
from stages.filling import Lama, add_grain, fill_smooth, grain_level, membrane
from stages.light import Light, light_behind, light_between
from stages.plates import (
    DOUBTFUL,
    HEAD,
    HIDDEN,
    PlateBuilder,
    background_crop,
    covered_box,
    crop_to_frame,
    greatest_motion,
    warp_to_plate,
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
    hidden = warp_to_plate(~middle[1] * np.uint8(1), chain(offset, middle[2]), *plate.shape[1::-1], nearest=True) > 0
    assert known[hidden].mean() > 0.5  # the person moved aside
    error = np.abs(plate.astype(float) - truth)[known].mean()
    assert error < (4.0 if panning else 1.5)
    assert max(builder.differences) < 8


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


_CARDS = {"black": (0, 0, 0), "white": (235, 235, 235), "blue": (20, 40, 160)}


def _people(frames: int, step: int = 0, seed: int = 1) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """A scene, and frames of a person who moves before it by ``step`` pixels a frame, with what they show of it."""
    scene, found = textured(240, 320, seed=seed), []
    for frame in range(frames):
        picture, labels, _ = paint_person(scene, (110 + step * frame, 110), 60, seed=frame)
        found.append((picture, cv2.dilate((labels > 0).astype(np.uint8), np.ones((7, 7), np.uint8)) == 0))
    return scene, found


def _made_of(frames: list[tuple[np.ndarray, np.ndarray]]) -> tuple[PlateBuilder, np.ndarray, np.ndarray]:
    builder = PlateBuilder(320, 240)
    for picture, visible in frames:
        builder.add(picture, visible, identity())
    return builder, *builder.finish()


@pytest.mark.parametrize("flat", [5, 40])
@pytest.mark.parametrize("card", _CARDS)
def test_flat_frames_of_a_shot_do_not_get_into_its_plate(card: str, flat: int) -> None:
    scene, frames = _people(15)
    everywhere = np.ones((240, 320), bool)
    builder, plate, count = _made_of([*frames, *[(np.full_like(scene, _CARDS[card]), everywhere)] * flat])
    seen = frames[0][1]
    assert builder.used == [True] * 15 + [False] * flat
    assert (count[~seen] == 0).all()
    assert np.abs(plate.astype(int) - scene)[seen].max() <= 1
    assert max(builder.differences[:15]) < 1
    assert min(builder.differences[15:]) > 30


@pytest.mark.parametrize("way", ["in", "out"])
@pytest.mark.parametrize("card", _CARDS)
def test_a_plate_of_a_fade_is_in_the_light_of_the_frames_that_do_not_fade(card: str, way: str) -> None:
    """What only frames of the fade show is no darker or lighter than the rest."""
    scene, frames = _people(30, step=4)
    gains = np.clip(np.linspace(1.6, 0, 30), 0, 1)[:: 1 if way == "out" else -1]
    faded = [
        (Light(gain, tuple((1 - gain) * value for value in _CARDS[card])).shown(picture), visible)  # type: ignore[arg-type]
        for gain, (picture, visible) in zip(gains, frames, strict=True)
    ]
    builder, plate, count = _made_of(faded)
    assert np.abs(plate.astype(int) - scene)[count > 0].mean() < 2.5
    assert all(builder.used[k] for k in range(30) if gains[k] > 0.6)
    assert not any(builder.used[k] for k in range(30) if gains[k] < 0.2)
    assert max(departure for departure, used in zip(builder.departures, builder.used, strict=True) if used) < 4


def test_frames_of_another_scene_that_a_shot_dissolves_into_are_left_out() -> None:
    scene, frames = _people(24)
    other, everywhere = textured(240, 320, seed=9), np.ones((240, 320), bool)
    mixed = [(cv2.addWeighted(frames[0][0], 1 - share, other, share, 0), everywhere) for share in (0.5, 0.75, 1, 1, 1)]
    builder, plate, _ = _made_of([*frames, *mixed])
    assert not any(builder.used[25:])
    assert np.abs(plate.astype(int) - scene)[frames[0][1]].mean() < 2


def test_frames_in_one_light_are_laid_over_each_other_as_they_are() -> None:
    _, frames = _people(12, step=4)
    builder, plate, count = _made_of(frames)
    assert all(builder.used)
    assert builder.departures == builder.differences
    assert (plate[count > 0] == _people(1)[0][count > 0]).all()


@given(st.floats(0.15, 1.2), st.integers(-20, 60))
def test_the_light_between_two_pictures_is_found_although_a_tenth_of_them_differs(gain: float, offset: int) -> None:
    plain = np.clip(textured(96, 128), 40, 170)
    picture = Light(gain, (offset, offset, offset)).shown(plain)
    picture[:30, :40] = 255 - picture[:30, :40]
    if ((picture == 0) | (picture == 255)).mean() > 0.02:
        return  # cut off, as no single light can be
    likeness = light_between(picture, plain, np.ones((96, 128), bool))
    found = likeness.light
    assert likeness.with_it <= min(likeness.without, 1) + 0.1
    shown = found.shown(plain).astype(int)
    assert np.abs(shown - picture)[30:].max() <= 4
    assert np.abs(found.taken_from(picture).astype(int) - plain)[30:].max() <= 4 + 1 / gain
    assert np.allclose(found.beside(found).offset, 0, atol=1e-6)


def test_what_a_flash_cuts_off_at_white_does_not_tell_its_light() -> None:
    plain = textured(128, 128)
    flash = Light(1.6).shown(plain)
    assert (flash == 255).mean() > 0.1
    assert light_between(flash, plain, np.ones((128, 128), bool)).light.gain == pytest.approx(1.6, abs=0.03)


def test_a_plain_wall_gets_darker_rather_than_another_wall() -> None:
    wall = np.full((96, 96, 3), (150, 140, 120), np.uint8)
    likeness = light_between(Light(0.5).shown(wall), wall, np.ones((96, 96), bool))
    found = likeness.light
    assert likeness.share == 1
    assert found.gain == pytest.approx(0.5, abs=0.02)
    assert np.abs(found.offset).max() < 3


def test_the_light_of_a_frame_rises_smoothly_from_none() -> None:
    scene, everywhere = textured(128, 128), np.ones((128, 128), bool)
    noise = np.random.default_rng(0).normal(0, 2, scene.shape)
    gains, nobody = np.linspace(1, 0.7, 61), ~everywhere
    found = [
        light_behind(np.clip(scene * gain + noise, 0, 255).astype(np.uint8), scene, everywhere, nobody).gain for gain in gains
    ]
    assert found[0] == 1.0
    assert found[-1] == pytest.approx(0.7, abs=0.01)
    assert np.abs(np.diff(found)).max() < 0.03
    assert light_behind(textured(128, 128, seed=4), scene, everywhere, nobody) == Light()  # nothing that light explains


_PERSON = np.zeros((128, 128), bool)
_PERSON[38:, 38:90] = True


def _with_a_head(background: np.ndarray, light: Light | None = None) -> np.ndarray:
    """A picture of someone in usual light before a background, all of it in a light of its own."""
    picture = background.copy()
    waves = 25 * np.sin(np.mgrid[:128, :128][1] / 6)[..., None]
    picture[_PERSON] = (np.array([205, 165, 145]) + waves)[_PERSON]
    return picture if light is None else light.shown(picture)


def _soft(level: float, contrast: float, blur: float, seed: int) -> np.ndarray:
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 1, (128, 128)), (0, 0), blur)
    return np.clip(level + contrast * (noise / noise.std())[..., None] * np.ones(3), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("behind", "plate"),
    [
        (_soft(225, 3, 8, 1), _soft(90, 35, 1, 2)),  # sky, then trees, in a car's window
        (_soft(15, 3, 8, 1), _soft(225, 6, 8, 2)),  # a tunnel
        (_soft(35, 5, 2, 1), _soft(170, 12, 5, 2)),  # a dark jacket that comes close behind
        (_soft(245, 2, 5, 1), _soft(60, 30, 2, 2)),  # a screen that turns white
        (_soft(60, 8, 10, 1), _soft(110, 12, 10, 2)),  # another place, out of focus
    ],
)
def test_another_background_behind_a_person_in_usual_light_is_no_light(behind: np.ndarray, plate: np.ndarray) -> None:
    assert light_behind(_with_a_head(behind), plate, ~_PERSON, _PERSON) == Light()


@pytest.mark.parametrize(
    "light", [Light(0.8), Light(0.5), Light(0.1), Light(0.5, (127, 127, 127)), Light(0.1, (229,) * 3), Light(1.3)]
)
def test_a_fade_of_person_and_background_is_a_light(light: Light) -> None:
    plate = _soft(110, 30, 2, 2)
    found = light_behind(_with_a_head(plate, light), plate, ~_PERSON, _PERSON)
    assert found.gain == pytest.approx(light.gain, abs=0.03)
    assert found.offset == pytest.approx(light.offset, abs=4)


@pytest.mark.parametrize("others", [1, 4])
@pytest.mark.parametrize("peopled", [True, False])
def test_few_frames_with_more_contrast_do_not_take_a_plate_over(others: int, peopled: bool) -> None:
    wall = _soft(120, 12, 20, 3).repeat(2, 0).repeat(2, 1)[:240, :240]
    card = np.zeros_like(wall)
    card[60:110, ::14] = card[60:110, 1::14] = card[60:110, 2::14] = 255
    visible = np.ones(wall.shape[:2], bool)
    visible[80:, 80:160] = False
    builder = PlateBuilder(240, 240)
    for _ in range(30):
        builder.add(wall, visible, identity())
    for _ in range(others):
        builder.add(card, visible if peopled else np.ones_like(visible), identity())
    plate, count = builder.finish()
    assert builder.used == [True] * 30 + [False] * others
    assert np.abs(plate.astype(int) - wall)[visible].max() <= 1
    assert (count[~visible] == 0).all()


def _beside_the_head(moves: float, line_moves: bool) -> PlateBuilder:
    """A plate of a head with a dark line beside it that looks like a strand of its hair, in frames where it goes to and fro."""
    builder = PlateBuilder(160, 120)
    for frame in range(16):
        shift = moves * np.sin(frame)
        move = np.array([[1, 0, shift], [0, 1, 0.0]])
        picture, head = np.full((120, 160, 3), 200, np.uint8), np.zeros((120, 160), np.uint8)
        cv2.circle(head, (70, 60), 30, 1, -1)
        hair = np.random.default_rng(0).integers(10, 90, (15, 20, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        strand = np.zeros_like(head)
        strand[30:90, 112:115] = 1
        picture = np.where(_shifted(head, move)[..., None] > 0, _shifted(hair, move), picture)
        picture = np.where(_shifted(strand, move if line_moves else identity())[..., None] > 0, np.uint8(40), picture)
        near = cv2.dilate(head, np.ones((41, 41), np.uint8)) > 0
        hidden = (_shifted(head, move) > 0) | near
        kinds = hidden * HIDDEN + (near & (_shifted(head, move) == 0)) * DOUBTFUL + (cv2.erode(head, np.ones((9, 9))) > 0) * HEAD
        builder.add(picture, ~hidden, identity(), kinds.astype(np.uint8))
    return builder


def _shifted(picture: np.ndarray, transform: np.ndarray) -> np.ndarray:
    return cv2.warpAffine(picture, opencv_matrix(transform), picture.shape[1::-1], borderMode=cv2.BORDER_REFLECT)


def test_what_stands_still_beside_a_head_that_moves_is_background() -> None:
    plate, count = _beside_the_head(3.0, line_moves=False).finish()
    assert (count[40:80, 112:115] == 16).all()
    assert (plate[40:80, 112:115] == 40).all()


@pytest.mark.parametrize(("moves", "line_moves"), [(3.0, True), (0.2, False)])
def test_what_moves_with_the_head_is_not_background_nor_what_nothing_tells(moves: float, line_moves: bool) -> None:
    _, count = _beside_the_head(moves, line_moves).finish()
    assert (count[40:80, 110:117] == 0).all()


def test_a_head_that_talks_and_stands_still_gives_no_hair_to_the_background() -> None:
    builder = PlateBuilder(200, 200)
    for frame in range(24):
        picture, head = np.full((200, 200, 3), 200, np.uint8), np.zeros((200, 200), np.uint8)
        cv2.ellipse(head, (100, 110), (45, 60), 0, 0, 360, 1, -1)
        picture[head > 0] = (150, 110, 90)
        cv2.ellipse(picture, (100, 70), (47, 35), 0, 180, 360, (40, 30, 25), -1)
        cv2.ellipse(picture, (100, 145), (18, round(3 + 5 * abs(np.sin(1.3 * frame)))), 0, 0, 360, (60, 20, 20), -1)
        for x in (80, 120):
            lift = round(3 * abs(np.sin(0.9 * frame)))
            cv2.line(picture, (x - 10, 95 - lift), (x + 10, 95 - lift), (50, 40, 35), 3)
        for strand in range(6):
            cv2.line(picture, (145 + strand % 3, 75 + 8 * strand), (158, 72 + 8 * strand), (60, 45, 40), 1)
        near = cv2.dilate(head, np.ones((31, 31), np.uint8)) > 0
        kinds = near * HIDDEN + (near & (cv2.dilate(head, np.ones((5, 5))) == 0)) * DOUBTFUL
        kinds = kinds + (cv2.erode(head, np.ones((7, 7))) > 0) * HEAD
        noise = np.random.default_rng(frame).normal(0, 1, picture.shape)
        picture = np.clip(cv2.GaussianBlur(picture, (0, 0), 1) + noise, 0, 255).astype(np.uint8)
        builder.add(picture, ~near, identity(), kinds.astype(np.uint8))
    plate, count = builder.finish()
    assert plate[near & (count > 0)].min(initial=255) > 190, "nothing but the wall"


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
