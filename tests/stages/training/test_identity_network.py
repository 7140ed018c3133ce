"""The identity network of the loss computes what ONNX Runtime computes, and lets gradients through."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from schemas.problems import ModelError
from stages.identity import align_face
from stages.training.identity_network import TEMPLATE, aligned_faces, load_identity_network
from tests.stages.training.made_up_networks import write_identity_network


@pytest.mark.parametrize("centred", [True, False])
def test_embeddings_are_those_of_onnx_runtime(tmp_path: Path, centred: bool) -> None:
    path = write_identity_network(tmp_path / "identity.onnx", centred=centred)
    pictures = np.random.default_rng(1).uniform(-1, 1, (3, 3, 112, 112)).astype(np.float32)
    given = pictures if centred else (pictures + 1) * 127.5
    (expected,) = onnxruntime.InferenceSession(str(path)).run(None, {"picture": given})
    found = load_identity_network(path).embed(torch.from_numpy(pictures))
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5, rtol=1e-4)


def test_gradients_reach_the_picture_but_no_weight(tmp_path: Path) -> None:
    network = load_identity_network(write_identity_network(tmp_path / "identity.onnx"))
    picture = torch.rand(1, 3, 112, 112, requires_grad=True)
    network.embed(picture).square().sum().backward()
    assert picture.grad is not None
    assert picture.grad.abs().max() > 0
    assert not list(network.parameters())


def test_unknown_operators_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Erf") as caught:
        load_identity_network(write_identity_network(tmp_path / "identity.onnx", extra="Erf"))
    assert caught.value.code == "model_unsuitable"


def test_a_network_for_other_pictures_is_refused(tmp_path: Path) -> None:
    import onnx

    path = write_identity_network(tmp_path / "identity.onnx")
    model = onnx.load(str(path))
    model.graph.node[-1].output[0] = "elsewhere"
    model.graph.output[0].name = model.graph.node[0].output[0]
    onnx.save(model, str(path))
    with pytest.raises(ModelError, match="instead of an embedding"):
        load_identity_network(path)


def test_a_face_that_lies_as_the_template_stays_as_it_is() -> None:
    picture = torch.rand(1, 3, 112, 112) * 2 - 1
    points = torch.tensor(TEMPLATE)[None] + 0.5
    assert torch.allclose(aligned_faces(picture, points), picture, atol=1e-4)


def test_alignment_agrees_with_insightface() -> None:
    rng = np.random.default_rng(3)
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 12), (160, 160), mode="bicubic").clamp(0, 1)
    angle, scale = 0.3, 1.1
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (np.array(TEMPLATE) - 56) @ turn.T + 80 + rng.normal(size=(5, 2)) * 2
    landmarks = np.zeros((478, 3))
    from stages.face3d.topology import LEFT_EYE, NOSE_TIP, OUTER_CORNERS, RIGHT_EYE

    for eye, place in ((RIGHT_EYE, points[0]), (LEFT_EYE, points[1])):
        landmarks[list(eye.corners), :2] = place
    landmarks[NOSE_TIP, :2], landmarks[OUTER_CORNERS[0], :2], landmarks[OUTER_CORNERS[1], :2] = points[2], points[3], points[4]
    rgb = (smooth[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    expected = align_face(rgb, landmarks).astype(float)
    ours = aligned_faces(torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 127.5 - 1, torch.from_numpy(points)[None])
    found = ((ours[0].permute(1, 2, 0) + 1) * 127.5).numpy()
    assert np.abs(found - expected)[8:-8, 8:-8].mean() < 1.5


def test_alignment_is_differentiable_and_black_outside() -> None:
    picture = torch.rand(1, 3, 64, 64, requires_grad=True)
    points = torch.tensor(TEMPLATE)[None] * 0.3 + 100
    assert torch.equal(aligned_faces(picture, points), torch.full((1, 3, 112, 112), -1.0))
    inside = aligned_faces(picture, torch.tensor(TEMPLATE)[None] * 0.5)
    inside.sum().backward()
    assert picture.grad is not None
    assert picture.grad.abs().max() > 0
