"""Networks by themselves: what enters where, what begins at zero, and what must not depend on what."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stages.networks import presets
from stages.networks.attention import MotionModule, SpatialBlock
from stages.networks.denoising_net import DenoisingNet
from stages.networks.pose_guider import PoseGuider, SingleScalePoseGuider
from stages.networks.presets import TINY, PosePreset

GENERATOR = torch.Generator().manual_seed(3)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR)


def stirred(network: nn.Module) -> nn.Module:
    """With weights that hide nothing: those that begin at zero would."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=GENERATOR) + (parameter.ndim == 1) * 0.5)
    return network.eval()


@pytest.fixture(scope="module")
def net() -> DenoisingNet:
    network = stirred(presets.denoising_net(TINY))
    assert isinstance(network, DenoisingNet)
    return network


@torch.no_grad()
def reference_of(tokens: Tensor) -> dict[str, Tensor]:
    network = stirred(presets.appearance_net(TINY))
    features, _ = network(random(len(tokens), 4, 8, 8), tokens)
    assert isinstance(features, dict)
    return features


@torch.no_grad()
def test_unconditional_rows_see_no_reference_and_conditional_rows_do(net: DenoisingNet) -> None:
    tokens = random(1, 1, 16)
    reference = reference_of(tokens)
    row = random(1, 8, 3, 8, 8)
    both = net(row.repeat(2, 1, 1, 1, 1), 500, torch.cat([0 * tokens, tokens]), reference=reference)
    assert torch.allclose(both[:1], net(row, 500, 0 * tokens), atol=1e-5)
    assert torch.allclose(both[1:], net(row, 500, tokens, reference=reference), atol=1e-5)
    assert float((both[1] - net(row, 500, tokens)[0]).abs().max()) > 1e-2


@torch.no_grad()
def test_every_self_attention_takes_up_the_reference(net: DenoisingNet) -> None:
    tokens = random(1, 1, 16)
    reference = reference_of(tokens)
    assert set(reference) == {place for place, _ in net.transformers()}
    row = random(1, 8, 2, 8, 8)
    whole = net(row, 10, tokens, reference=reference)
    for place in reference:
        changed = {**reference, place: reference[place] + 1}
        assert not torch.allclose(net(row, 10, tokens, reference=changed), whole, atol=1e-6), place


@torch.no_grad()
def test_projecting_the_reference_beforehand_changes_nothing(net: DenoisingNet) -> None:
    tokens = random(2, 1, 16)
    reference = reference_of(tokens)
    rows = random(2, 8, 3, 8, 8)
    expected = net(rows, 77, tokens, reference=reference)
    assert torch.equal(net(rows, 77, tokens, reference=net.project_reference(reference)), expected)


@torch.no_grad()
def test_one_token_costs_no_attention_and_gives_the_same() -> None:
    block = stirred(SpatialBlock(16, heads=2, token_channels=6))
    hidden, token = random(4, 9, 16), random(2, 1, 6)
    once, _ = block(hidden, token, None, 2)
    # The softmax over two equal tokens gives each a half: their values' mean is the value of one.
    twice, _ = block(hidden, token.repeat(1, 2, 1), None, 2)
    assert torch.allclose(once, twice, atol=1e-5)


@torch.no_grad()
def test_untrained_motion_pose_and_background_change_nothing() -> None:
    network = presets.denoising_net(TINY).eval()
    row, tokens = random(1, 8, 3, 8, 8), random(1, 1, 16)
    expected = network(row, 5, tokens, motion=False)
    assert torch.equal(network(row, 5, tokens, motion=True), expected)
    other = torch.cat([row[:, :4], random(1, 4, 3, 8, 8)], 1)
    assert torch.equal(network(other, 5, tokens), expected)
    for pose in (TINY.pose, PosePreset(scales="single")):
        guider = presets.pose_guider(replace(TINY, pose=pose)).eval()
        features = guider(random(1, 3, 3, 64, 64))
        assert float(features[0].abs().max()) == 0


@torch.no_grad()
def test_without_motion_frames_do_not_see_each_other_and_with_it_they_do(net: DenoisingNet) -> None:
    row, tokens = random(1, 8, 3, 8, 8), random(1, 1, 16)
    changed = row.clone()
    changed[:, :, 2] += 1
    still = (net(changed, 5, tokens, motion=False) - net(row, 5, tokens, motion=False)).abs().amax((0, 1, 3, 4))
    assert still[:2].max() == 0
    assert still[2] > 0
    moving = (net(changed, 5, tokens) - net(row, 5, tokens)).abs().amax((0, 1, 3, 4))
    assert moving.min() > 1e-4


@torch.no_grad()
def test_a_window_too_long_for_the_motion_module_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 32 frames"):
        MotionModule(8, 2, 4)(random(33, 8, 1, 1), 33)


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (12, 3)])
def test_pictures_of_any_size_come_back_in_theirs(net: DenoisingNet, size: tuple[int, int]) -> None:
    assert net(random(1, 8, 2, *size), 5, random(1, 1, 16)).shape == (1, 4, 2, *size)


