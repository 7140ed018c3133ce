"""What AppearanceNet and DenoisingNet have in common: the UNet of Stable Diffusion, frames folded into the batch.

Blocks hold residual blocks, spatial transformers and (in the DenoisingNet) motion modules side by side under the names of
Stable Diffusion's and AnimateDiff's state dicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from stages.networks.attention import KeysValues, MotionModule, SpatialTransformer

Features = dict[str, Tensor]
"""Features of a reference by the place of a spatial transformer (``mid_block.attentions.0``): [references, tokens, channels]."""


@dataclass
class Flow:
    """What accompanies a feature map on its way through the blocks.

    Attributes:
        embedding: of the time step, [rows * frames, channels].
        tokens: reference tokens, [rows, tokens, channels].
        frames: per row.
        reference: features, or keys and values, of the last rows, by place; empty: none.
        motion: whether motion modules run.
        features: filled on the way with the network's own, by place. None: not asked for; those of a window take much memory.
    """

    embedding: Tensor
    tokens: Tensor
    frames: int
    reference: Mapping[str, Tensor | KeysValues] = field(default_factory=dict)
    motion: bool = False
    features: Features | None = None


class Block(nn.Module):
    """Layers of one resolution: per layer a residual block, then a spatial transformer, then a motion module, as far as there.

    Args:
        place: name of the block in its network, such as ``down_blocks.0``.
        inputs: channels that enter each layer.
        channels: that leave it.
        config: sizes of the network.
        attention: whether the layers have spatial transformers.
    """

    def __init__(self, place: str, inputs: list[int], channels: int, config: UNetSizes, attention: bool) -> None:
        super().__init__()
        self.place = place
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Tensor] | None = None
        self.resnets = nn.ModuleList(_residual(count, channels, config) for count in inputs)
        if attention:
            self.attentions = nn.ModuleList(_attention(channels, config) for _ in inputs)
        if config.motion:
            self.motion_modules = nn.ModuleList(MotionModule(channels, config.heads, config.groups) for _ in inputs)

    def residual(self, layer: int, hidden: Tensor, flow: Flow) -> Tensor:
        """The residual block of a layer; recomputed in the backward pass where gradient checkpointing is on."""
        return self._run(self.resnets[layer], hidden, flow.embedding)

    def attend(self, layer: int, hidden: Tensor, flow: Flow) -> Tensor:
        """The spatial transformer of a layer, where there is one; leaves its features in ``flow`` where they are asked for."""
        if not hasattr(self, "attentions"):
            return hidden
        place = f"{self.place}.attentions.{layer}"
        hidden, features = self._run(self.attentions[layer], hidden, flow.tokens, flow.reference.get(place), flow.frames)
        if flow.features is not None:
            flow.features[place] = features
        return hidden

    def move(self, layer: int, hidden: Tensor, flow: Flow) -> Tensor:
        """The motion module of a layer, where there is one that is to run."""
        if not flow.motion or not hasattr(self, "motion_modules"):
            return hidden
        return self._run(self.motion_modules[layer], hidden, flow.frames)

    def _run(self, module: nn.Module, *inputs: object) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled() and self._gradient_checkpointing_func is not None:
            return self._gradient_checkpointing_func(module, *inputs)
        return module(*inputs)


class DownBlock(Block):
    """Layers, then half the resolution (except in the last block)."""

    def __init__(
        self, place: str, inputs: int, channels: int, layers: int, config: UNetSizes, attention: bool, last: bool
    ) -> None:
        super().__init__(place, [inputs] + [channels] * (layers - 1), channels, config, attention)
        self.downsamplers = (
            None if last else nn.ModuleList([Downsample2D(channels, use_conv=True, out_channels=channels, padding=1, name="op")])
        )

    def forward(self, hidden: Tensor, flow: Flow) -> tuple[Tensor, list[Tensor]]:
        """The block's output and what it hands to the decoder."""
        skips = []
        for layer in range(len(self.resnets)):
            hidden = self.move(layer, self.attend(layer, self.residual(layer, hidden, flow), flow), flow)
            skips.append(hidden)
        if self.downsamplers is not None:
            hidden = self.downsamplers[0](hidden)
            skips.append(hidden)
        return hidden, skips


class MiddleBlock(Block):
    """Residual block, transformer, motion module, residual block at the lowest resolution."""

    def __init__(self, channels: int, config: UNetSizes) -> None:
        super().__init__("mid_block", [channels, channels], channels, config, attention=False)
        self.attentions = nn.ModuleList([_attention(channels, config)])
        if config.motion:
            self.motion_modules = nn.ModuleList([MotionModule(channels, config.heads, config.groups)])

    def forward(self, hidden: Tensor, flow: Flow) -> Tensor:
        hidden = self.move(0, self.attend(0, self.residual(0, hidden, flow), flow), flow)
        return self.residual(1, hidden, flow)


