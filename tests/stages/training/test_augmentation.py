"""What the paper's augmentation promises: one factor for both, no trace of the head in the condition image."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import segmentation as parts
from stages.blocks import dilate, shape_agnostic_mask
from stages.training.augmentation import (
    NO_AUGMENTATION,
    Augmentation,
    Draw,
    before,
    block_filled,
    compose,
    draw,
    inpainted,
    move_points,
    outline_leakage,
    scale_foreground,
    scale_mask,
    scale_matrix,
    soft_person,
)
from stages.training.hair_bank import long_hair
from tests.stages.painting import textured
from tests.stages.training.painted_windows import SIZE, painted_window

WHITE = np.full((SIZE, SIZE, 3), 255, np.uint8)
factors = st.floats(0.7, 1.4)


@settings(max_examples=12, deadline=None)
@given(factors)
def test_the_cloth_in_the_condition_is_scaled_exactly_like_the_foreground(factor: float) -> None:
    sample = compose(painted_window(1), WHITE, Draw(factor, None))
    changed = np.abs(sample.background[0].astype(int) - painted_window(1).backgrounds[0]).max(-1) > 8
    inside = cv2.erode(changed.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert inside.any()
    assert np.abs(sample.background[0].astype(int) - sample.target[0])[inside].max() <= 1


@settings(max_examples=12, deadline=None)
@given(factors)
def test_head_and_points_grow_with_the_foreground(factor: float) -> None:
    window = painted_window(2)
    plain, scaled = (compose(window, WHITE, Draw(one, None)) for one in (1.0, factor))
    assert scaled.head.sum() == pytest.approx(plain.head.sum() * factor**2, rel=0.06)
    spread = [np.ptp(sample.face_points, axis=1) for sample in (plain, scaled)]
    assert spread[1] == pytest.approx(spread[0] * factor, rel=1e-4)
    for frame in range(2):
        for x, y in scaled.face_points[frame]:
            assert scaled.head[frame, int(y), int(x)]


def test_without_a_factor_the_target_is_the_picture_and_the_drawing_that_of_inference() -> None:
    from stages.face3d.drawing import draw_landmarks

    window = painted_window(2)
    sample = compose(window, WHITE, Draw(1.0, None))
    assert np.array_equal(sample.target, window.pictures)
    assert np.array_equal(sample.head, np.isin(window.labels, (parts.HAIR, parts.FACE)))
    assert np.array_equal(sample.drawing[1], draw_landmarks(window.landmarks[1], SIZE))
    assert sample.frame_numbers == (0, 1)
    assert sample.person == "painted"


@settings(max_examples=10, deadline=None)
@given(factors, st.booleans(), st.integers(0, 95))
def test_the_condition_does_not_change_when_the_head_does(factor: float, long: bool, mask: int) -> None:
    window = painted_window(1, long_hair=long)
    head = np.isin(window.labels, (parts.HAIR, parts.FACE, parts.NECK))
    other = window.pictures.copy()
    other[head] = (255, 0, 255)
    drawn = Draw(factor, long_hair()[mask])
    assert np.array_equal(
        compose(window, WHITE, drawn).background, compose(replace(window, pictures=other), WHITE, drawn).background
    )


def test_a_shrunk_person_still_stands_on_the_lower_border_and_reaches_as_far_to_the_sides() -> None:
    window = painted_window(1)
    window.labels[0, -20:, :] = parts.CLOTH
    window.opacity[0, -20:, :] = 255
    window.pictures[0, -20:, :] = (200, 30, 30)
    target = compose(window, WHITE, Draw(0.75, None)).target[0]
    assert (np.abs(target[-1].astype(int) - (200, 30, 30)).max(-1) < 4).all()


@given(factors, st.floats(0, 128), st.floats(0, 128))
def test_points_move_with_the_pixels_they_are_on(factor: float, x: float, y: float) -> None:
    moved = move_points(np.array([[x, y, 3.0]]), scale_matrix(factor, 128))
    anchor = np.array([64, 128 if factor < 1 else 0.4 * 128])
    assert moved[0, :2] == pytest.approx(anchor + factor * (np.array([x, y]) - anchor), abs=1e-3)
    assert moved[0, 2] == 3.0


def test_a_layer_lands_where_points_say_it_does() -> None:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[40:44, 70:74] = True
    layer, opacity = np.where(mask[..., None], np.float32(200), np.zeros(3, np.float32)), mask.astype(np.float32)
    for factor in (0.5, 0.8, 1.25):
        matrix = scale_matrix(factor, SIZE)
        colours, shares = scale_foreground(layer, opacity, matrix)
        middle = move_points(np.array([[72.0, 42.0]]), matrix)[0]
        for found in (scale_mask(mask, matrix), shares > 0.45, colours.max(-1) > 90):
            rows, columns = np.nonzero(found)
            assert (columns.mean() + 0.5, rows.mean() + 0.5) == pytest.approx(tuple(middle), abs=0.6)


def detail(picture: np.ndarray) -> float:
    """Energy of the Laplacian, away from the border."""
    return float(np.square(cv2.Laplacian(picture.astype(np.float32), cv2.CV_32F))[24:-24, 24:-24].mean())


def stripes(period: float, factor: float = 1.0) -> np.ndarray:
    """Both ways, as a camera that saw them this much larger would have taken them: uint8 [SIZE, SIZE, 3]."""
    matrix = scale_matrix(factor, SIZE)
    across, down = (((np.arange(SIZE) + 0.5 - matrix[axis, 2]) / factor) * 2 * np.pi / period for axis in (0, 1))
    waves = 128 + 55 * np.sin(across)[None] + 55 * np.sin(down)[:, None]
    return np.repeat(np.rint(waves).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("factor", [0.85, 0.97, 1.03, 1.2])
def test_a_sharp_foreground_stays_sharp_when_it_is_scaled(factor: float) -> None:
    everything = np.ones((SIZE, SIZE), np.float32)
    for period, kept in ((3, 0.7), (4, 0.85), (6, 0.9)):
        layer, _ = scale_foreground(stripes(period).astype(np.float32), everything, scale_matrix(factor, SIZE))
        assert kept < detail(layer) / detail(stripes(period, factor)) < 1.1


def test_a_foreground_that_shrinks_much_is_averaged_and_not_picked_from() -> None:
    rng = np.random.default_rng(1)
    noise = rng.choice(np.array([0.0, 200.0], np.float32), (SIZE, SIZE, 1)).repeat(3, axis=2)
    layer, opacity = scale_foreground(noise, np.ones((SIZE, SIZE), np.float32), scale_matrix(0.4, SIZE))
    assert (opacity > 0.999).all()
    # Of 1 / 0.4 ** 2 independent pixels each: the deviation falls to about 0.4 of what it was.
    assert layer[80:120, 40:90].std() < 0.5 * noise.std()
    assert layer[80:120, 40:90].mean() == pytest.approx(100, abs=6)


@settings(max_examples=12, deadline=None)
@given(factors)
def test_a_scaled_foreground_has_no_halo(factor: float) -> None:
    window = painted_window(1)
    grey = replace(window, pictures=np.full_like(window.pictures, 200), backgrounds=np.full_like(window.backgrounds, 100))
    grey.pictures[window.labels == parts.BACKGROUND] = 100
    target = compose(grey, WHITE, Draw(factor, None)).target
    assert target.min() >= 100
    assert target.max() <= 200


def test_long_hair_of_somebody_else_takes_cloth_away() -> None:
    window = painted_window(1)
    everywhere = np.ones((32, 32), bool)
    plain, eaten = (compose(window, WHITE, Draw(1.0, hair)) for hair in (None, everywhere))
    assert (plain.background != window.backgrounds).any()
    assert np.array_equal(eaten.background, window.backgrounds)
    assert np.array_equal(plain.target, eaten.target)


def test_the_bank_holds_hair_that_reaches_the_shoulders() -> None:
    bank = long_hair()
    assert bank.shape == (96, 32, 32)
    lowest = [np.nonzero(mask.any(1))[0].max() for mask in bank]
    assert min(lowest) >= 20
    assert np.mean(lowest) > 25
    assert not bank[:, 12:16, 14:18].all()


def test_draws_repeat_with_the_seed_and_follow_their_settings() -> None:
    bank = long_hair()
    first, again = ([draw(Augmentation(), bank, np.random.default_rng([5, k])) for k in range(200)] for _ in range(2))
    assert [one.factor for one in first] == [one.factor for one in again]
    assert all(0.85 <= one.factor <= 1.2 for one in first)
    assert np.mean([one.factor == 1 for one in first]) == pytest.approx(0.2, abs=0.07)  # as at work, nothing resampled
    # A plate tells where the head was; unless the foreground is scaled, that is where it is to be drawn.
    assert all(one.filled for one in first if one.factor == 1)
    assert np.mean([one.filled for one in first if one.factor != 1]) == pytest.approx(0.5, abs=0.1)
    assert np.mean([one.hair is not None for one in first]) == pytest.approx(0.8, abs=0.1)
    assert len({one.hair.tobytes() for one in first if one.hair is not None}) > 50
    assert draw(NO_AUGMENTATION, bank, np.random.default_rng(1)) == Draw(1.0, None)
    assert draw(Augmentation(), None, np.random.default_rng(1)).hair is None


@pytest.mark.parametrize("wrong", [(1.2, 0.9), (0.1, 1.0), (1.0, 1.0, 1.5), (1.0, 1.0, 0.0, 2.0), (1.0, 1.0, 0.0, 0.0, -0.1)])
def test_settings_that_make_no_sense_are_refused(wrong: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="between"):
        Augmentation(*wrong)


def test_an_outline_left_by_an_inpainter_is_measured_and_hidden_by_scaling() -> None:
    window = painted_window(1, size=256)
    head = np.isin(window.labels[0], (parts.HAIR, parts.FACE))
    clean = textured(256, 256, seed=5)
    ghost = clean.copy()
    ghost[head] = np.clip(ghost[head].astype(int) + 40, 0, 255)
    assert outline_leakage(clean, head) == pytest.approx(1, abs=0.25)
    assert outline_leakage(ghost, head) > 1.6
    assert outline_leakage(ghost, scale_mask(head, scale_matrix(1.15, 256))) < 1.2
    with pytest.raises(ValueError, match="no head"):
        outline_leakage(clean, np.zeros_like(head))


def test_an_inpainted_background_is_filled_in_whole_blocks() -> None:
    window = painted_window(1)
    person = window.labels[0] != parts.BACKGROUND
    filled = inpainted(window.backgrounds[0], person, seed=1)
    changed = (filled != window.backgrounds[0]).any(-1)
    blocks = changed.reshape(16, SIZE // 16, 16, SIZE // 16).any((1, 3))
    kept = np.kron(~blocks, np.ones((SIZE // 16, SIZE // 16), bool))
    assert not (person & kept).any()
    assert np.array_equal(filled[kept], window.backgrounds[0][kept])
    assert np.array_equal(filled, inpainted(window.backgrounds[0], person, seed=1))


def test_a_video_s_background_can_be_filled_in_blocks_that_hide_who_stood_there() -> None:
    window = painted_window(3)
    person = window.labels != parts.BACKGROUND
    ghost = window.backgrounds.copy()
    ghost[person] = 255  # a plate whose unknown part has the person's shape
    plates = replace(window, backgrounds=ghost, pictures=np.where(person[..., None], window.pictures, ghost))
    filled = block_filled(plates, seed=2)
    assert (filled.backgrounds[0][person.any(0)] < 250).any(-1).mean() > 0.99
    hole = shape_agnostic_mask(person.any(0))
    for frame in range(3):
        assert np.array_equal(filled.backgrounds[frame][~hole], ghost[frame][~hole])
        assert np.array_equal(filled.pictures[frame][person[frame]], window.pictures[frame][person[frame]])
        assert np.array_equal(filled.pictures[frame][~person[frame]], filled.backgrounds[frame][~person[frame]])


def test_opacity_from_labels_is_soft_only_at_the_border() -> None:
    labels = painted_window(1).labels[0]
    opacity = soft_person(labels)
    inner, outer = ~dilate(labels == parts.BACKGROUND, 4), ~dilate(labels != parts.BACKGROUND, 4)
    assert (opacity[inner] == 255).all()
    assert (opacity[outer] == 0).all()
    assert ((opacity > 20) & (opacity < 235)).any()


def test_people_stand_before_the_new_background_as_they_stood_before_the_old_one() -> None:
    window = painted_window(3)
    moved = before(window, 255 - window.backgrounds)
    opaque = window.opacity == 255
    assert np.abs(moved.pictures.astype(int) - window.pictures)[opaque].max() <= 1
    nobody = window.opacity == 0
    assert np.array_equal(moved.pictures[nobody], 255 - window.backgrounds[nobody])
