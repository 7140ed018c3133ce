"""The built-in model's filters, on MediaPipe's landmarks of rendered people that the model was not measured on.

``held_out.npz``: renders of ``headswap face-model build --seed 2026``: people (numbers that end in 9 are held out), true weights
in the order of the built-in model, true rotations of the head, detected landmarks in 1/64 pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stages.face3d.fitting import Fit, fit_frames, fit_identities, rotation_angle
from stages.face3d.model import FaceModel
from stages.face3d.reading import Reading

MODEL = FaceModel.builtin()


@dataclass(frozen=True)
class HeldOut:
    person: NDArray[np.int64]
    expression: NDArray[np.float64]
    rotation: NDArray[np.float64]
    landmarks: NDArray[np.float64]


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    with np.load(Path(__file__).with_name("held_out.npz")) as arrays:
        return HeldOut(
            np.unique(arrays["person"], return_inverse=True)[1],
            arrays["expression"].astype(np.float64),
            arrays["rotation"].astype(np.float64),
            arrays["landmarks"].astype(np.float64) / 64,
        )


def reading() -> Reading:
    assert MODEL.reading is not None
    return MODEL.reading


def fitted(held_out: HeldOut, landmarks: NDArray[np.float64], model: FaceModel = MODEL) -> tuple[Fit, float]:
    identity = fit_identities(landmarks, held_out.person, model)[held_out.person]
    fit = fit_frames(landmarks, model, identity)
    return fit, float(np.median(rotation_angle(held_out.rotation.transpose(0, 2, 1) @ fit.rotation)))


def correlation(name: str, found: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    chosen = list(MODEL.indices(name))
    return float(np.corrcoef(found[:, chosen].ravel(), truth[:, chosen].ravel())[0, 1])


def with_outliers(landmarks: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """A share of the landmarks thrown off by 0.4 of the inter-ocular distance per axis."""
    rng = np.random.default_rng(3)
    size = np.linalg.norm(landmarks[:, 263] - landmarks[:, 33], axis=1)
    wrong = rng.random(landmarks.shape[:2]) < share
    return landmarks + wrong[..., None] * rng.normal(size=landmarks.shape) * 0.4 * size[:, None, None]


def test_heads_of_unknown_people_are_found_within_their_goal(held_out: HeldOut) -> None:
    _, error = fitted(held_out, held_out.landmarks)
    assert error < 2.2


@pytest.mark.parametrize(("name", "least"), [("jawOpen", 0.9), ("mouthSmile", 0.8), ("eyeBlink", 0.8), ("mouthPucker", 0.55)])
def test_weights_of_unknown_people_are_read(held_out: HeldOut, name: str, least: float) -> None:
    fit, _ = fitted(held_out, held_out.landmarks)
    assert correlation(name, fit.expression, held_out.expression) > least


def test_filters_read_better_than_least_squares_as_if_errors_were_independent(held_out: HeldOut) -> None:
    read, error = fitted(held_out, held_out.landmarks)
    solved, plain_error = fitted(held_out, held_out.landmarks, replace(MODEL, reading=None))
    assert error < plain_error
    for name in ("jawOpen", "mouthSmile", "eyeBlink", "browInnerUp", "browOuterUp", "mouthPucker"):
        assert correlation(name, read.expression, held_out.expression) > correlation(name, solved.expression, held_out.expression)


def test_ten_percent_outliers_change_little(held_out: HeldOut) -> None:
    clean, error = fitted(held_out, held_out.landmarks)
    dirty, dirty_error = fitted(held_out, with_outliers(held_out.landmarks, 0.1))
    assert dirty_error < error + 0.6
    assert rotation_angle(clean.poses.rotation @ dirty.poses.rotation.transpose(0, 2, 1)).max() < 2.0
    assert np.median(abs(clean.expression - dirty.expression).max(1)) < 0.15


def test_landmarks_without_outliers_stay_as_they_are(held_out: HeldOut) -> None:
    identity = fit_identities(held_out.landmarks, held_out.person, MODEL)[held_out.person]
    residuals = fit_frames(held_out.landmarks, MODEL, identity).poses.canonical(held_out.landmarks) - MODEL.shape(identity)
    moved = np.linalg.norm(reading().cleaned(residuals) - residuals, axis=-1)
    assert (moved > 0).mean() < 0.02


def test_a_landmark_thrown_off_is_put_back(held_out: HeldOut) -> None:
    identity = fit_identities(held_out.landmarks, held_out.person, MODEL)[held_out.person]
    residuals = fit_frames(held_out.landmarks, MODEL, identity).poses.canonical(held_out.landmarks) - MODEL.shape(identity)
    thrown = residuals.copy()
    thrown[:, 13] += (0.3, 0.4, 0.0)
    assert np.linalg.norm(reading().cleaned(thrown)[:, 13] - residuals[:, 13], axis=-1).max() < 0.05


def test_filters_treat_both_sides_of_the_face_alike() -> None:
    mirror = np.argsort(np.linalg.norm(MODEL.mean[:, None] * (-1, 1, 1) - MODEL.mean[None], axis=-1), axis=1)[:, 0]
    np.testing.assert_array_equal(mirror[mirror], np.arange(len(mirror)))
    turned = reading().weights[MODEL.mirrored][:, mirror] * (-1, 1, 1)
    assert np.abs(turned - reading().weights).max() < 0.02 * np.abs(reading().weights).max()
    np.testing.assert_allclose(reading().offset[MODEL.mirrored], reading().offset, atol=0.02)
