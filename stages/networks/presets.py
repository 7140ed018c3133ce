"""Sizes of the networks, as plain data, and pipelines of these sizes with untrained weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from transformers import CLIPVisionConfig

from stages.networks.appearance_net import AppearanceNet
from stages.networks.denoising_net import DenoisingNet
from stages.networks.image_encoder import ImageEncoder
from stages.networks.pipeline import HeadSwapPipeline
from stages.networks.pose_guider import Normalisation, PoseGuider, SingleScalePoseGuider
from stages.networks.schedulers import Solver, make_scheduler


@dataclass(frozen=True)
class UNetPreset:
    """Sizes that AppearanceNet and DenoisingNet share; see ``stages.networks.unet.UNetSizes``."""

    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers: int = 2
    attention: tuple[bool, ...] = (True, True, True, False)
    heads: int = 8
    token_channels: int = 768
    groups: int = 32


@dataclass(frozen=True)
class PosePreset:
    """Sizes of the PoseGuider.

    Attributes:
        scales: ``multi`` (AniPortrait's layout) or ``single`` (AnimateAnyone's).
        heads, head_channels: self-attention of the multi-scale guider.
        normalisation: of the multi-scale guider.
        channels: convolutions of the single-scale guider.
    """

    scales: Literal["multi", "single"] = "multi"
    heads: int = 16
    head_channels: int = 88
    normalisation: Normalisation = "running"
    channels: tuple[int, ...] = (16, 32, 96, 256)


@dataclass(frozen=True)
class ImageEncoderPreset:
    """Sizes of the CLIP vision transformer; the defaults are those of ViT-L/14."""

    width: int = 1024
    hidden: int = 4096
    layers: int = 24
    heads: int = 16
    image_size: int = 224
    patch_size: int = 14


@dataclass(frozen=True)
class VAEPreset:
    """Sizes of the autoencoder; the defaults are those of Stable Diffusion 1.5.

    Attributes:
        kind: ``kl`` (AutoencoderKL), or ``tiny`` (AutoencoderTiny: neither normalisation nor posterior; learns colours several
            times sooner on a CPU). A tiny one has one width everywhere, and ``layers`` residual blocks per resolution but the
            highest.
    """

    kind: Literal["kl", "tiny"] = "kl"
    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2
    groups: int = 32
    middle_attention: bool = True


@dataclass(frozen=True)
class Preset:
    """Sizes of all networks.

    Attributes:
        picture_size: pixels of a side that it is meant for.
        background: whether the DenoisingNet sees the background.
    """

    name: str
    picture_size: int = 512
    unet: UNetPreset = field(default_factory=UNetPreset)
    pose: PosePreset = field(default_factory=PosePreset)
    image_encoder: ImageEncoderPreset = field(default_factory=ImageEncoderPreset)
    vae: VAEPreset = field(default_factory=VAEPreset)
    background: bool = True


FULL = Preset("full", pose=PosePreset(normalisation="window"))
"""Stable Diffusion 1.5: takes up the weights of AniPortrait or AnimateAnyone."""

DEMO = Preset(
    "demo",
    picture_size=256,
    unet=UNetPreset(channels=(64, 96, 96), layers=1, attention=(True, True, True), heads=4, token_channels=128, groups=16),
    pose=PosePreset(heads=4, head_channels=16, normalisation="frame"),
    image_encoder=ImageEncoderPreset(width=128, hidden=384, layers=4, heads=4, image_size=128, patch_size=16),
    vae=VAEPreset("tiny", channels=(32, 32, 32, 32), layers=2),
)
"""At most 30 MB in half precision; runs on a CPU."""

TINY = Preset(
    "tiny",
    picture_size=64,
    unet=UNetPreset(channels=(8, 16), layers=1, attention=(True, True), heads=2, token_channels=16, groups=4),
    pose=PosePreset(heads=2, head_channels=4, normalisation="frame"),
    image_encoder=ImageEncoderPreset(width=16, hidden=32, layers=1, heads=2, image_size=32, patch_size=16),
    vae=VAEPreset("kl", channels=(4, 4, 8, 8), layers=1, groups=2, middle_attention=False),
)
"""For tests: all parts, no size."""

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (FULL, DEMO, TINY)}


def appearance_net(preset: Preset) -> AppearanceNet:
    """An untrained AppearanceNet."""
    return AppearanceNet(in_channels=4, **_unet(preset))


def denoising_net(preset: Preset, *, motion: bool = True) -> DenoisingNet:
    """An untrained DenoisingNet."""
    return DenoisingNet(in_channels=8 if preset.background else 4, out_channels=4, motion=motion, **_unet(preset))


def pose_guider(preset: Preset) -> PoseGuider | SingleScalePoseGuider:
    """An untrained PoseGuider of the preset's kind."""
    pose, unet = preset.pose, preset.unet
    if pose.scales == "single":
        return SingleScalePoseGuider(unet.channels[0], pose.channels)
    return PoseGuider(unet.channels, pose.heads, pose.head_channels, unet.groups, pose.normalisation)


def image_encoder(preset: Preset) -> ImageEncoder:
    """An untrained ImageEncoder."""
    sizes = preset.image_encoder
    return ImageEncoder(
        CLIPVisionConfig(
            hidden_size=sizes.width,
            intermediate_size=sizes.hidden,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            image_size=sizes.image_size,
            patch_size=sizes.patch_size,
            projection_dim=preset.unet.token_channels,
        )
    ).eval()


def vae(preset: Preset) -> AutoencoderKL | AutoencoderTiny:
    """An untrained autoencoder."""
    sizes = preset.vae
    count = len(sizes.channels)
    if sizes.kind == "tiny":
        lower = (sizes.layers,) * (count - 1)
        return AutoencoderTiny(
            encoder_block_out_channels=sizes.channels,
            decoder_block_out_channels=sizes.channels,
            num_encoder_blocks=(1, *lower),
            num_decoder_blocks=(*lower, 1),
        ).eval()
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * count,
        up_block_types=("UpDecoderBlock2D",) * count,
        block_out_channels=sizes.channels,
        layers_per_block=sizes.layers,
        norm_num_groups=sizes.groups,
        latent_channels=4,
        mid_block_add_attention=sizes.middle_attention,
        sample_size=preset.picture_size,
    ).eval()


def build(preset: Preset, *, seed: int = 0, solver: Solver = "ddim") -> HeadSwapPipeline:
    """A pipeline with untrained weights, the same for the same seed; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HeadSwapPipeline(
            vae(preset),
            image_encoder(preset),
            appearance_net(preset).eval(),
            denoising_net(preset).eval(),
            pose_guider(preset).eval(),
            make_scheduler(solver),
        )


def _unet(preset: Preset) -> dict[str, Any]:
    sizes = preset.unet
    return {
        "channels": sizes.channels,
        "layers": sizes.layers,
        "attention": sizes.attention,
        "heads": sizes.heads,
        "token_channels": sizes.token_channels,
        "groups": sizes.groups,
    }
