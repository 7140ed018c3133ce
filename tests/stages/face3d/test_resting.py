"""A face at rest is found below what it does."""

from __future__ import annotations

import numpy as np

from stages.face3d.model import FaceModel
from stages.face3d.resting import RestSolver
from stages.face3d.topology import LIPS

MODEL = FaceModel.builtin()
SOLVER = RestSolver(MODEL)


def person(seed: int) -> np.ndarray:
    """Somebody at rest, with a little that no direction of the model explains."""
    rng = np.random.default_rng(seed)
    return MODEL.shape(0.7 * rng.normal(size=len(MODEL.identity))) + 0.004 * rng.normal(size=(478, 3))


def doing(**named: float) -> np.ndarray:
    weights = np.zeros(len(MODEL.names))
    for name, value in named.items():
        weights[list(MODEL.indices(name))] = value
    return weights


def distance(one: np.ndarray, other: np.ndarray, points: tuple[int, ...] = tuple(range(468))) -> float:
    return float(np.linalg.norm((one - other)[list(points), :2], axis=1).mean())


def test_a_smile_in_a_portrait_is_mostly_gone():
    at_rest = person(1)
    smiling = at_rest + MODEL.displacement(doing(mouthSmile=0.8))
    found = SOLVER.rest(smiling[None])
    assert distance(found.shape, at_rest, LIPS) < 0.35 * distance(smiling, at_rest, LIPS)
    assert found.expression[0, list(MODEL.indices("mouthSmile"))].mean() > 0.3


def test_many_expressions_say_more_than_one():
    rng = np.random.default_rng(2)
    errors = []
    for number in range(5):
        at_rest = person(number)
        weights = np.stack([doing(jawOpen=a, mouthSmile=b, browInnerUp=c) for a, b, c in rng.uniform(0, 0.9, (24, 3)) ** 3])
        frames = at_rest + MODEL.displacement(weights)
        alone = [distance(SOLVER.rest(frame[None]).shape, at_rest) for frame in frames[:6]]
        errors.append((distance(SOLVER.rest(frames).shape, at_rest), np.mean(alone)))
    many, one = np.mean(errors, axis=0)
    assert many < 0.9 * one


def test_frames_that_are_not_trusted_do_not_count():
    at_rest = person(4)
    frames = np.stack([at_rest, at_rest + MODEL.displacement(doing(jawOpen=1.0, mouthPucker=1.0))])
    alone = SOLVER.rest(np.stack([at_rest, at_rest])).shape
    found = SOLVER.rest(frames, np.array([1.0, 1e-6])).shape
    assert distance(found, alone) < 0.005


def test_what_frames_do_beyond_a_known_face_is_explained():
    at_rest = person(5)
    motion = MODEL.displacement(np.stack([doing(), doing(jawOpen=0.7)]))
    weights = SOLVER.expression(at_rest + motion, at_rest, np.stack([doing(), doing(jawOpen=0.4)]))
    assert weights[0].max() < 0.05
    assert weights[1].argmax() == MODEL.indices("jawOpen")[0]
    left = motion[1] - MODEL.displacement(weights)[1]
    assert np.linalg.norm(left) < 0.35 * np.linalg.norm(motion[1])
    assert weights.min() >= 0
    assert weights.max() <= 1


def test_weights_to_begin_with_are_left_as_they_are():
    for order in ("C", "F"):
        start = np.array(np.stack([doing(jawOpen=0.4), doing(mouthSmile=0.5)]), order=order)
        before = start.copy()
        SOLVER.expression(np.stack([person(7)] * 2), person(8), start)
        np.testing.assert_array_equal(start, before)


def test_one_wild_landmark_does_not_matter_much():
    at_rest = person(6)
    broken = at_rest.copy()
    broken[300] += 0.5
    assert (
        distance(
            np.delete(SOLVER.rest(broken[None]).shape, 300, 0),
            np.delete(SOLVER.rest(at_rest[None]).shape, 300, 0),
            tuple(range(467)),
        )
        < 0.01
    )
