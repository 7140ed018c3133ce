"""The plan of AniPortrait's own inference, on this project's networks: what it computes and throws away, or computes again.

Weights and predictions are the same as the project's own plan's, so that times and operations of the two can be compared at
identical settings. Per window and step: both rows attend to the reference, whose keys and values are projected for every frame;
the unconditional half is then attended once more without it; queries to the single reference token are computed; the PoseGuider
runs on the duplicated frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor

from stages.networks.attention import KeysValues, SpatialBlock, _project_out, _scaled_dot_product
from stages.networks.conditions import FrameInputs, Networks
from stages.networks.sampling import SamplingOptions
from stages.networks.windows import Window


def _attend_to_pixels(self: SpatialBlock, features: Tensor, reference: Tensor | KeysValues | None, frames: int) -> Tensor:
    layer = self.attn1
    if not isinstance(reference, Tensor):
        query, keys, values = layer.to_q(features), layer.to_k(features), layer.to_v(features)
        return _project_out(layer, _scaled_dot_product(query, keys, values, layer.heads))
    joint = torch.cat([features, reference.repeat_interleave(frames, 0)], 1)
    attended = _project_out(layer, _scaled_dot_product(layer.to_q(features), layer.to_k(joint), layer.to_v(joint), layer.heads))
    half = features[: len(features) // 2]
    alone = _scaled_dot_product(layer.to_q(half), layer.to_k(half), layer.to_v(half), layer.heads)
    return torch.cat([_project_out(layer, alone), attended[len(half) :]])


def _attend_to_tokens(self: SpatialBlock, hidden: Tensor, tokens: Tensor, frames: int) -> Tensor:
    layer = self.attn2
    every = tokens.repeat_interleave(frames, 0)
    query, keys, values = layer.to_q(self.norm2(hidden)), layer.to_k(every), layer.to_v(every)
    return _project_out(layer, _scaled_dot_product(query, keys, values, layer.heads))


@contextmanager
def published_attention() -> Iterator[None]:
    """Inside, every spatial transformer computes what the published pipelines' do."""
    with (
        patch.object(SpatialBlock, "_attend_to_pixels", _attend_to_pixels),
        patch.object(SpatialBlock, "_attend_to_tokens", _attend_to_tokens),
    ):
        yield


@dataclass
class PublishedPredictor:
    """Predictions as AniPortrait's pipeline makes them; for ``stages.networks.sampling.denoise``, inside ``published_attention``.

    Attributes:
        networks: the pipeline.
        tokens: of the source, [1, 1, token_channels].
        features: of the source, from the AppearanceNet, one reference each.
        inputs: conditions of the frames.
        options: guidance.
    """

    networks: Networks
    tokens: Tensor
    features: Mapping[str, Tensor]
    inputs: FrameInputs
    options: SamplingOptions

    def __post_init__(self) -> None:
        # Its pipeline, too, has all drawings and the time steps on the device before the first step.
        self._drawings: dict[Window, Tensor] = {}
        self._timesteps = self.networks.scheduler.timesteps.to(self.tokens.device)
        self._dtype, self._pose_dtype = self.networks.denoising_net.dtype, self.networks.pose_guider.dtype

    def __call__(self, window: Window, latents: Tensor, step: int) -> Tensor:
        """See ``stages.networks.conditions.Predictor``."""
        net, guider = self.networks.denoising_net, self.networks.pose_guider
        if window not in self._drawings:
            low, high = guider.value_range
            self._drawings[window] = (self.inputs.drawings(window) * (high - low) + low).to(self._pose_dtype)
        drawings = self._drawings[window]
        pose = guider(drawings.expand(2, *drawings.shape[1:]))
        background = self.inputs.backgrounds(window)
        row = latents.to(self._dtype)
        row = (row if background is None else torch.cat([row, background]))[None]
        both = {place: feature.expand(2, *feature.shape[1:]) for place, feature in self.features.items()}
        tokens = torch.cat([torch.zeros_like(self.tokens), self.tokens])
        timestep = self._timesteps[step]
        without, given = net(row.expand(2, *row.shape[1:]), timestep, tokens, pose, both).float()
        return without + self.options.guidance_scale * (given - without)
