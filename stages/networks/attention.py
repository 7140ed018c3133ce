"""Spatial and temporal transformers: where the reference's features, the reference token and the other frames come in.

They are put together from diffusers' ``Attention`` and ``FeedForward``; only what differs from a plain transformer is written
here, so that data flows through arguments and nothing is remembered between calls. Parameter names are those of Stable
Diffusion and AnimateDiff, whose weights therefore load unrenamed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional as F

MAXIMUM_WINDOW = 32
"""Frames; the length of AnimateDiff's table of positions."""


@dataclass(frozen=True, eq=False)
class KeysValues:
    """A reference's features as one self-attention of the DenoisingNet sees them, already projected.

    Attributes:
        keys: [references, tokens, channels].
        values: [references, tokens, channels].
    """

    keys: Tensor
    values: Tensor


class SpatialBlock(nn.Module):
    """Self-attention over the pixels of a frame, cross-attention to the reference token, feed-forward.

    Args:
        channels: width.
        heads: number of attention heads; each is ``channels / heads`` wide.
        token_channels: width of the reference token, or None for a block without cross-attention.
    """

    def __init__(self, channels: int, heads: int, token_channels: int | None) -> None:
        super().__init__()
        width = channels // heads
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads=heads, dim_head=width, bias=False)
        if token_channels is not None:
            self.norm2 = nn.LayerNorm(channels)
            self.attn2 = Attention(channels, cross_attention_dim=token_channels, heads=heads, dim_head=width, bias=False)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, activation_fn="geglu")
        self.has_tokens = token_channels is not None

    def project(self, features: Tensor) -> KeysValues:
        """Keys and values of a reference's features [references, tokens, channels]: the same in every frame and step."""
        return KeysValues(self.attn1.to_k(features), self.attn1.to_v(features))

    def forward(
        self, hidden: Tensor, tokens: Tensor | None, reference: Tensor | KeysValues | None, frames: int
    ) -> tuple[Tensor, Tensor]:
        """One pass.

        Args:
            hidden: [rows * frames, pixels, channels].
            tokens: [rows, tokens, token_channels]; None only in a block without cross-attention.
            reference: features (see ``AppearanceNet``) or their keys and values, of the *last* rows; rows before them attend
                to themselves only.
            frames: per row.

        Returns:
            The new hidden state, and the features that other networks' self-attention can take up: ``norm1(hidden)``.
        """
        features = self.norm1(hidden)
        hidden = hidden + self._attend_to_pixels(features, reference, frames)
        if self.has_tokens:
            if tokens is None:
                raise ValueError("this block needs reference tokens")
            hidden = hidden + self._attend_to_tokens(hidden, tokens, frames)
        return hidden + self.ff(self.norm3(hidden)), features

    def _attend_to_pixels(self, features: Tensor, reference: Tensor | KeysValues | None, frames: int) -> Tensor:
        attention = self.attn1
        query, keys, values = attention.to_q(features), attention.to_k(features), attention.to_v(features)
        if reference is None:
            return _project_out(attention, _scaled_dot_product(query, keys, values, attention.heads))
        seen = reference if isinstance(reference, KeysValues) else self.project(reference)
        # Rows without a reference (the unconditional half under guidance) come first and cost no attention to it.
        alone = len(query) - len(seen.keys) * frames
        joint_keys = torch.cat([keys[alone:], _each_frame(seen.keys, frames)], 1)
        joint_values = torch.cat([values[alone:], _each_frame(seen.values, frames)], 1)
        attended = _scaled_dot_product(query[alone:], joint_keys, joint_values, attention.heads)
        if alone:
            first = _scaled_dot_product(query[:alone], keys[:alone], values[:alone], attention.heads)
            attended = torch.cat([first, attended])
        return _project_out(attention, attended)

    def _attend_to_tokens(self, hidden: Tensor, tokens: Tensor, frames: int) -> Tensor:
        attention = self.attn2
        values = attention.to_v(tokens)
        if tokens.shape[1] == 1:
            # The softmax over a single token is 1 whatever the query: the result is the token's value in every pixel.
            return _each_frame(_project_out(attention, values), frames)
        keys = attention.to_k(tokens)
        attended = _scaled_dot_product(
            attention.to_q(self.norm2(hidden)),
            _each_frame(keys, frames),
            _each_frame(values, frames),
            attention.heads,
        )
        return _project_out(attention, attended)


