"""Losses against their formulas, on numbers small enough to check by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.networks.schedulers import make_scheduler
from stages.training import losses


@given(signal=st.floats(0, 1), prediction=st.sampled_from(["epsilon", "v_prediction"]), seed=st.integers(0, 100))
def test_the_true_prediction_reconstructs_the_latents(signal: float, prediction: losses.Prediction, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    latents, noise = torch.randn(2, 2, 4, 1, 2, 2, generator=generator).double()
    alphas = torch.full((2,), signal, dtype=torch.float64)
    noisy = losses.add_noise(latents, noise, alphas)
    target = losses.training_target(latents, noise, alphas, prediction)
    found = losses.one_step_reconstruction(noisy, target, alphas, prediction)
    if prediction == "epsilon" and signal < 1e-5:
        assert torch.isfinite(found).all()
    else:
        assert torch.allclose(found, latents, atol=1e-6)


def test_min_snr_weights_follow_their_formula() -> None:
    alphas = torch.tensor([0.0, 0.5, 0.9, 0.999])  # SNR 0, 1, 9, 999
    noise = losses.min_snr_weights(alphas, 5.0, "epsilon")
    assert noise.tolist() == pytest.approx([1, 1, 5 / 9, 5 / 999], rel=1e-3)
    velocity = losses.min_snr_weights(alphas, 5.0, "v_prediction")
    assert velocity.tolist() == pytest.approx([1, 1, 0.5, 0.005], rel=1e-3)
    assert losses.min_snr_weights(alphas, None, "epsilon").tolist() == [1, 1, 1, 1]


def test_the_noise_schedule_ends_without_any_signal() -> None:
    alphas = make_scheduler("ddim").alphas_cumprod
    assert float(alphas[-1]) == pytest.approx(0, abs=1e-12)
    assert float(alphas[0]) > 0.99


def test_offset_noise_shifts_whole_pictures() -> None:
    noise = torch.randn(2, 4, 3, 8, 8)
    shifted = losses.offset_noise(noise, torch.ones(2, 4, 1, 1, 1), 0.05)
    assert torch.allclose(shifted - noise, torch.full_like(noise, 0.05), atol=1e-6)


def test_rows_are_weighted_in_the_diffusion_loss() -> None:
    predicted = torch.stack([torch.full((1, 2), 2.0), torch.full((1, 2), 4.0)])
    assert float(losses.diffusion_loss(predicted, torch.zeros_like(predicted), torch.tensor([1.0, 0.5]))) == (4 + 8) / 2


def test_the_head_loss_sees_the_head_only() -> None:
    truth = torch.zeros(1, 3, 4, 4)
    pictures = truth.clone()
    pictures[..., :2, :] = 0.5
    head = torch.zeros(1, 4, 4, dtype=torch.bool)
    head[:, 1:3] = True
    assert float(losses.head_loss(pictures, truth, head, torch.tensor([1.0]))) == pytest.approx(0.25 / 2)
    assert float(losses.head_loss(pictures, truth, torch.zeros_like(head), torch.tensor([1.0]))) == 0


def test_the_identity_loss_is_one_minus_the_cosine() -> None:
    found = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    truth = torch.tensor([[5.0, 0.0], [1.0, 0.0]])
    weights = torch.tensor([1.0, 1.0])
    assert float(losses.identity_loss(found, truth, weights)) == pytest.approx((1 - math.sqrt(0.5)) / 2)


def test_tints_count_by_how_rarely_they_differ_and_cells_as_wholes() -> None:
    truth = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(2)) - 0.5
    assert float(losses.tint_loss(truth, truth, 8)) == 0
    along = {"brightness": (1, 1, 1), "orange to blue": (1, 0, -1), "green to purple": (-1, 2, -1)}
    found = []
    for axis in along.values():
        step = torch.tensor(axis, dtype=torch.float32)
        found.append(float(losses.tint_loss(truth + 0.1 * (step / step.norm()).view(3, 1, 1), truth, 8)))
    assert found == pytest.approx([0, 16 * 0.01 / 2, 64 * 0.01 / 2], rel=1e-3, abs=1e-9)
    stripes = 0.2 * torch.tensor([1.0, -1.0]).repeat(12).view(1, 1, 1, 24)
    assert float(losses.tint_loss(truth + stripes, truth, 8)) == pytest.approx(0, abs=1e-10)


def test_reconstruction_loss_is_zero_for_equal_pictures_and_blind_edges_to_brightness() -> None:
    truth = torch.rand(1, 3, 16, 16)
    assert [float(part) for part in losses.reconstruction_loss(truth, truth)] == [0, 0]
    colours, edges = losses.reconstruction_loss(truth + 0.1, truth)
    assert float(colours) == pytest.approx(0.2, abs=1e-5)
    assert float(edges) == pytest.approx(0, abs=1e-5)


def test_psnr_of_a_region() -> None:
    truth = torch.zeros(1, 3, 4, 4)
    pictures = truth.clone()
    pictures[..., 0, :] = 0.1
    region = torch.zeros(1, 4, 4, dtype=torch.bool)
    region[:, 0] = True
    assert losses.psnr(pictures, truth, region) == pytest.approx(20, abs=1e-4)
    assert losses.psnr(pictures, truth) == pytest.approx(20 + 10 * math.log10(4), abs=1e-4)


def test_divergence_of_the_standard_normal_is_zero() -> None:
    assert float(losses.divergence(torch.zeros(3), torch.zeros(3))) == 0
    assert float(losses.divergence(torch.ones(3), torch.zeros(3))) == 0.5
