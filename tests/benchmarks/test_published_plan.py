"""The published plan that ours is measured against predicts the same, and costs more."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.published_plan import PublishedPredictor, published_attention
from stages.networks import vae as autoencoder
from stages.networks.conditions import FrameConditions, FrameInputs, Predictor
from stages.networks.image_encoder import reference_tokens, to_unit_range
from stages.networks.sampling import SamplingOptions
from tests.pipelines import random_pipeline

SIZE, FRAMES = 32, 4


def test_the_published_plan_gives_the_same_prediction_with_more_operations() -> None:
    pipeline = random_pipeline(background=False)
    options = SamplingOptions(steps=2, guidance_scale=3.5, window=FRAMES, overlap=0)
    pipeline.scheduler.set_timesteps(options.steps)
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (FRAMES + 1, SIZE, SIZE, 3), dtype=np.uint8)
    given = [FrameConditions(frame, picture, picture) for frame, picture in enumerate(pictures[1:])]
    reference = to_unit_range(pictures[:1], torch.device("cpu"))
    window = tuple(range(FRAMES))
    latents = torch.randn(4, FRAMES, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = reference_tokens(pipeline.image_encoder, reference)
        features, _ = pipeline.appearance_net(autoencoder.encode(pipeline.vae, reference), tokens)
        inputs = FrameInputs(pipeline.vae, pipeline.denoising_net, given, 4)
        ours = Predictor(pipeline, pipeline.prepare_source(pictures[0]), inputs, options)
        with FlopCounterMode(display=False) as cheap:
            expected = ours(window, latents, 0)
        theirs = PublishedPredictor(pipeline, tokens, features, inputs, options)
        with published_attention(), FlopCounterMode(display=False) as dear:
            found = theirs(window, latents, 0)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert dear.get_total_flops() > 1.05 * cheap.get_total_flops()
