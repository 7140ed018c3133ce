"""AppearanceNet: reads the latents of the reference; its features enter the DenoisingNet's self-attention (as in the paper)."""

from __future__ import annotations

from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from stages.networks.unet import Features, Flow, SpatialUNet, UNetSizes


class AppearanceNet(SpatialUNet, ModelMixin):
    """A UNet of the size of the DenoisingNet without motion and without an output, run once per source.

    Its state dict has the layout of AniPortrait's and AnimateAnyone's ``reference_unet``: that of Stable Diffusion 1.5 without
    ``conv_norm_out`` and ``conv_out``.

    Args:
        in_channels: of the latents.
        channels, layers, attention, heads, token_channels, groups: see ``UNetSizes``.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        channels: tuple[int, ...] = (320, 640, 1280, 1280),
        layers: int = 2,
        attention: tuple[bool, ...] = (True, True, True, False),
        heads: int = 8,
        token_channels: int = 768,
        groups: int = 32,
    ) -> None:
        super().__init__()
        self._build(in_channels, UNetSizes(tuple(channels), layers, tuple(attention), heads, token_channels, groups))

    def forward(self, latents: Tensor, tokens: Tensor, timestep: Tensor | int = 0) -> tuple[Features, Tensor]:
        """Read references.

        Args:
            latents: [references, 4, height, width], scaled VAE latents, without noise.
            tokens: [references, tokens, token_channels], of the ImageEncoder.
            timestep: 0 at inference and in training: the reference carries no noise.

        Returns:
            The input of every spatial self-attention by its place, [references, pixels, channels]; and the last feature map,
            [references, channels, height, width], which nothing in the method uses.
        """
        rows = len(latents)
        features: Features = {}
        flow = Flow(self._embed(timestep, rows, 1), tokens, frames=1, features=features)
        hidden = self.conv_in(latents)
        skips = [hidden]
        for block in self.down_blocks:
            hidden, new = block(hidden, flow)
            skips += new
        hidden = self.mid_block(hidden, flow)
        for block in self.up_blocks:
            hidden = block(hidden, skips, flow)
        return features, hidden