@torch.no_grad()
def test_pose_features_fit_every_resolution_and_reach_the_output(net: DenoisingNet) -> None:
    guider = stirred(presets.pose_guider(TINY))
    features = guider(random(1, 3, 2, 64, 64))
    assert [tuple(feature.shape[1:]) for feature in features] == [(8, 2, 8, 8), (8, 2, 4, 4), (16, 2, 4, 4)]
    row, tokens = random(1, 8, 2, 8, 8), random(1, 1, 16)
    without = net(row, 5, tokens, (0 * features[0], 0 * features[1], 0 * features[2]))
    for tap in range(3):
        pose = tuple(feature * (number == tap) for number, feature in enumerate(features))
        assert not torch.allclose(net(row, 5, tokens, pose), without, atol=1e-5)
    with pytest.raises(ValueError, match="do not fit"):
        net(row, 5, tokens, features[:2])


@torch.no_grad()
@pytest.mark.parametrize("normalisation", ["running", "frame"])
def test_pose_features_of_a_frame_do_not_depend_on_its_window(normalisation: str) -> None:
    # In double precision: features reach 90 here, and processors round sums of other lengths differently.
    guider = stirred(PoseGuider((8, 16), 2, 4, 4, normalisation)).double()
    drawings = random(1, 3, 4, 32, 32).double()
    alone = guider(drawings[:, :, 1:2])
    for feature, single in zip(guider(drawings), alone, strict=True):
        assert torch.allclose(feature[:, :, 1:2], single, rtol=0, atol=1e-10)


@torch.no_grad()
def test_window_statistics_make_them_depend_and_are_not_remembered() -> None:
    guider = stirred(PoseGuider((8, 16), 2, 4, 4, "window"))
    before = {name: tensor.clone() for name, tensor in guider.state_dict().items()}
    drawings = random(1, 3, 4, 32, 32) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None]
    assert not torch.allclose(guider(drawings)[0][:, :, 1:2], guider(drawings[:, :, 1:2])[0], atol=1e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in guider.state_dict().items())


def test_gradients_reach_every_weight_but_those_that_one_token_makes_idle() -> None:
    appearance, denoising = presets.appearance_net(TINY), presets.denoising_net(TINY)
    for network in (appearance, denoising):
        stirred(network).train()
        network.enable_gradient_checkpointing()
    tokens = random(2, 1, 16)
    features, _ = appearance(random(2, 4, 8, 8), tokens)
    denoising(random(2, 8, 2, 8, 8), torch.tensor([3, 900]), tokens, reference=features).square().mean().backward()
    idle = {name for name, parameter in denoising.named_parameters() if parameter.grad is None}
    assert idle
    assert all(".norm2." in name or ".attn2.to_q." in name or ".attn2.to_k." in name for name in idle)
    taken_up = appearance.get_parameter("down_blocks.0.attentions.0.transformer_blocks.0.norm1.weight")
    assert taken_up.grad is not None
    assert float(taken_up.grad.abs().max()) > 0


def test_gradient_checkpointing_changes_no_gradient() -> None:
    network = stirred(presets.denoising_net(TINY))
    row, tokens = random(1, 8, 2, 8, 8), random(1, 1, 16)
    gradients = []
    for checkpointing in (False, True):
        network.zero_grad()
        network.train()
        if checkpointing:
            network.enable_gradient_checkpointing()
        network(row, 3, tokens).square().mean().backward()
        gradients.append(network.conv_in.weight.grad.clone())
    assert torch.allclose(*gradients, atol=1e-6)


def test_the_demo_preset_fits_in_thirty_megabytes_in_half_precision() -> None:
    with torch.device("meta"):
        parts = [
            part(presets.DEMO)
            for part in (
                presets.vae,
                presets.image_encoder,
                presets.appearance_net,
                presets.denoising_net,
                presets.pose_guider,
            )
        ]
    assert sum(2 * tensor.numel() for part in parts for tensor in part.state_dict().values()) < 30_000_000


def test_the_full_preset_has_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        networks = (
            (presets.appearance_net(presets.FULL), 859_508_800),
            (presets.denoising_net(presets.FULL), 1_312_730_244 + 4 * 320 * 9),
            (presets.pose_guider(presets.FULL), 167_518_523),
            (SingleScalePoseGuider(), 1_086_480),
            (presets.vae(presets.FULL), 83_653_863),
            (presets.image_encoder(presets.FULL), 303_966_208),
        )
    for network, count in networks:
        assert sum(parameter.numel() for parameter in network.parameters()) == count, type(network).__name__


def test_a_guided_window_costs_only_the_arithmetic_that_it_needs() -> None:
    """Counted at full size: the published pipelines need 42,808 GFLOP for a window of 16 frames, and of pose features 3,823 more.

    Without work whose result is thrown away it is 37,251, less 819 for queries to a single reference token.
    """

    def giga(*run: object) -> float:
        call, *arguments = run
        assert callable(call)
        with FlopCounterMode(display=False) as counter:
            call(*arguments)
        return counter.get_total_flops() / 1e9

    with torch.device("meta"), torch.no_grad():
        preset = replace(presets.FULL, background=False)
        network, tokens = presets.denoising_net(preset), torch.zeros(1, 1, 768)
        features, _ = presets.appearance_net(preset)(torch.zeros(1, 4, 64, 64), tokens)
        projected = network.project_reference(features)
        assert giga(network.project_reference, features) == pytest.approx(25.6, rel=0.01)
        window, both = torch.zeros(2, 4, 16, 64, 64), torch.zeros(2, 1, 768)
        assert giga(network, window, 5, both, (), projected) == pytest.approx(37_251 - 819, rel=0.001)
