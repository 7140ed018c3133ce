"""Expressions in proportion: everybody's eyes close, the mean face keeps its own, larger mouths move farther."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages.face3d.topology import EYES
from stages.performers.head import HeadModel
from stages.performers.mediapipe_points import Correspondence
from stages.performers.proportions import Proportions


@pytest.fixture(scope="module")
def model(shared: Path) -> HeadModel:
    file = shared / "models/ict/ict_facekit.npz"
    if not file.is_file():
        pytest.skip("the ICT-FaceKit's file is not there")
    return HeadModel.load(file)


def test_the_mean_face_keeps_its_expressions(model):
    own = Proportions(model).of(np.zeros(1))
    smile = model.expression_names.index("mouthSmile_L")
    np.testing.assert_allclose(own.expression[smile], model.expression[smile], atol=0.02)


def test_eyes_of_all_openings_close_and_other_motion_follows_the_face(model):
    proportions, points = Proportions(model), Correspondence.builtin()
    for seed in range(3):
        identity = np.random.default_rng(seed).normal(size=60)
        own, base = proportions.of(identity), model.shape(identity.astype(np.float32))
        for eye, side in zip(EYES, "LR", strict=True):
            blink = own.expression[own.expression_names.index(f"eyeBlink_{side}")]

            def gap(head: np.ndarray, eye=eye) -> float:
                landmarks = points.places(head)
                return float((landmarks[list(eye.upper), 1] - landmarks[list(eye.lower), 1]).mean())

            assert 0 < gap(base + blink) < 0.06 * gap(base)
        jaw = own.expression_names.index("jawOpen")
        share = np.linalg.norm(own.expression[jaw]) / np.linalg.norm(model.expression[jaw])
        assert 0.7 < share < 1.4
