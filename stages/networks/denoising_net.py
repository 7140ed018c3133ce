"""DenoisingNet: predicts the noise (or velocity) of a window of frames under all conditions (as in the paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from stages.networks.attention import KeysValues
from stages.networks.unet import Features, Flow, SpatialUNet, UNetSizes


class DenoisingNet(SpatialUNet, ModelMixin):
    """The UNet that denoises: latents and background latents in, with pose, reference and motion on the way.

    Its state dict has the layout of AniPortrait's and AnimateAnyone's ``denoising_unet``, motion modules included; only
    ``conv_in`` has more input channels, for the background, which begin at zero.

    Args:
        in_channels: latents and background latents, 4 + 4; 4 for a network without a background.
        out_channels: of the prediction.
        motion: whether there are motion modules.
        channels, layers, attention, heads, token_channels, groups: see ``UNetSizes``.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 8,
        out_channels: int = 4,
        channels: tuple[int, ...] = (320, 640, 1280, 1280),
        layers: int = 2,
        attention: tuple[bool, ...] = (True, True, True, False),
        heads: int = 8,
        token_channels: int = 768,
        groups: int = 32,
        motion: bool = True,
    ) -> None:
        super().__init__()
        self._build(in_channels, UNetSizes(tuple(channels), layers, tuple(attention), heads, token_channels, groups, motion))
        self.conv_norm_out = nn.GroupNorm(groups, channels[0], eps=1e-5)
        self.conv_out = nn.Conv2d(channels[0], out_channels, 3, padding=1)
        if in_channels > out_channels:
            nn.init.zeros_(self.conv_in.weight[:, out_channels:])

    @property
    def sees_background(self) -> bool:
        """Whether its weights for the background do anything: they begin at zero."""
        return bool(self.conv_in.weight[:, self.config.out_channels :].any())

    def project_reference(self, features: Features) -> dict[str, KeysValues]:
        """Keys and values of a reference's features in every self-attention: once per source, for all frames and steps."""
        return {place: transformer.block.project(features[place]) for place, transformer in self.transformers()}

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor | int,
        tokens: Tensor,
        pose: Sequence[Tensor] = (),
        reference: Mapping[str, Tensor | KeysValues] | None = None,
        motion: bool = True,
    ) -> Tensor:
        """Predict.

        Args:
            latents: [rows, in_channels, frames, height, width]: noisy latents, then background latents.
            timestep: one for all rows, or [rows].
            tokens: [rows, tokens, token_channels]; zeros in unconditional rows.
            pose: features of the PoseGuider, each [rows or 1, channels, frames, height, width]: the first is added after the
                first convolution (and so to the first skip connection), the others to the outputs of the encoder's blocks,
                beside the skip connections. One, or one more than there are resolutions, or none.
            reference: ``AppearanceNet``'s features, or what ``project_reference`` made of them. They belong to the *last*
                rows; rows before these are unconditional and attend to their own pixels only. None: all rows are.
            motion: False leaves out the motion modules (stage one of training).

        Returns:
            [rows, out_channels, frames, height, width].
        """
        rows, _, frames, height, width = latents.shape
        flow = Flow(self._embed(timestep, rows, frames), tokens, frames, reference or {}, motion)
        if len(pose) not in (0, 1, len(self.down_blocks) + 1):
            raise ValueError(f"{len(pose)} pose features do not fit {len(self.down_blocks)} resolutions")
        hidden = latents.transpose(1, 2).reshape(rows * frames, -1, height, width)
        hidden = self.conv_in(hidden)
        if pose:
            hidden = _add_pose(hidden, pose[0])
        skips = [hidden]
        for level, block in enumerate(self.down_blocks):
            hidden, new = block(hidden, flow)
            skips += new
            if len(pose) > 1:
                hidden = _add_pose(hidden, pose[level + 1])
        hidden = self.mid_block(hidden, flow)
        for block in self.up_blocks:
            hidden = block(hidden, skips, flow)
        hidden = self.conv_out(F.silu(self.conv_norm_out(hidden)))
        return hidden.reshape(rows, frames, -1, height, width).transpose(1, 2)


def _add_pose(hidden: Tensor, pose: Tensor) -> Tensor:
    """Add ``pose`` [rows or 1, channels, frames, height, width] to ``hidden`` [rows * frames, channels, height, width]."""
    frames = pose.shape[2]
    added = hidden.reshape(-1, frames, *hidden.shape[1:]) + pose.transpose(1, 2).to(hidden.dtype)
    return added.reshape(hidden.shape)