class UpBlock(Block):
    """Layers that take up the encoder's feature maps, then twice the resolution (except in the last block)."""

    def __init__(self, place: str, inputs: list[int], channels: int, config: UNetSizes, attention: bool, last: bool) -> None:
        super().__init__(place, inputs, channels, config, attention)
        self.upsamplers = None if last else nn.ModuleList([Upsample2D(channels, use_conv=True, out_channels=channels)])

    def forward(self, hidden: Tensor, skips: list[Tensor], flow: Flow) -> Tensor:
        """Takes its layers' skips from the end of ``skips``."""
        for layer in range(len(self.resnets)):
            hidden = torch.cat([hidden, skips.pop()], 1)
            hidden = self.move(layer, self.attend(layer, self.residual(layer, hidden, flow), flow), flow)
        if self.upsamplers is not None:
            # To the size of what comes next: an odd size was rounded up on the way down.
            hidden = self.upsamplers[0](hidden, output_size=tuple(skips[-1].shape[-2:]))
        return hidden


@dataclass(frozen=True)
class UNetSizes:
    """Sizes of a UNet; the defaults are those of Stable Diffusion 1.5.

    Attributes:
        channels: per resolution, from the highest.
        layers: per resolution in the encoder; the decoder has one more.
        attention: per resolution, whether its layers have spatial transformers; the middle always has.
        heads: attention heads.
        token_channels: width of the reference token.
        groups: of every GroupNorm.
        motion: whether there are motion modules.
    """

    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers: int = 2
    attention: tuple[bool, ...] = (True, True, True, False)
    heads: int = 8
    token_channels: int = 768
    groups: int = 32
    motion: bool = False


class SpatialUNet(ModelMixin, ConfigMixin):
    """Encoder, middle and decoder of a UNet; what enters and leaves it is the business of its two heirs.

    Heirs name ``ModelMixin`` as a base once more: diffusers loads a pipeline's component only where its module knows that name.
    """

    _supports_gradient_checkpointing = True

    def _build(self, in_channels: int, sizes: UNetSizes) -> None:
        channels = sizes.channels
        if len(channels) != len(sizes.attention):
            raise ValueError("channels and attention must name the same number of resolutions")
        self.frequencies = Timesteps(channels[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(channels[0], 4 * channels[0])
        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        levels = len(channels)
        self.down_blocks = nn.ModuleList(
            DownBlock(
                f"down_blocks.{level}",
                channels[max(level - 1, 0)],
                channels[level],
                sizes.layers,
                sizes,
                sizes.attention[level],
                last=level == levels - 1,
            )
            for level in range(levels)
        )
        self.mid_block = MiddleBlock(channels[-1], sizes)
        # What the encoder hands over: conv_in, then per level its layers and its lower resolution.
        skips = [channels[0]]
        for level, width in enumerate(channels):
            skips += [width] * (sizes.layers + (level < levels - 1))
        self.up_blocks = nn.ModuleList()
        below = channels[-1]
        for number, level in enumerate(reversed(range(levels))):
            inputs = []
            for _ in range(sizes.layers + 1):
                inputs.append(below + skips.pop())
                below = channels[level]
            self.up_blocks.append(
                UpBlock(f"up_blocks.{number}", inputs, below, sizes, sizes.attention[level], last=number == levels - 1)
            )

    def _embed(self, timestep: Tensor | int, rows: int, frames: int) -> Tensor:
        """Embedding of the time step of every row, per frame: [rows * frames, channels]."""
        steps = torch.as_tensor(timestep, device=self.conv_in.weight.device).reshape(-1).expand(rows)
        embedding: Tensor = self.time_embedding(self.frequencies(steps).to(self.conv_in.weight.dtype))
        return embedding.repeat_interleave(frames, 0)

    def transformers(self) -> Iterator[tuple[str, SpatialTransformer]]:
        """All spatial transformers with their places. Equal places of the two networks belong together."""
        for name, module in self.named_modules():
            if isinstance(module, SpatialTransformer):
                yield name, module


def _residual(inputs: int, channels: int, config: UNetSizes) -> ResnetBlock2D:
    return ResnetBlock2D(
        in_channels=inputs, out_channels=channels, temb_channels=4 * config.channels[0], groups=config.groups, eps=1e-5
    )


def _attention(channels: int, config: UNetSizes) -> SpatialTransformer:
    return SpatialTransformer(channels, config.heads, config.token_channels, config.groups)
