"""Measuring the face model: what it refuses, and that its renders are the same whoever makes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from flows.face_model import build_face_model, load_samples
from schemas.problems import UsageError
from stages.face3d.measuring import LEFT_OUT
from stages.performers.head import HeadModel
from stages.performers.sampling import RENDERS_PER_PERSON, Sampler, random_expression

PAIRS = ("mouthSmile", "browDown", *(f"eyeLook{way}" for way in ("In", "Out", "Up", "Down")))
NAMES = (*LEFT_OUT, "jawOpen", "mouthPucker", "cheekPuff", *(f"{stem}_{side}" for stem in PAIRS for side in "LR"))


def test_too_few_renders_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too few"):
        build_face_model(tmp_path / "absent.npz", tmp_path / "out.npz", renders=500, seed=0, workers=1)
    assert not list(tmp_path.iterdir())


def test_random_expressions_are_weights_and_do_not_look_both_ways() -> None:
    rng = np.random.default_rng(2)
    weights = np.stack([random_expression(NAMES, rng) for _ in range(200)])
    assert weights.min() >= 0
    assert weights.max() <= 1
    assert weights[:, NAMES.index("jawOpen")].any()
    assert not weights[:, :2].any()
    assert not (weights[:, NAMES.index("eyeLookIn_L")] * weights[:, NAMES.index("eyeLookOut_L")]).any()


def test_shards_are_joined_without_pictures_that_show_no_face(tmp_path: Path) -> None:
    for index in range(2):
        landmarks = np.zeros((3, 478, 3), np.float32)
        landmarks[index] = np.nan
        np.savez(
            tmp_path / f"{index}.npz",
            person=np.full(3, index, np.int32),
            identity=np.zeros((3, 60), np.float32),
            expression=np.zeros((3, len(NAMES)), np.float32),
            rotation=np.tile(np.eye(3, dtype=np.float32), (3, 1, 1)),
            truth=np.zeros((3, 478, 3), np.float32),
            landmarks=landmarks,
        )
    samples = load_samples([tmp_path / "0.npz", tmp_path / "1.npz"], NAMES)
    assert samples.person.tolist() == [0, 0, 1, 1]


def test_the_same_number_gives_the_same_person_and_pictures(shared: Path) -> None:
    model = HeadModel.load(shared / "models" / "ict" / "ict_facekit.npz")
    pictures: list[npt.NDArray[np.uint8]] = []

    def detect(picture: npt.NDArray[np.uint8], guess: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.floating], float]:
        pictures.append(picture)
        return np.concatenate([guess, np.zeros((478, 1))], axis=1), 0.2 if len(pictures) % 2 else 1.0

    # The second sampler has met nobody before: what the first one keeps between people must not show.
    first = Sampler(model, detect, 7)
    first.person(3)
    again = [sample for sampler in (first, Sampler(model, detect, 7)) for sample in sampler.person(4)]
    for k in range(RENDERS_PER_PERSON):
        one, other = again[k], again[k + RENDERS_PER_PERSON]
        np.testing.assert_array_equal(one.expression, other.expression)
        np.testing.assert_array_equal(one.truth, other.truth)
        np.testing.assert_array_equal(pictures[RENDERS_PER_PERSON + k], pictures[2 * RENDERS_PER_PERSON + k])
    assert any(np.isnan(sample.landmarks).all() for sample in again)
