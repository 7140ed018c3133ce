"""The face model's measurement finds what the samples were made from, and judges models fairly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stages.face3d.fitting import Poses, rotation_from_euler
from stages.face3d.measuring import EYEBALL, LEFT_OUT, WIDENING, Samples, compare, regress
from stages.face3d.model import FaceModel
from stages.face3d.retargeting import mirrored_displacement
from stages.face3d.topology import LEFT_EYE, interocular

MODEL = FaceModel.builtin()
NAMES = (*LEFT_OUT, *MODEL.names)


def made_up(people: int, noise: float) -> Samples:
    """Samples of the built-in model itself, four of each person, in any size and place."""
    rng = np.random.default_rng(5)
    count = 4 * people
    identity = np.repeat(rng.normal(size=(people, len(MODEL.identity))) / WIDENING, 4, axis=0)  # as people were drawn
    expression = rng.uniform(size=(count, len(NAMES))) * (rng.uniform(size=(count, len(NAMES))) < 0.12)
    poses = Poses(
        rotation_from_euler(rng.uniform(-1, 1, (count, 3)) * (12, 8, 8)),
        np.concatenate([rng.uniform(100, 200, (count, 2)), np.zeros((count, 1))], axis=1),
        rng.uniform(60, 100, count),
    )
    truth = poses.project(MODEL.shape(identity, expression[:, len(LEFT_OUT) :]))
    seen = truth + rng.normal(size=truth.shape) * noise * poses.scale[:, None, None]
    arrays = (np.repeat(np.arange(people), 4), identity, expression, poses.rotation, truth, seen)
    return Samples(arrays[0].astype(np.int32), *(array.astype(np.float32) for array in arrays[1:]), names=NAMES)


@pytest.fixture(scope="module")
def samples() -> Samples:
    return made_up(550, 0.01)


@pytest.fixture(scope="module")
def measured(samples: Samples) -> FaceModel:
    return regress(samples.split(0.1)[0])


def test_people_are_either_learned_from_or_judged_on(samples: Samples) -> None:
    learned, held_out = samples.split(0.1)
    assert not set(learned.person) & set(held_out.person)
    assert len(learned) + len(held_out) == len(samples)
    assert len(held_out) == pytest.approx(len(samples) / 10, rel=0.05)


def beside_pose(displacement: np.ndarray, model: FaceModel) -> np.ndarray:
    """A displacement ``[478, 3]`` less the turn, growth and shift that explain most of it on the rigid landmarks."""
    x, y, z = model.mean.T
    none, one = np.zeros_like(x), np.ones_like(x)
    moves = [(none, -z, y), (z, none, -x), (-y, x, none), (x, y, z), (one, none, none), (none, one, none), (none, none, one)]
    fields = np.array([np.stack(move, axis=1) for move in moves])
    share = np.linalg.lstsq(fields[:, model.rigid].reshape(7, -1).T, displacement[model.rigid].ravel())[0]
    return displacement - np.tensordot(share, fields, 1)


def test_the_expressions_of_the_samples_are_found_again(measured: FaceModel) -> None:
    assert measured.names == MODEL.names
    # The measurement is made symmetric; so must be what it is compared with. What a pose explains is the pose's.
    for name in ("jawOpen", "mouthSmile_L", "eyeBlink_R"):
        index = MODEL.indices(name)[0]
        found = beside_pose(measured.expression[index], measured)
        wanted = 0.5 * (MODEL.expression[index] + mirrored_displacement(MODEL.expression[MODEL.mirrored[index]]))
        wanted = beside_pose(wanted, measured)
        assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.9
        assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(wanted), rel=0.15)


def test_the_measured_model_has_the_units_and_axes_of_model_space(measured: FaceModel) -> None:
    assert interocular(measured.mean) == pytest.approx(1)
    assert np.sqrt(((measured.mean - MODEL.mean) ** 2).sum(1).mean()) < 0.05
    np.testing.assert_allclose(measured.mean[[33, 263]].mean(0)[0], 0, atol=1e-6)


def test_gaze_moves_the_iris_by_geometry_and_leaves_the_rest_of_the_face(measured: FaceModel) -> None:
    out = measured.expression[measured.indices("eyeLookOut_L")[0]]
    np.testing.assert_allclose(out[LEFT_EYE.iris], (EYEBALL * 0.5, 0, 0), atol=1e-3)
    assert np.abs(np.delete(out, [*LEFT_EYE.outline, *LEFT_EYE.iris_points], axis=0)).max() == 0


def test_a_wrong_model_is_judged_worse(samples: Samples, measured: FaceModel) -> None:
    held_out = samples.split(0.1)[1]
    shifted = replace(measured, mean=measured.mean + np.random.default_rng(1).normal(size=measured.mean.shape) * 0.05)
    report = compare(held_out, {"measured": measured, "shifted": shifted})
    assert report["measured"]["known_expression"] < 0.6 * report["shifted"]["known_expression"]
    assert report["measured"]["pose_degrees_same_axes"] < 1.0
    assert report["measured"]["correlation"]["jawOpen"] > 0.95
