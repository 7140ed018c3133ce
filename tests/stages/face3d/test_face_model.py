"""The built-in face model: what ships is complete, small and named as people write."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest

from schemas.edits import MIDDLE, SIDED
from stages.face3d.model import FaceModel
from stages.face3d.topology import EYES, LEFT_EYE, RIGHT_EYE, eye_centres, interocular

MODEL = FaceModel.builtin()


def test_its_unit_is_the_distance_of_the_eye_centres():
    assert interocular(MODEL.mean) == pytest.approx(1.0, abs=0.03)
    np.testing.assert_allclose(eye_centres(MODEL.mean).mean(0), 0, atol=0.05)


def test_left_is_the_persons_left_and_up_is_up():
    assert MODEL.mean[LEFT_EYE.outer, 0] > 0 > MODEL.mean[RIGHT_EYE.outer, 0]
    assert MODEL.mean[10, 1] > 0 > MODEL.mean[152, 1]
    assert MODEL.mean[1, 2] > MODEL.mean[234, 2]


def test_the_file_is_small():
    assert len((resources.files("stages.face3d") / "data" / "face_model.npz").read_bytes()) < 1_000_000


def test_what_is_saved_is_what_is_loaded(tmp_path):
    MODEL.save(tmp_path / "model.npz")
    again = FaceModel.load(tmp_path / "model.npz")
    assert again.names == MODEL.names
    np.testing.assert_array_equal(again.expression, MODEL.expression)
    np.testing.assert_array_equal(again.rigid, MODEL.rigid)


@pytest.mark.parametrize("name", ["eyeBlinkLeft", "eyeBlink_L", "EYEBLINKLEFT"])
def test_expressions_are_found_in_every_spelling(name):
    assert [MODEL.names[index] for index in MODEL.indices(name)] == ["eyeBlink_L"]


def test_a_name_without_a_side_means_both():
    assert {MODEL.names[index] for index in MODEL.indices("browInnerUp")} == {"browInnerUp_L", "browInnerUp_R"}


def test_an_unknown_expression_is_named_with_the_known_ones():
    with pytest.raises(KeyError, match=r"tongueOut.*jawOpen"):
        MODEL.indices("tongueOut")


def test_what_people_may_write_is_what_the_model_knows():
    written = {f"{name}_{side}" for name in SIDED for side in "LR"} | set(MIDDLE)
    assert written == set(MODEL.names)


def test_mirroring_swaps_sides_and_is_its_own_inverse():
    partners = MODEL.mirrored
    np.testing.assert_array_equal(partners[partners], np.arange(len(MODEL.names)))
    assert MODEL.names[partners[MODEL.names.index("jawLeft")]] == "jawRight"
    assert MODEL.names[partners[MODEL.names.index("mouthSmile_R")]] == "mouthSmile_L"


def test_a_blink_closes_its_own_eye():
    for eye, name in zip(EYES, ("eyeBlink_L", "eyeBlink_R"), strict=True):
        weights = np.zeros(len(MODEL.names))
        weights[MODEL.indices(name)[0]] = 1
        moved = MODEL.displacement(weights)
        assert moved[list(eye.upper), 1].mean() < -0.03
        other = RIGHT_EYE if eye is LEFT_EYE else LEFT_EYE
        assert abs(moved[list(other.upper), 1]).mean() < 0.02
