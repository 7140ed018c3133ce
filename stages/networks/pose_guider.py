"""PoseGuider: turns drawn landmarks into features that are added to the DenoisingNet (as in the paper).

Two layouts: ``PoseGuider`` has features at every resolution (AniPortrait's layout, the paper's multi-scale features);
``SingleScalePoseGuider`` one feature map at the highest (AnimateAnyone's layout).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn, ones
from torch.nn import functional as F

from stages.networks.attention import SpatialTransformer

Normalisation = Literal["running", "window", "frame"]
"""Statistics of the normalisation at inference: of the training data, of the frames in the window, or of each frame."""


class SingleScalePoseGuider(ModelMixin, ConfigMixin):
    """Eight convolutions down to the resolution of the latents.

    The last begins at zero, so that an untrained guider changes nothing.

    Args:
        out_channels: those of the DenoisingNet at its highest resolution.
        channels: of the convolutions, from full resolution to an eighth.
    """

    value_range = (0.0, 1.0)
    """Of the drawings' pixels."""

    @register_to_config
    def __init__(self, out_channels: int = 320, channels: tuple[int, ...] = (16, 32, 96, 256)) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for width, wider in pairwise(channels):
            self.blocks.append(nn.Conv2d(width, width, 3, padding=1))
            self.blocks.append(nn.Conv2d(width, wider, 3, padding=1, stride=2))
        self.conv_out = nn.Conv2d(channels[-1], out_channels, 3, padding=1)
        _begin_at_zero(self.conv_out)

    def forward(self, drawings: Tensor) -> tuple[Tensor, ...]:
        """``drawings`` [rows, 3, frames, height, width] in 0..1 -> one feature map [rows, channels, frames, h / 8, w / 8]."""
        hidden = F.silu(self.conv_in(_fold(drawings)))
        for convolution in self.blocks:
            hidden = F.silu(convolution(hidden))
        return (_unfold(self.conv_out(hidden), len(drawings)),)


class PoseGuider(ModelMixin, ConfigMixin):
    """Convolutions down to the resolution of the latents, then a step with self-attention per resolution of the DenoisingNet.

    Args:
        channels: of the DenoisingNet, from the highest resolution.
        heads, head_channels: of the self-attention.
        groups: of its GroupNorm.
        normalisation: of the convolutions. ``running``: BatchNorm with the statistics of training. ``window``: BatchNorm with
            the statistics of the frames at hand, which is what AniPortrait's scripts do at inference; the features of a frame
            then depend on the others of its window. ``frame``: GroupNorm of each frame alone.
    """

    value_range = (-1.0, 1.0)
    """Of the drawings' pixels."""

    @register_to_config
    def __init__(
        self,
        channels: tuple[int, ...] = (320, 640, 1280, 1280),
        heads: int = 16,
        head_channels: int = 88,
        groups: int = 32,
        normalisation: Normalisation = "running",
    ) -> None:
        super().__init__()
        # (inputs, outputs, kernel, stride)
        trunk = [(3, 3, 3, 1), (3, 16, 4, 2), (16, 16, 3, 1), (16, 32, 4, 2), (32, 32, 3, 1), (32, 64, 4, 2), (64, 64, 3, 1)]
        self.conv_layers = _convolutions([*trunk, (64, 128, 3, 1)], normalisation)
        self.final_proj = nn.Conv2d(128, channels[0], 1)
        self.scale = nn.Parameter(ones(1) * 2)
        widths = [channels[0], *channels]
        inner = heads * head_channels
        for number, (width, wider) in enumerate(pairwise(widths), 1):
            # The last step keeps the resolution: it belongs to the encoder's last block, which does so as well.
            layers = [(width, width, 3, 1), (width, wider, 3, 2)] if number < len(channels) else [(width, wider, 3, 1)]
            self.add_module(f"conv_layers_{number}", _convolutions(layers, normalisation))
            self.add_module(f"cross_attn{number}", SpatialTransformer(wider, heads, None, groups, inner))
        _begin_at_zero(self.final_proj)

    def forward(self, drawings: Tensor) -> tuple[Tensor, ...]:
        """Features of drawn landmarks.

        Args:
            drawings: [rows, 3, frames, height, width] in -1..1.

        Returns:
            One feature map more than there are resolutions, each [rows, channels, frames, h, w]: at an eighth of the drawing's
            size, then halving until the last two, which have one size.
        """
        rows = len(drawings)
        hidden = self.final_proj(self.conv_layers(_fold(drawings))) * self.scale
        features = [_unfold(hidden, rows)]
        for number in range(1, len(self.config.channels) + 1):
            hidden = self.get_submodule(f"conv_layers_{number}")(hidden)
            hidden, _ = self.get_submodule(f"cross_attn{number}")(hidden)
            features.append(_unfold(hidden, rows))
        return tuple(features)


class _WindowNorm(nn.BatchNorm2d):
    """BatchNorm that uses the statistics of what it sees at inference as well, and does not remember them then."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            return super().forward(input)
        return F.batch_norm(input, None, None, self.weight, self.bias, training=True, eps=self.eps)


def _convolutions(layers: list[tuple[int, int, int, int]], normalisation: Normalisation) -> nn.Sequential:
    modules: list[nn.Module] = []
    for inputs, outputs, kernel, stride in layers:
        modules.append(nn.Conv2d(inputs, outputs, kernel, stride, padding=1))
        if normalisation == "frame":
            modules.append(nn.GroupNorm(1, outputs))
        else:
            modules.append(nn.BatchNorm2d(outputs) if normalisation == "running" else _WindowNorm(outputs))
        modules.append(nn.ReLU(inplace=True))
    return nn.Sequential(*modules)


def _begin_at_zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def _fold(video: Tensor) -> Tensor:
    return video.transpose(1, 2).flatten(0, 1)


def _unfold(pictures: Tensor, rows: int) -> Tensor:
    return pictures.reshape(rows, -1, *pictures.shape[1:]).transpose(1, 2)