class SpatialTransformer(nn.Module):
    """A ``SpatialBlock`` on feature maps: GroupNorm, projection in, block, projection out, residual.

    Args:
        channels: of the feature map.
        heads: number of attention heads.
        token_channels: width of the reference token, or None for no cross-attention.
        groups: of the GroupNorm.
        inner_channels: width inside; default ``channels``.
    """

    def __init__(
        self, channels: int, heads: int, token_channels: int | None, groups: int, inner_channels: int | None = None
    ) -> None:
        super().__init__()
        inner = inner_channels or channels
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, inner, 1)
        self.transformer_blocks = nn.ModuleList([SpatialBlock(inner, heads, token_channels)])
        self.proj_out = nn.Conv2d(inner, channels, 1)

    @property
    def block(self) -> SpatialBlock:
        block = self.transformer_blocks[0]
        assert isinstance(block, SpatialBlock)
        return block

    def forward(
        self,
        hidden: Tensor,
        tokens: Tensor | None = None,
        reference: Tensor | KeysValues | None = None,
        frames: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """``hidden`` [rows * frames, channels, height, width]; all else as in ``SpatialBlock``."""
        count, _, height, width = hidden.shape
        inner = self.proj_in(self.norm(hidden))
        inner = inner.permute(0, 2, 3, 1).reshape(count, height * width, -1)
        inner, features = self.block(inner, tokens, reference, frames)
        inner = inner.reshape(count, height, width, -1).permute(0, 3, 1, 2)
        return hidden + self.proj_out(inner), features


class _PositionTable(nn.Module):
    """Sinusoidal positions of the frames in a window; a buffer that travels with the weights, as AnimateDiff's does."""

    pe: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        position = torch.arange(MAXIMUM_WINDOW).float()[:, None]
        frequency = torch.exp(torch.arange(0, channels, 2).float() * (-math.log(10000.0) / channels))
        table = torch.zeros(1, MAXIMUM_WINDOW, channels)
        table[0, :, 0::2] = torch.sin(position * frequency)
        table[0, :, 1::2] = torch.cos(position * frequency)
        self.register_buffer("pe", table)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.pe[:, : hidden.shape[1]].to(hidden.dtype)


class _TemporalAttention(Attention):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, heads=heads, dim_head=channels // heads, bias=False)
        self.pos_encoder = _PositionTable(channels)

    def attend(self, hidden: Tensor) -> Tensor:
        hidden = self.pos_encoder(hidden)
        return _project_out(self, _scaled_dot_product(self.to_q(hidden), self.to_k(hidden), self.to_v(hidden), self.heads))


class _TemporalBlock(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList([_TemporalAttention(channels, heads) for _ in range(2)])
        self.norms = nn.ModuleList([nn.LayerNorm(channels) for _ in range(2)])
        self.ff = FeedForward(channels, activation_fn="geglu")
        self.ff_norm = nn.LayerNorm(channels)

    def forward(self, hidden: Tensor) -> Tensor:
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            assert isinstance(attention, _TemporalAttention)
            hidden = hidden + attention.attend(norm(hidden))
        return hidden + self.ff(self.ff_norm(hidden))


class _TemporalTransformer(nn.Module):
    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([_TemporalBlock(channels, heads)])
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, hidden: Tensor, frames: int) -> Tensor:
        count, channels, height, width = hidden.shape
        rows = count // frames
        # Normalised per frame: what a frame is divided by must not depend on which other frames are in its window.
        inner = self.norm(hidden).reshape(rows, frames, channels, height * width)
        inner = inner.permute(0, 3, 1, 2).reshape(rows * height * width, frames, channels)
        inner = self.proj_out(self.transformer_blocks[0](self.proj_in(inner)))
        inner = inner.reshape(rows, height, width, frames, channels).permute(0, 3, 4, 1, 2)
        return hidden + inner.reshape(count, channels, height, width)


class MotionModule(nn.Module):
    """Temporal attention of every pixel over the frames of a window (AnimateDiff's motion module; paper: MotionModule).

    GroupNorm, projection in, twice self-attention over the frames with sinusoidal positions, feed-forward, projection out,
    residual. The projection out begins at zero: an untrained module changes nothing.

    Args:
        channels: of the feature map.
        heads: number of attention heads.
        groups: of the GroupNorm, whose statistics are those of each frame alone.
    """

    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.temporal_transformer = _TemporalTransformer(channels, heads, groups)
        nn.init.zeros_(self.temporal_transformer.proj_out.weight)
        nn.init.zeros_(self.temporal_transformer.proj_out.bias)

    def forward(self, hidden: Tensor, frames: int) -> Tensor:
        """``hidden`` [rows * frames, channels, height, width], frames of a row in order; at most ``MAXIMUM_WINDOW`` of them."""
        if frames > MAXIMUM_WINDOW:
            raise ValueError(f"a window has at most {MAXIMUM_WINDOW} frames, not {frames}")
        return self.temporal_transformer(hidden, frames)


def _scaled_dot_product(query: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Attention of ``query`` [batch, queries, channels] to ``keys`` and ``values`` [batch, tokens, channels]."""
    batch, queries, channels = query.shape

    def split(tensor: Tensor) -> Tensor:
        return tensor.reshape(batch, -1, heads, channels // heads).transpose(1, 2)

    attended = F.scaled_dot_product_attention(split(query), split(keys), split(values))
    return attended.transpose(1, 2).reshape(batch, queries, channels)


def _each_frame(rows: Tensor, frames: int) -> Tensor:
    """[rows, ...] -> [rows * frames, ...]; of a single row without copying it."""
    return rows[:, None].expand(-1, frames, *rows.shape[1:]).flatten(0, 1)


def _project_out(attention: Attention, hidden: Tensor) -> Tensor:
    projection = attention.to_out[0](hidden)
    assert isinstance(projection, Tensor)
    return projection
