"""A head is no sharper than the target it is put on."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from stages.renderer import Portrait
from stages.warp.focus import LARGEST, REMAINING, TOLERANCE, as_soft_as, blur_towards, focus_ratio
from tests.stages.painted_heads import SIZE, pose, shape

LANDMARKS = pose().project(shape())


def textured(seed: int = 0, size: int = SIZE) -> np.ndarray:
    """Grey with detail of every size, as strong at each as photographs have it: amplitude as one over frequency."""
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None]
    frequency = np.maximum(np.hypot(rows, columns), 1 / size)
    phases = np.exp(2j * np.pi * np.random.default_rng(seed).uniform(size=(size, size)))
    field = np.fft.ifft2(phases / frequency).real
    grey = np.clip(128 + 30 * (field - field.mean()) / field.std(), 0, 255)
    return np.repeat(grey[..., None], 3, 2).astype(np.uint8)


def blurred(picture: np.ndarray, by: float) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), by), np.uint8)


def portrait_of(picture: np.ndarray) -> Portrait:
    matte = np.zeros((SIZE, SIZE), np.float32)
    matte[40:200, 60:200] = 1
    return Portrait(picture, picture, matte, np.zeros((SIZE, SIZE), np.uint8), LANDMARKS, pose())


def test_faces_of_different_people_are_as_sharp_and_a_blur_shows() -> None:
    sharp = [focus_ratio(textured(seed), LANDMARKS) for seed in range(6)]
    assert max(sharp) / min(sharp) < TOLERANCE
    soft = [focus_ratio(blurred(textured(seed), 2.0), LANDMARKS) for seed in range(6)]
    assert max(soft) < min(sharp) / TOLERANCE


@pytest.mark.parametrize("by", [1.5, 2.5])
def test_the_blur_of_the_target_is_found_on_another_face(by: float) -> None:
    target = focus_ratio(blurred(textured(1), by), LANDMARKS)
    found = blur_towards(textured(2), LANDMARKS, target)
    assert 0.6 * by < found < 1.15 * by
    left = focus_ratio(blurred(textured(2), found), LANDMARKS)
    assert left <= (REMAINING + 0.1) * target


def test_who_is_as_soft_as_the_target_or_softer_stays_as_he_is() -> None:
    portrait = portrait_of(textured(3))
    own = focus_ratio(portrait.picture, LANDMARKS)
    for focus in (own, 2 * own, own / (TOLERANCE - 0.01), float("nan"), 0.0):
        assert as_soft_as(portrait, focus) is portrait


def test_a_little_more_blur_of_the_target_is_a_little_more_blur_of_the_head() -> None:
    picture = textured(4)
    own = focus_ratio(picture, LANDMARKS)
    blurs = [blur_towards(picture, LANDMARKS, own / excess) for excess in np.arange(1.2, 2.2, 0.02)]
    assert blurs[0] == 0
    assert np.diff(blurs).min() >= 0
    left = [focus_ratio(blurred(picture, blur) if blur else picture, LANDMARKS) / own for blur in blurs]
    assert np.diff(left).min() > -0.1
    assert left[-1] < 0.6


def test_a_target_without_any_detail_does_not_blur_without_end() -> None:
    portrait = portrait_of(textured(5))
    soft = as_soft_as(portrait, 1e-6)
    assert soft is not portrait
    assert blur_towards(portrait.picture, LANDMARKS, 1e-6) <= LARGEST * 2


def test_the_outline_is_as_soft_as_the_face() -> None:
    portrait = portrait_of(textured(6))
    soft = as_soft_as(portrait, focus_ratio(blurred(portrait.picture, 2.5), LANDMARKS))
    assert ((soft.matte > 0.05) & (soft.matte < 0.95)).sum() > 4 * 140
    np.testing.assert_allclose(soft.matte.sum(), portrait.matte.sum(), rtol=0.01)  # neither larger nor smaller
    moved = replace(portrait, landmarks=LANDMARKS + 400)
    assert as_soft_as(moved, 0.1) is moved  # no face to be seen
