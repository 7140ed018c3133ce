"""Telling people apart without a network, and preparing pictures for one."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
import pytest
from insightface.utils import face_align
from onnx import TensorProto, helper

from schemas.problems import ModelError
from stages.face3d.topology import LEFT_EYE, NOSE_TIP, OUTER_CORNERS, RIGHT_EYE
from stages.identity import SAME_SHAPE, IdentityNetwork, align_face, shape_descriptor
from tests.made_up_faces import Performer


def descriptor(identity: int, yaw: float, expression: dict[str, float]) -> np.ndarray:
    person = Performer(
        identity,
        [],
        turns={frame: (yaw + frame, 0, 0) for frame in range(6)},
        expressions=dict.fromkeys(range(6), expression),
        noise=0.005,
    )
    return shape_descriptor(np.stack([person.landmarks(frame) for frame in range(6)]))


def test_a_person_is_alike_to_themselves_and_not_to_others():
    calm = [descriptor(identity, -15, {}) for identity in range(6)]
    talking = [descriptor(identity, 20, {"jawOpen": 0.6, "mouthSmile": 0.4}) for identity in range(6)]
    likeness = np.array(calm) @ np.array(talking).T
    assert np.diag(likeness).min() > SAME_SHAPE
    assert (likeness - 2 * np.eye(6)).max() < SAME_SHAPE


def test_faces_are_aligned_to_the_place_networks_expect():
    person = Performer(1, [], x=180, y=140, size=70, turns={0: (0, 0, 20)})
    points = person.landmarks(0)
    picture = np.zeros((400, 400, 3), np.uint8)
    for index, colour in ((NOSE_TIP, (255, 0, 0)),):
        cv2.circle(picture, tuple(int(v) for v in points[index, :2]), 5, colour, -1)
    for eye, colour in ((RIGHT_EYE, (0, 255, 0)), (LEFT_EYE, (0, 0, 255))):
        cv2.circle(picture, tuple(int(v) for v in points[list(eye.corners), :2].mean(0)), 5, colour, -1)
    aligned = align_face(picture, points)
    for channel, expected in ((0, (56, 72)), (1, (38, 52)), (2, (74, 52))):
        y, x = np.unravel_index(cv2.GaussianBlur(aligned[..., channel], (0, 0), 2).argmax(), (112, 112))
        assert np.hypot(x - expected[0], y - expected[1]) < 8


def test_alignment_is_exact_to_a_fraction_of_a_pixel():
    """A picture of its own coordinates: where each of the five points is, the aligned picture shows that point."""
    points = Performer(1, [], x=180, y=140, size=70, turns={0: (0, 0, 20)}).landmarks(0)
    columns, rows = np.meshgrid((np.arange(400) + 0.5) / 2, (np.arange(400) + 0.5) / 2)
    # Two pixels a level, so that 400 of them fit into eight bits; the mean over many says more than one level.
    aligned = align_face(np.rint(np.stack([columns, rows, rows], -1)).astype(np.uint8), points).astype(float)
    eyes = [points[list(eye.corners), :2].mean(0) for eye in (RIGHT_EYE, LEFT_EYE)]
    five = np.stack([*eyes, *points[[NOSE_TIP, *OUTER_CORNERS], :2]])
    matrix = face_align.estimate_norm(five - 0.5)
    inverse = cv2.invertAffineTransform(matrix)
    inner = aligned[30:100, 30:80]
    y, x = np.mgrid[30:100, 30:80]
    expected = np.stack([x, y, np.ones_like(x)], -1) @ inverse.T + 0.5
    assert np.abs((2 * inner[..., :2] - expected).mean((0, 1))).max() < 0.1


def network(path, side: int = 112):
    """A stand-in with ArcFace's interface: the mean colour of the picture as its embedding."""
    node = helper.make_node("ReduceMean", ["input"], ["output"], axes=[2, 3], keepdims=0)
    graph = helper.make_graph(
        [node],
        "mean",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, side, side])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


def test_embeddings_have_unit_length(tmp_path):
    points = Performer(1, [], x=180, y=140, size=70).landmarks(0)
    picture = np.zeros((400, 400, 3), np.uint8)
    picture[..., 0] = 255
    embedding = IdentityNetwork(network(tmp_path / "mean.onnx")).embed(picture, points)
    np.testing.assert_allclose(embedding, np.array([1, -1, -1]) / np.sqrt(3), atol=0.02)


def test_a_network_of_another_kind_is_refused_by_name(tmp_path):
    with pytest.raises(ModelError, match=r"odd\.onnx"):
        IdentityNetwork(network(tmp_path / "odd.onnx", side=64))
