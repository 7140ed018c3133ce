"""Colour matching keeps within its limits and changes nothing between equals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stages.warp.colour import (
    LIGHTNESS_LIMIT,
    SkinStatistics,
    eye_white,
    face_skin,
    in_skin_of,
    mean_statistics,
    saturation,
    skin_statistics,
    tone_gain,
    towards,
)
from tests.stages.painted_heads import SIZE, SKIN, paint, portrait, pose, shape

LANDMARKS = pose().project(shape())


def patch(colour: tuple[int, int, int], spread: int = 6) -> np.ndarray:
    """Skin everywhere but for a white corner: the scene has light enough for white."""
    noise = np.random.default_rng(1).integers(-spread, spread + 1, (SIZE, SIZE, 1))
    picture = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    picture[: SIZE // 3, : SIZE // 3] = 255
    return picture


def statistics(picture: np.ndarray):
    found = skin_statistics(picture, LANDMARKS)
    assert found is not None
    return found


def test_skin_leaves_eyes_lips_and_hair_out() -> None:
    at = pose()
    landmarks = at.project(shape())
    picture, _ = paint(landmarks, at.scale)
    mask = face_skin(landmarks, picture.shape)
    assert mask.sum() > 800
    assert (np.abs(picture[mask].astype(int) - np.array(SKIN)).max(axis=1) < 12).mean() > 0.97


def test_the_same_light_changes_nothing() -> None:
    picture = patch(SKIN)
    found = statistics(picture)
    np.testing.assert_allclose(towards(picture, LANDMARKS, found, found).astype(int), picture, atol=3)


@pytest.mark.parametrize(("colour", "darker"), [((90, 60, 40), True), ((250, 240, 235), False)])
def test_lightness_moves_towards_the_target_and_no_further_than_its_limit(colour: tuple[int, int, int], darker: bool) -> None:
    source, target = patch((180, 150, 130)), patch(colour)
    before, wanted = statistics(source), statistics(target)
    after = statistics(towards(source, LANDMARKS, before, wanted))
    change = after.mean[0] - before.mean[0]
    assert (change < 0) == darker
    assert 2 < abs(change) <= LIGHTNESS_LIMIT + 1
    assert abs(change) < abs(wanted.mean[0] - before.mean[0])


def test_nothing_outshines_a_dark_scene() -> None:
    source, target = patch((230, 215, 200)), patch((90, 70, 60))
    target[: SIZE // 3, : SIZE // 3] = 40
    before, wanted = statistics(source), statistics(target)
    after = statistics(towards(source, LANDMARKS, before, wanted))
    in_light = statistics(towards(source, LANDMARKS, before, statistics(patch((90, 70, 60)))))
    assert after.mean[0] < in_light.mean[0] - 20
    assert after.mean[0] > wanted.mean[0]


def test_harsh_contrast_comes_down_in_soft_light() -> None:
    source, target = patch((140, 120, 110), spread=70), patch((140, 120, 110), spread=10)
    before, wanted = statistics(source), statistics(target)
    after = statistics(towards(source, LANDMARKS, before, wanted))
    assert np.diff(after.span)[0] < 0.75 * np.diff(before.span)[0]


def test_black_hair_stays_black() -> None:
    hair = patch((8, 6, 5), 3)
    hair[: SIZE // 3, : SIZE // 3] = 0
    result = towards(hair, LANDMARKS, statistics(patch((120, 90, 70))), statistics(patch((230, 200, 180))))
    assert result.mean() < hair.mean() + 6


def test_the_tone_gain_turns_one_skin_into_the_other() -> None:
    source, target = statistics(patch((150, 110, 90))), statistics(patch((200, 170, 150)))
    gain = tone_gain(source, target)
    np.testing.assert_allclose(np.array((200, 170, 150)) * gain, (150, 110, 90), atol=6)


def test_grey_heads_have_grey_mouths() -> None:
    skin = statistics(patch(SKIN))
    assert saturation(statistics(patch((128, 128, 128))), skin) < 0.1
    assert saturation(skin, skin) == 1


DARK = (96, 62, 46)


def lit(skin: tuple[int, int, int], light: float = 1.0, **weights: float) -> tuple[np.ndarray, np.ndarray]:
    """A painted face of some skin in so much light (factor on linear values), and its landmarks."""
    at = pose()
    landmarks = at.project(shape(**weights))
    picture = paint(landmarks, at.scale)[0].astype(np.float64)
    mask = np.abs(picture - np.array(SKIN)).max(axis=2) < 12
    picture[mask] *= np.array(skin) / np.array(SKIN)
    return np.clip(255 * (picture / 255 * light ** (1 / 2.2)), 0, 255).astype(np.uint8), landmarks


def seen(skin: tuple[int, int, int], light: float = 1.0, **weights: float) -> SkinStatistics:
    found = skin_statistics(*lit(skin, light, **weights))
    assert found is not None
    return found


def test_a_pale_face_stays_pale_in_the_light_of_somebody_dark() -> None:
    picture, landmarks = lit(SKIN)
    source, target = seen(SKIN), seen(DARK)
    assert target.mean[0] < source.mean[0] - 80
    after = skin_statistics(towards(picture, landmarks, source, target), landmarks)
    assert after is not None
    assert after.mean[0] > source.mean[0] - 8
    blind = skin_statistics(towards(picture, landmarks, source, seen(DARK, eyeBlink=1)), landmarks)
    assert blind is not None
    assert blind.mean[0] < source.mean[0] - 20  # nothing says that it is not the light


def test_a_dark_face_stays_dark_in_the_light_of_somebody_pale() -> None:
    picture, landmarks = lit(DARK)
    after = skin_statistics(towards(picture, landmarks, seen(DARK), seen(SKIN)), landmarks)
    assert after is not None
    assert abs(after.mean[0] - seen(DARK).mean[0]) < 8


@pytest.mark.parametrize("skin", [SKIN, DARK])
def test_less_light_on_the_same_skin_is_taken_for_light(skin: tuple[int, int, int]) -> None:
    source, target = seen(skin), seen(skin, 0.4)
    assert in_skin_of(source, target) is target


def test_dim_light_on_dark_skin_leaves_the_light_when_the_skin_is_taken_away() -> None:
    shown, wanted = in_skin_of(seen(SKIN), seen(DARK, 0.4)), seen(SKIN, 0.4)
    assert abs(shown.mean[0] - wanted.mean[0]) < 0.35 * abs(seen(DARK, 0.4).mean[0] - wanted.mean[0])
    np.testing.assert_allclose(shown.span, wanted.span, atol=30)


def test_eyes_in_shadow_do_not_make_a_face_darker_than_it_is() -> None:
    source, target = seen(SKIN), seen(SKIN, 0.5)
    shadowed = replace(target, eye_white=40.0)
    assert in_skin_of(source, shadowed) is shadowed


def test_eyes_in_shadow_on_the_lighter_face_do_not_make_the_darker_one_dark_skinned() -> None:
    # The same skin twice, the lighter time below a brim.
    dim, bright = seen(SKIN, 0.4), seen(SKIN)
    dim, brim = replace(dim, eye_white=float(dim.mean[0]) - 15), replace(bright, eye_white=float(bright.mean[0]) - 90)
    assert in_skin_of(dim, brim) is brim
    assert in_skin_of(brim, dim) is dim


def test_the_whites_of_eyes_are_found_above_iris_and_below_glints() -> None:
    picture, landmarks = lit(SKIN)
    white = eye_white(picture, landmarks)
    assert white is not None
    assert abs(white - 240) < 8
    grey = picture.copy()  # whites with shade, so that glints stand out
    grey[np.abs(picture.astype(int) - 240).max(axis=2) < 4] = 170
    found = eye_white(grey, landmarks)
    assert found is not None
    assert abs(found - 170) < 10
    glints = grey.copy()
    for middle in landmarks[[468, 473], :2].round().astype(int):
        glints[middle[1] - 1 : middle[1] + 1, middle[0] - 1 : middle[0] + 1] = 255
    assert eye_white(glints, landmarks) == pytest.approx(found, abs=6)


def test_closed_eyes_have_no_whites_and_the_open_ones_of_other_frames_count() -> None:
    picture, landmarks = lit(SKIN, eyeBlink=1)
    assert eye_white(picture, landmarks) is None
    shut, wide = seen(SKIN, eyeBlink=1), seen(SKIN)
    assert mean_statistics([shut, wide, shut]).eye_white == wide.eye_white
    assert mean_statistics([shut, shut]).eye_white is None


def test_too_little_skin_gives_no_statistics() -> None:
    tiny = pose(1.5).project(shape())
    assert skin_statistics(patch(SKIN), tiny) is None


def test_light_from_the_side_is_found_and_taken_over() -> None:
    ramp = np.linspace(-30, 30, SIZE)[None, :, None]
    flat = np.full((SIZE, SIZE, 3), 150.0)
    lit = np.clip(flat + ramp, 0, 255).astype(np.uint8)
    even, sided = statistics(flat.astype(np.uint8)), statistics(lit)
    assert sided.slope[0] > 5
    assert abs(even.slope[0]) < 0.1
    assert abs(sided.slope[1]) < 1
    moved = statistics(towards(flat.astype(np.uint8), LANDMARKS, even, sided))
    assert 0.3 * sided.slope[0] < moved.slope[0] < sided.slope[0]


def test_the_mean_of_equal_statistics_is_the_same() -> None:
    one = statistics(patch(SKIN))
    both = mean_statistics([one, one])
    np.testing.assert_allclose(both.mean, one.mean)


def test_the_portrait_is_painted_as_the_tests_believe() -> None:
    source = portrait()
    assert source.matte.max() == pytest.approx(1)
    assert source.picture.shape == (256, 256, 3)
