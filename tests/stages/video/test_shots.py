"""Cuts are found; flashes, fades, fast motion and changing light are none."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from stages.video.native import native_frames
from stages.video.shots import LOOK_BACK, SMALL_HEIGHT, SMALL_WIDTH, ChangeMeter, find_shots

THRESHOLD = 0.45


def scene(seed: int, frames: int = 20) -> np.ndarray:
    """uint8 [frames, h, w, 3]: blobs on a gradient, with something moving."""
    generator = np.random.default_rng(seed)
    base = np.full((SMALL_HEIGHT, SMALL_WIDTH, 3), generator.uniform(60, 190, 3))
    for _ in range(12):
        x, y = generator.integers(0, SMALL_WIDTH), generator.integers(0, SMALL_HEIGHT)
        cv2.circle(base, (int(x), int(y)), int(generator.integers(5, 16)), generator.uniform(0, 255, 3).tolist(), -1)
    pictures = np.repeat(base[None], frames, axis=0)
    for frame in range(frames):
        cv2.circle(pictures[frame], (20 + frame, 30), 8, (250, 240, 230), -1)
    return np.clip(pictures + generator.normal(0, 2, pictures.shape), 0, 255).astype(np.uint8)


def shots(pictures: np.ndarray) -> list[tuple[int, int]]:
    meter = ChangeMeter()
    for picture in pictures:
        meter.add(np.ascontiguousarray(picture))
    return find_shots(meter.changes, THRESHOLD)


@pytest.mark.parametrize("seed", range(6))
def test_a_hard_cut_is_found_at_its_frame(seed: int) -> None:
    joined = np.concatenate([scene(seed, 13), scene(seed + 50, 20), scene(seed + 100, 9)])
    assert shots(joined) == [(0, 13), (13, 33), (33, 42)]


@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("light", [100, 150, 255])
def test_a_flash_is_no_cut(length: int, light: int) -> None:
    pictures = scene(3).astype(int)
    pictures[8 : 8 + length] += light
    assert shots(np.clip(pictures, 0, 255).astype(np.uint8)) == [(0, 20)]


@pytest.mark.parametrize("length", [4, 8, 16])
def test_fading_out_and_in_again_is_no_cut(length: int) -> None:
    level = np.concatenate([np.ones(5), np.linspace(1, 0, length), np.linspace(0, 1, length), np.ones(5)])
    pictures = scene(4, len(level)) * level[:, None, None, None]
    assert shots(pictures.astype(np.uint8)) == [(0, len(level))]


def test_another_scene_after_black_is_a_new_shot() -> None:
    level = np.concatenate([np.linspace(1, 0, 10), np.zeros(4), np.linspace(0, 1, 10)])
    pictures = np.concatenate([scene(5, 12), scene(6, 12)]) * level[:, None, None, None]
    found = shots(pictures.astype(np.uint8))
    assert len(found) == 2
    assert 10 <= found[1][0] <= 17


def test_a_fast_pan_is_no_cut() -> None:
    wide = cv2.resize(scene(7, 1)[0], (4 * SMALL_WIDTH, SMALL_HEIGHT))
    pictures = np.stack([wide[:, 12 * k : 12 * k + SMALL_WIDTH] for k in range(20)])
    assert shots(pictures) == [(0, 20)]


def test_a_light_that_is_switched_is_no_cut() -> None:
    pictures = scene(8).astype(float)
    pictures[10:] *= 0.45
    assert shots(pictures.astype(np.uint8)) == [(0, 20)]


def test_flat_and_very_short_clips_are_one_shot() -> None:
    assert shots(np.zeros((7, SMALL_HEIGHT, SMALL_WIDTH, 3), np.uint8)) == [(0, 7)]
    assert shots(scene(1, 1)) == [(0, 1)]
    assert shots(scene(1, 2)) == [(0, 2)]


def test_changes_are_measured_against_the_frames_before() -> None:
    meter = ChangeMeter()
    for picture in scene(2, 8):
        meter.add(picture)
    changes = meter.changes
    assert changes.shape == (8, LOOK_BACK)
    assert np.isnan(changes[0]).all()
    assert np.isfinite(changes[LOOK_BACK:]).all()


def test_joined_real_clips_split_where_they_were_joined_and_nowhere_else(shared: Path) -> None:
    small = {}
    for path in sorted((shared / "media" / "clips").iterdir()):
        frames = [
            frame.reformat(SMALL_WIDTH, SMALL_HEIGHT, "rgb24", interpolation="AREA").to_ndarray()
            for _, frame in native_frames(path, range(20))
        ]
        small[path.stem] = np.stack(frames)
    for first, second in itertools.permutations(small, 2):
        assert shots(np.concatenate([small[first], small[second]])) == [(0, 20), (20, 40)], (first, second)
