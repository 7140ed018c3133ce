"""A head is no sharper than the target it is put on."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from stages.renderer import Portrait, Section
from stages.warp.focus import LARGEST, REMAINING, TOLERANCE, Focus, as_soft_as, blur_towards, focus_of, middle
from stages.warp.renderer import TargetFaces, WarpRenderer
from tests.stages.painted_heads import SIZE, pose, scene, shape
from tests.stages.painted_heads import portrait as painted

LANDMARKS = pose().project(shape())
LARGE = 1000.0
"""Pixels between the eyes of a face that is shown as large as anybody could want."""


def textured(seed: int = 0, size: int = SIZE) -> np.ndarray:
    """Grey with detail of every size, as strong at each as photographs have it: amplitude as one over frequency."""
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None]
    frequency = np.maximum(np.hypot(rows, columns), 1 / size)
    phases = np.exp(2j * np.pi * np.random.default_rng(seed).uniform(size=(size, size)))
    field = np.fft.ifft2(phases / frequency).real
    grey = np.clip(128 + 30 * (field - field.mean()) / field.std(), 0, 255)
    return np.repeat(grey[..., None], 3, 2).astype(np.uint8)


def blurred(picture: np.ndarray, by: float) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), by), np.uint8) if by else picture


def ratio(picture: np.ndarray, landmarks: np.ndarray = LANDMARKS) -> float:
    found = focus_of(picture, landmarks)
    assert found is not None
    return found.ratio


def portrait_of(picture: np.ndarray) -> Portrait:
    matte = np.zeros((SIZE, SIZE), np.float32)
    matte[40:200, 60:200] = 1
    return Portrait(picture, picture, matte, np.zeros((SIZE, SIZE), np.uint8), LANDMARKS, pose())


def test_faces_of_different_people_are_as_sharp_and_a_blur_shows() -> None:
    sharp = [ratio(textured(seed)) for seed in range(6)]
    assert max(sharp) / min(sharp) < TOLERANCE
    assert max(ratio(blurred(textured(seed), 2.5)) for seed in range(6)) < min(sharp) / TOLERANCE


@pytest.mark.parametrize("by", [2.0, 3.0])
def test_the_blur_of_the_target_is_found_on_another_face(by: float) -> None:
    target = Focus(ratio(blurred(textured(1), by)), LARGE)
    found = blur_towards(textured(2), LANDMARKS, target)
    assert 0.6 * by < found < 1.1 * by
    assert ratio(blurred(textured(2), found)) <= (REMAINING + 0.1) * target.ratio


@pytest.mark.parametrize("pixels", [16, 24, 40])
def test_a_small_face_in_focus_does_not_pass_for_one_that_is_out_of_focus(pixels: float) -> None:
    picture = textured(7, 1024)
    large = LANDMARKS * 4
    share = pixels / (np.linalg.norm(np.diff(large[[33, 263], :2], axis=0)) * 0.7)
    side = round(1024 * share)
    frame = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    crop = np.asarray(cv2.resize(frame, (512, 512), interpolation=cv2.INTER_CUBIC), np.uint8)
    shown = focus_of(crop, LANDMARKS * 2, side / 512)
    assert shown is not None
    assert shown.pixels == pytest.approx(pixels, rel=0.1)
    source = np.asarray(cv2.resize(picture, (512, 512), interpolation=cv2.INTER_AREA), np.uint8)
    assert shown.ratio < 0.85 * ratio(source, LANDMARKS * 2)
    assert blur_towards(source, LANDMARKS * 2, shown) == 0


def test_a_turned_face_is_as_sharp() -> None:
    turned = pose(turn=45).project(shape())
    assert ratio(textured(8), turned) == pytest.approx(ratio(textured(8)), rel=0.25)


def test_who_is_as_soft_as_the_target_or_softer_stays_as_he_is() -> None:
    portrait = portrait_of(textured(3))
    own = ratio(portrait.picture)
    for focus in (own, 2 * own, own / (TOLERANCE - 0.01)):
        assert as_soft_as(portrait, Focus(focus, LARGE)) is portrait


def test_a_little_more_blur_of_the_target_is_a_little_more_blur_of_the_head() -> None:
    picture = textured(4)
    own = ratio(picture)
    blurs = [blur_towards(picture, LANDMARKS, Focus(own / excess, LARGE)) for excess in np.arange(1.5, 2.6, 0.02)]
    assert blurs[0] == 0
    assert np.diff(blurs).min() >= 0
    left = [ratio(blurred(picture, blur)) / own for blur in blurs]
    assert np.diff(left).min() > -0.1
    assert left[-1] < 0.6


def test_a_target_without_any_detail_does_not_blur_without_end() -> None:
    portrait = portrait_of(textured(5))
    assert as_soft_as(portrait, Focus(1e-6, LARGE)) is not portrait
    assert blur_towards(portrait.picture, LANDMARKS, Focus(0.0, LARGE)) <= LARGEST * 2


def test_the_outline_is_as_soft_as_the_face() -> None:
    portrait = portrait_of(textured(6))
    soft = as_soft_as(portrait, Focus(ratio(blurred(portrait.picture, 3.0)), LARGE))
    assert ((soft.matte > 0.05) & (soft.matte < 0.95)).sum() > 4 * 140
    np.testing.assert_allclose(soft.matte.sum(), portrait.matte.sum(), rtol=0.01)  # neither larger nor smaller
    moved = replace(portrait, landmarks=LANDMARKS + 400)
    assert as_soft_as(moved, Focus(0.1, LARGE)) is moved  # no face to be seen


def test_the_middle_of_some_frames_counts_and_none_say_nothing() -> None:
    found = [Focus(0.2, 30.0), Focus(0.5, 50.0), Focus(0.6, 40.0)]
    assert middle(found) == Focus(0.5, 40.0)
    assert middle([]) is None


def test_the_warp_renderer_follows_the_focus_of_the_shot_whatever_the_chunk() -> None:
    source = painted()
    grain = np.random.default_rng(0).integers(-40, 40, source.picture.shape)
    rough = np.clip(source.picture + grain, 0, 255).astype(np.uint8)
    source = replace(source, picture=rough, colours=rough)

    def rendered(faces: TargetFaces, wanted: range) -> list[np.ndarray]:
        scenes = [scene(frame) for frame in range(4)]
        section = Section(wanted, range(4), lambda frames: iter([scenes[frame] for frame in frames]))
        return [result.picture for _, result in WarpRenderer(source, faces).render(section)]

    sharp, soft = TargetFaces(), TargetFaces(focus=[Focus(0.1, LARGE)])
    cheek = np.s_[110:135, 95:115, 1]
    assert rendered(soft, range(4))[0][cheek].std() < 0.5 * rendered(sharp, range(4))[0][cheek].std()
    whole, parts = rendered(soft, range(4)), rendered(soft, range(2)) + rendered(soft, range(2, 4))
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)
